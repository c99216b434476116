//! What an update came to.

use crate::telemetry::LeftOut;

/// One update's figures, over all ranks.
pub(super) struct Update {
    pub(super) loss: f64,
    pub(super) labels: usize,
    pub(super) tokens: usize,
    pub(super) samples: usize,
    pub(super) grad_norm: f64,
    pub(super) learning_rate: f64,
    pub(super) spike: bool,
    pub(super) left_out: Option<LeftOut>,
}
