//! What a language model answered.

use serde::{Deserialize, Serialize};

/// The answer to one [`crate::Request`]; lossless, so that every score can be computed again from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// The answer itself.
    pub output: Output,
    /// Token counts.
    pub usage: Usage,
}

/// The answer by kind of request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Output {
    /// Answer to [`crate::Request::LogLikelihood`].
    #[serde(rename = "loglikelihood")]
    LogLikelihood {
        /// Σ log p(token), natural logarithm.
        logprob: f64,
        /// Whether every scored token was the most probable one.
        is_greedy: bool,
        /// The token ids that were scored.
        token_ids: Vec<u32>,
        /// Log-probability of each scored token.
        token_logprobs: Vec<f32>,
    },
    /// Answer to [`crate::Request::RollingLogLikelihood`].
    #[serde(rename = "loglikelihood_rolling")]
    RollingLogLikelihood {
        /// Σ log p(token) over all windows, natural logarithm.
        logprob: f64,
        /// Number of tokens scored.
        tokens: usize,
    },
    /// Answer to [`crate::Request::Generate`].
    #[serde(rename = "generate_until")]
    Text {
        /// The generated text, cut before the first stop string.
        text: String,
        /// All generated token ids, before cutting.
        token_ids: Vec<u32>,
        /// Log-probability of each generated token under the model, before temperature and filters.
        token_logprobs: Vec<f32>,
        /// Why the generation ended.
        finish: Finish,
        /// For every generated token the most probable tokens, best first, where the request asked for them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        top_logprobs: Vec<Vec<TopLogprob>>,
    },
}

/// A token that could have been generated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopLogprob {
    /// Its text.
    pub token: String,
    /// Its log-probability under the model, before temperature and filters.
    pub logprob: f32,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The end-of-sequence token.
    EndOfSequence,
    /// A stop string, or the end of the request's pattern.
    Stop,
    /// The limit on new tokens, or the model's context length.
    Length,
}

/// Token counts of one response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the context or prompt, before truncation.
    pub prompt_tokens: usize,
    /// Tokens scored or generated.
    pub completion_tokens: usize,
    /// Context tokens dropped on the left because the model's context was too short.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub truncated_tokens: usize,
    /// Whether tokenising context and continuation together moved the boundary between them (a merge crossed it).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub boundary_shifted: bool,
    /// Whether the first token of a text that was to be scored whole is left out, because it stands after nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub first_unscored: bool,
}

fn is_zero(value: &usize) -> bool {
    *value == 0
}
