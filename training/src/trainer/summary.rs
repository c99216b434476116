//! What a run took, and what it will take.

use serde::{Deserialize, Deserializer, Serialize};

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
    #[serde(deserialize_with = "nan_if_null")]
    pub loss: f64,
    /// The lowest validation loss.
    pub best: Option<Best>,
    /// The last validation loss.
    #[serde(default)]
    pub eval_loss: Option<f64>,
    /// Seconds spent on updates by this process.
    pub seconds: f64,
    /// Seconds that an epoch's updates take at this speed.
    #[serde(default)]
    pub epoch_seconds: f64,
    /// Tokens a second of all ranks, evaluation not counted.
    pub tokens_per_second: f64,
    /// Samples a second of all ranks, evaluation not counted.
    #[serde(default)]
    pub samples_per_second: f64,
    /// The most bytes that any rank held at once: weights, parameters with gradients and moments, activations.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Number of ranks.
    #[serde(default)]
    pub world_size: usize,
    /// Losses far above those before.
    #[serde(default)]
    pub spikes: u64,
    /// Updates left out because of overflow or a spike.
    #[serde(default)]
    pub skipped: u64,
    /// Whether the run ended because the validation loss got no better.
    #[serde(default)]
    pub stopped_early: bool,
    /// Whether the run was stopped before its end; it can be resumed.
    pub interrupted: bool,
}

fn nan_if_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
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
