//! The input: aligned scores of one task under one metric.

use std::collections::BTreeMap;

use harness_core::{DocId, MetricKey, SampleScore};
use serde::{Deserialize, Serialize};

use super::Place;
use crate::{Statistic, scale::Scale, stats::Range};

/// Groups of at least this many tasks take their tasks as clusters: their documents are drawn in blocks. The tasks of
/// smaller groups are too few to be a sample of tasks; they are taken as they are.
pub const CLUSTERED_GROUP: usize = 10;

/// The scores of all models on one task under one metric. A group (mmlu, its categories) is a table over the pooled
/// documents of its tasks, with [`Table::pooled`] set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Task or group id, e.g. `mmlu_anatomy`.
    pub task: String,
    /// Name to show; the id where `None`.
    #[serde(default)]
    pub alias: Option<String>,
    /// The group directly above, if any.
    #[serde(default)]
    pub group: Option<String>,
    /// Depth below the top: 0 for a task or group asked for by name, 1 for its members, and so on.
    #[serde(default)]
    pub depth: usize,
    /// Whether this is a group over pooled documents that also have rows of their own.
    #[serde(default)]
    pub pooled: bool,
    /// Metric and filter.
    pub key: MetricKey,
    /// How summed statistics become the value.
    pub statistic: Statistic,
    /// Whether larger values are better.
    pub higher_is_better: bool,
    /// What the values are in, and what the margin means.
    pub scale: Scale,
    /// Whether this is the task's main metric; its p-values form the main family.
    pub primary: bool,
    /// One column a model, base first; the same models in the same order in every table.
    pub columns: Vec<Column>,
    /// Cluster of documents that are dependent (questions on one passage); empty for independent documents.
    /// Either empty or complete.
    #[serde(default)]
    pub clusters: BTreeMap<DocId, String>,
    /// The largest change of the value of any model, in the metric's unit, when a part of the documents was scored
    /// again in another batch, order or type, scaled to all documents; `None` where this was not tried.
    #[serde(default)]
    pub noise: Option<f64>,
    /// What a document's score can be, for means of scores that are neither fractions nor points (a judge's marks).
    #[serde(default)]
    pub range: Option<Range>,
    /// Whether the scores are a judge's verdicts: one that could not be read is no wrong answer, and what the judging
    /// found out about itself says it.
    #[serde(default)]
    pub judged: bool,
}

impl Table {
    /// The main metric of one task as a mean over documents of fractions between 0 and 1, better where larger.
    pub fn new(task: impl Into<String>, key: MetricKey, columns: Vec<Column>) -> Self {
        Self {
            task: task.into(),
            alias: None,
            group: None,
            depth: 0,
            pooled: false,
            key,
            statistic: Statistic::Mean,
            higher_is_better: true,
            scale: Scale::Fraction,
            primary: true,
            columns,
            clusters: BTreeMap::new(),
            noise: None,
            range: None,
            judged: false,
        }
    }

    /// The values that the metric can have, if none of the scores says otherwise.
    pub(super) fn range(&self) -> Range {
        let range = self.range.unwrap_or_else(|| self.statistic.range(self.scale));
        // Tasks from elsewhere call metrics fractions that are not; and estimates corrected by others can lie outside.
        let mean = self.statistic.is_mean();
        let own = self.columns.iter().filter(|_| mean).flat_map(|column| &column.scores);
        let known = self.columns.iter().filter_map(|column| column.aggregate.map(|known| known.value));
        let mut values =
            own.map(|score| self.statistic.value(&score.stats)).chain(known).filter(|value| value.is_finite());
        if values.all(|value| range.contains(value)) { range } else { Range::UNBOUNDED }
    }

    /// Its task and metric, for errors.
    pub(super) fn place(&self) -> Box<Place> {
        Box::new(Place { task: self.task.clone(), key: self.key.clone() })
    }
}

/// The scores of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Name of the model.
    pub model: String,
    /// One score a document, in any order.
    pub scores: Vec<SampleScore>,
    /// Whether several scores of one document are repeats, which are averaged; otherwise they are an error.
    #[serde(default)]
    pub repeated: bool,
    /// What is known where there are no scores of documents: the column is then compared unpaired.
    #[serde(default)]
    pub aggregate: Option<Aggregate>,
}

impl Column {
    /// One score a document.
    pub fn new(model: impl Into<String>, scores: Vec<SampleScore>) -> Self {
        Self { model: model.into(), scores, repeated: false, aggregate: None }
    }
}

/// A value of which the documents are not known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Aggregate {
    /// The value, in the metric's unit.
    pub value: f64,
    /// Its standard error, if it is known.
    pub standard_error: Option<f64>,
    /// Number of documents, if it is known.
    pub n: Option<usize>,
}
