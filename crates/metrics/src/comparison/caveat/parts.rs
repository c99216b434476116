//! What caveats are about: counts, rows and differences.

use harness_core::{Irregular, MetricKey};
use serde::{Deserialize, Serialize};

use super::super::{Coverage, Scale, Verdict};

/// The largest difference between two runs of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoiseFloor {
    /// The task.
    pub task: String,
    /// The metric.
    pub key: MetricKey,
    /// What the values are in.
    pub scale: Scale,
    /// Its size.
    pub difference: f64,
}

/// An imported value of 0 behind a filter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ZeroFilter {
    /// The task.
    pub task: String,
    /// The metric and the filter.
    pub key: MetricKey,
    /// The models whose value is 0.
    pub models: Vec<String>,
    /// Whether that is all models.
    pub all: bool,
    /// Another filter behind which the same metric is not 0 for these models, with the largest of their values.
    pub beside: Option<(MetricKey, f64)>,
}

/// A model's results on a part of a benchmark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incomplete {
    /// The task.
    pub task: String,
    /// The model.
    pub model: String,
    /// How much there is.
    pub coverage: Coverage,
}

/// A task or metric that only some models have results of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotShared {
    /// The task.
    pub task: String,
    /// The metric, where it is not the whole task.
    pub key: Option<MetricKey>,
    /// The models that have results of it.
    pub models: Vec<String>,
}

/// A task on which two models gave the same outputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdenticalTask {
    /// The task.
    pub task: String,
    /// Requests answered.
    pub requests: usize,
}

/// Documents left out of one row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// The task.
    pub task: String,
    /// The metric.
    pub key: MetricKey,
    /// Documents used.
    pub used: usize,
    /// Documents left out, by model, where any were.
    pub dropped: Vec<(String, usize)>,
}

/// A row with too few documents; of several candidates the one with the largest detectable difference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Underpowered {
    /// The task.
    pub task: String,
    /// The metric.
    pub key: MetricKey,
    /// The candidate.
    pub model: String,
    /// Documents.
    pub n: usize,
    /// What the row's values are in.
    pub scale: Scale,
    /// Smallest detectable difference; `None` where no difference could have been shown.
    pub detectable: Option<f64>,
    /// The margin in the row's unit.
    pub margin: f64,
    /// About how many documents would show a difference as large as the margin.
    pub needed: Option<u64>,
}

/// A count out of a total.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The task.
    pub task: String,
    /// The metric, where the count belongs to one.
    pub key: Option<MetricKey>,
    /// The model.
    pub model: String,
    /// How many.
    pub count: usize,
    /// Out of how many.
    pub of: usize,
}

/// Answers that are none, for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IrregularShare {
    /// The reason.
    pub reason: Irregular,
    /// How many, of which task and model.
    #[serde(flatten)]
    pub share: Share,
}

/// A task on which outputs of some documents are equal to the last bit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedOutputs {
    /// The task.
    pub task: String,
    /// Documents with equal outputs.
    pub same: usize,
    /// Documents compared.
    pub of: usize,
}

/// A row on which two models have equal scores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SameScores {
    /// The task.
    pub task: String,
    /// The metric.
    pub key: MetricKey,
    /// Documents with equal scores.
    pub same: usize,
    /// Documents compared.
    pub of: usize,
}

/// Some documents of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedDocuments {
    /// The task.
    pub task: String,
    /// The model, where it is about its answers.
    pub model: Option<String>,
    /// Their positions in the evaluated split, from 0.
    pub documents: Vec<usize>,
}

/// Something that was not the same for all models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DifferentCondition {
    /// What, e.g. `prompts` or `dtype`.
    pub what: String,
    /// The task, where it belongs to one.
    pub task: Option<String>,
    /// The models with what they had.
    pub values: Vec<(String, String)>,
}

/// A difference that turns with the filter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FilterConflict {
    /// The task.
    pub task: String,
    /// The candidate.
    pub model: String,
    /// What the values are in.
    pub scale: Scale,
    /// The metric behind two filters.
    pub filters: [MetricKey; 2],
    /// The differences to the base.
    pub differences: [f64; 2],
    /// The verdicts.
    pub verdicts: [Verdict; 2],
}

/// Two candidates whose recipes differ in more than one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confounded {
    /// The candidates.
    pub models: [String; 2],
    /// Whether their names say what else differs.
    pub claimed: bool,
    /// What differs beyond that: name, value of the first, value of the second.
    pub differences: Vec<(String, String, String)>,
}

/// Documents of a row that a candidate was trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeenDocuments {
    /// The task.
    pub task: String,
    /// The metric.
    pub key: MetricKey,
    /// The candidate.
    pub model: String,
    /// What the values are in.
    pub scale: Scale,
    /// Documents whose whole text stands in a training row.
    pub exact: usize,
    /// Further documents of which 13 words in a row do.
    pub ngram: usize,
    /// Documents of the row.
    pub of: usize,
    /// The difference to the base over all documents.
    pub difference: Option<f64>,
    /// The difference over the other documents; `None` where there are none.
    pub clean: Option<f64>,
}

/// A difference below the noise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BelowNoise {
    /// The task.
    pub task: String,
    /// The metric.
    pub key: MetricKey,
    /// The candidate.
    pub model: String,
    /// What the values are in.
    pub scale: Scale,
    /// The difference.
    pub difference: f64,
    /// The noise floor.
    pub noise: f64,
}
