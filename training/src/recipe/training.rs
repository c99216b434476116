//! The `[training]` table of a recipe.

use serde::{Deserialize, Serialize};

use super::{Checkpointing, Precision, Sharding};
use crate::TrainingError;

/// How the learning rate falls after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Along half a cosine to 0.
    #[default]
    Cosine,
    /// Along a line to 0.
    Linear,
    /// Not at all.
    Constant,
}

/// The optimisation: AdamW with decoupled weight decay, gradient accumulation and clipping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingOptions {
    /// Passes over the training rows; may be a fraction. At least one of `epochs` and `max_steps` is given, and
    /// whichever ends first counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Updates of the parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Rows in a micro-batch.
    #[serde(default = "default_batch_size")]
    pub batch_size: usize,
    /// Micro-batches in an update, over all ranks of a distributed run.
    #[serde(default = "default_accumulation")]
    pub gradient_accumulation_steps: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// How it falls after the warm-up.
    #[serde(default)]
    pub schedule: ScheduleKind,
    /// Part of all updates in which the learning rate rises from 0.
    #[serde(default)]
    pub warmup_ratio: f64,
    /// Decoupled weight decay; not applied to norms and biases.
    #[serde(default)]
    pub weight_decay: f64,
    /// Largest global L2 norm of the gradient; 0 = not clipped.
    #[serde(default = "default_max_grad_norm")]
    pub max_grad_norm: f64,
    /// Decay of the running mean of gradients.
    #[serde(default = "default_beta1")]
    pub adam_beta1: f64,
    /// Decay of the running mean of squared gradients.
    #[serde(default = "default_beta2")]
    pub adam_beta2: f64,
    /// Added to the root of the mean squared gradient.
    #[serde(default = "default_epsilon")]
    pub adam_epsilon: f64,
    /// Seed of initial values, order of rows and dropout.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Updates between evaluations on the validation rows; only at the end unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_steps: Option<u64>,
    /// Validation rows used at most, the first ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_samples: Option<usize>,
    /// Whether the parameters of the lowest validation loss are kept rather than the last ones.
    #[serde(default = "yes")]
    pub save_best: bool,
    /// Updates between lines in the log.
    #[serde(default = "default_log_steps")]
    pub log_steps: u64,
    /// Updates between checkpoints; as often as evaluations unless given, or ten times in the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub save_steps: Option<u64>,
    /// Checkpoints kept at most, the best one besides the last ones; the last and the best one unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub save_total_limit: Option<usize>,
    /// Evaluations without a better loss after which the run ends; never unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping_patience: Option<u64>,
    /// By how much a loss must be lower to be better for early stopping.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub early_stopping_threshold: f64,
    /// The type that frozen weights are stored in; as the files store them unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    /// Whether a GPU may round the factors of f32 products to TF32; the processor never does.
    #[serde(default, skip_serializing_if = "is_false")]
    pub tf32: bool,
    /// First loss scale with `precision = "fp16"`.
    #[serde(default = "default_loss_scale", skip_serializing_if = "is_default_loss_scale")]
    pub loss_scale: f64,
    /// How much is kept for the backward pass.
    #[serde(default, skip_serializing_if = "is_auto")]
    pub gradient_checkpointing: Checkpointing,
    /// Whether AdamW's states are kept in pinned host memory, where a GPU reaches them once an update; changes no result, and
    /// nothing on the processor.
    #[serde(default, skip_serializing_if = "is_false")]
    pub paged_optimizer: bool,
    /// Noise on the embeddings (NEFTune); 0 = none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub neftune_noise_alpha: f64,
    /// Whether rows of like length share a batch; the order of batches stays random.
    #[serde(default, skip_serializing_if = "is_false")]
    pub group_by_length: bool,
    /// Whether an update whose loss lies far above those before it is left out. Spikes are counted and logged anyway.
    #[serde(default, skip_serializing_if = "is_false")]
    pub skip_spikes: bool,
    /// Tasks that are evaluated together with the validation rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eval_tasks: Vec<String>,
    /// Most documents of a task of `eval_tasks`; below 1 a fraction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_tasks_limit: Option<f64>,
    /// What ranks of a distributed run share; changes no result.
    #[serde(default, skip_serializing_if = "is_replicated")]
    pub sharding: Sharding,
}

fn is_zero(x: &f64) -> bool {
    *x == 0.0
}

fn is_false(x: &bool) -> bool {
    !x
}

fn is_default_loss_scale(x: &f64) -> bool {
    *x == default_loss_scale()
}

fn is_auto(x: &Checkpointing) -> bool {
    *x == Checkpointing::Auto
}

fn is_replicated(x: &Sharding) -> bool {
    *x == Sharding::None
}

fn default_loss_scale() -> f64 {
    65536.0
}

impl TrainingOptions {
    /// Updates in one epoch of `batches` micro-batches; the last one may have fewer micro-batches than the others.
    pub fn steps_per_epoch(&self, batches: usize) -> u64 {
        batches.div_ceil(self.gradient_accumulation_steps.max(1)) as u64
    }

    /// Updates in the whole run, for epochs of `batches` micro-batches.
    pub fn total_steps(&self, batches: usize) -> u64 {
        let by_epochs = self.epochs.map(|epochs| (self.steps_per_epoch(batches) as f64 * epochs).ceil() as u64);
        match (by_epochs, self.max_steps) {
            (Some(a), Some(b)) => a.min(b),
            (a, b) => a.or(b).unwrap_or(0),
        }
    }

    /// Updates of the warm-up among `total`: ⌈total · warmup_ratio⌉.
    pub fn warmup_steps(&self, total: u64) -> u64 {
        (total as f64 * self.warmup_ratio).ceil() as u64
    }

    /// Fails if the micro-batches of an update cannot be dealt out evenly over this many ranks.
    pub(crate) fn divide(&self, world: usize) -> Result<(), TrainingError> {
        let micro_batches = self.gradient_accumulation_steps;
        if micro_batches.is_multiple_of(world) {
            return Ok(());
        }
        let divisors: Vec<String> =
            (1..=micro_batches).filter(|n| micro_batches.is_multiple_of(*n)).map(|n| n.to_string()).collect();
        let expected = format!(
            "a multiple of the {world} ranks, over which the micro-batches of an update are dealt out; with \
             {micro_batches} the number of ranks can be {}",
            divisors.join(", ")
        );
        Err(TrainingError::setting("training.gradient_accumulation_steps", micro_batches, expected))
    }
}

fn default_batch_size() -> usize {
    8
}

fn default_accumulation() -> usize {
    1
}

fn default_max_grad_norm() -> f64 {
    1.0
}

fn default_beta1() -> f64 {
    0.9
}

fn default_beta2() -> f64 {
    0.999
}

fn default_epsilon() -> f64 {
    1e-8
}

fn default_seed() -> u64 {
    42
}

fn default_log_steps() -> u64 {
    10
}

fn yes() -> bool {
    true
}
