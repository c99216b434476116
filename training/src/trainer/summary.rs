//! What a run took, and what it will take.

use serde::{Deserialize, Serialize};

use crate::checkpoint::Best;

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingSummary {
    /// Updates done.
    pub steps: u64,
    /// Updates planned.
    pub total_steps: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Number of trained parameters.
    pub trainable_parameters: usize,
    /// Mean loss over the labels of the last update; NaN (null in JSON) if this process did none.
    pub loss: f64,
    /// The lowest validation loss.
    pub best: Option<Best>,
    /// Seconds spent on updates by this process.
    pub seconds: f64,
    /// Tokens a second of this process, evaluation not counted.
    pub tokens_per_second: f64,
    /// Whether the run was stopped before its end; it can be resumed.
    pub interrupted: bool,
}

/// What a run will take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Updates.
    pub steps: u64,
    /// Those of the warm-up.
    pub warmup_steps: u64,
    /// Passes over the training rows.
    pub epochs: f64,
    /// Tokens in all.
    pub tokens: u64,
    /// Number of trained parameters.
    pub trainable_parameters: usize,
    /// Number of the base model's parameters.
    pub parameters: usize,
    /// Bytes held at most while the first update was computed: weights, parameters with their gradients and moments,
    /// saved activations.
    pub memory_bytes: usize,
    /// Tokens a second, measured on the first update.
    pub tokens_per_second: f64,
    /// Seconds for all updates, evaluation not counted.
    pub seconds: f64,
}
