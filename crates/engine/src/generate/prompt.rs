//! What is continued, and how it went on.

use std::sync::Arc;

use harness_core::{Finish, Sampling, TopLogprob};

use super::{draft::Draft, pattern::Pattern, thinking::ThinkEnd};

/// One prompt in tokens and how to go on from it.
#[derive(Clone, Debug)]
pub(crate) struct Prompt {
    /// Which of the models goes on from it.
    pub(crate) model: usize,
    pub(crate) tokens: Vec<u32>,
    pub(crate) stop: Vec<String>,
    pub(crate) sampling: Sampling,
    /// What the whole text must match.
    pub(crate) pattern: Option<Arc<Pattern>>,
    /// How the model thinks before it answers.
    pub(crate) thinking: Option<ThinkEnd>,
    /// Whether log-probabilities of its own tokens are wanted, and how many of the likeliest at every place.
    pub(crate) scored: Option<usize>,
    /// Answers to it that are known, of other models or of former samples.
    pub(crate) known: Vec<Arc<Draft>>,
}

/// What the model thinks of a token that was given: its log-probability, and the likeliest tokens in its place.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Given {
    pub(crate) logprob: f32,
    pub(crate) top: Vec<(u32, f32)>,
}

impl Prompt {
    /// Positions that prompt and text take at most.
    pub(crate) fn positions(&self) -> usize {
        self.tokens.len() + self.sampling.max_new_tokens
    }
}

/// A finished generation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Generated {
    /// All new tokens, the end-of-sequence token included.
    pub(crate) token_ids: Vec<u32>,
    pub(crate) token_logprobs: Vec<f32>,
    /// Decoded text before the first stop string, that of its answer where the model thinks.
    pub(crate) text: String,
    pub(crate) finish: Finish,
    /// The likeliest tokens at every place, where they were asked for.
    pub(crate) top_logprobs: Vec<Vec<TopLogprob>>,
}
