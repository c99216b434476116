//! One request as a call.

use harness_core::Request;

use crate::{LikelihoodApi, answer::Call, events::Hear, rolling::Window};

/// One request as a call, with what is needed to read its answer.
pub(crate) struct Job<'a> {
    pub(crate) call: Call,
    pub(crate) request: &'a Request,
    /// Position of the request.
    pub(crate) index: usize,
    pub(crate) api: Option<LikelihoodApi>,
    /// The part of the request's text that is asked for, where it is too long for one call.
    pub(crate) window: Option<Window>,
    /// Who hears of its text as it comes.
    pub(crate) heard: Option<Hear<'a>>,
}
