//! Why a comparison cannot be computed.

use harness_core::{DocId, MetricKey};

use crate::stats::ColumnsError;

/// Why a comparison cannot be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ComparisonError {
    /// A setting is out of range.
    #[error("{name} is {value}, expected {expected}")]
    Setting {
        /// Name of the setting.
        name: &'static str,
        /// What was found.
        value: f64,
        /// What is possible.
        expected: &'static str,
    },
    /// There is no table, or a table has no column.
    #[error("nothing to compare: {what}; evaluate at least one model on at least one task")]
    Nothing {
        /// What is missing.
        what: String,
    },
    /// A model's name occurs twice.
    #[error("the model name `{0}` occurs twice; give each model its own name")]
    DuplicateModel(String),
    /// Two tables have the same task and metric.
    #[error("task `{task}` has two tables for the metric `{key}`; give each task and metric once")]
    DuplicateTable {
        /// The task.
        task: String,
        /// The metric.
        key: MetricKey,
    },
    /// A table has other models than the first table.
    #[error("task `{task}`, metric `{key}` has scores of [{found}], expected those of [{expected}] in this order")]
    Models {
        /// The task.
        task: String,
        /// The metric.
        key: MetricKey,
        /// Its models.
        found: String,
        /// Those of the first table.
        expected: String,
    },
    /// Facts are given for a model that is not compared.
    #[error("facts are given for the model `{found}`, which is not compared; the models are [{expected}]")]
    UnknownFacts {
        /// The name.
        found: String,
        /// The models.
        expected: String,
    },
    /// A model has two scores for one document.
    #[error("task `{task}`, metric `{key}`: model `{model}` has two scores for document {}", .doc.0.short())]
    DuplicateDocument {
        /// The task.
        task: String,
        /// The metric.
        key: MetricKey,
        /// The model.
        model: String,
        /// The document.
        doc: DocId,
    },
    /// A score belongs to another metric than its table.
    #[error(
        "task `{task}`: the table of `{key}` holds a score of `{found}` (model `{model}`, document {})", .doc.0.short()
    )]
    OtherMetric {
        /// The task.
        task: String,
        /// The metric of the table.
        key: MetricKey,
        /// The metric of the score.
        found: MetricKey,
        /// The model.
        model: String,
        /// The document.
        doc: DocId,
    },
    /// Two models were not scored on the same documents.
    #[error(
        "task `{task}`, metric `{key}`: model `{model}` lacks {missing} and has {extra} that `{base}` has not; evaluate \
         both on the same documents, or ask for the documents they share"
    )]
    Misaligned {
        /// The task.
        task: String,
        /// The metric.
        key: MetricKey,
        /// The model that differs.
        model: String,
        /// The first model.
        base: String,
        /// Documents of the first model that this one lacks.
        missing: Documents,
        /// Documents of this model that the first one lacks.
        extra: Documents,
    },
    /// A score is NaN or infinite.
    #[error(
        "task `{task}`, metric `{key}`: model `{model}` has the score {value} for document {}; expected finite numbers, \
         score it again", .doc.0.short()
    )]
    NotFinite {
        /// The task.
        task: String,
        /// The metric.
        key: MetricKey,
        /// The model.
        model: String,
        /// The document.
        doc: DocId,
        /// The offending statistic.
        value: f64,
    },
    /// A score has the wrong number of statistics.
    #[error(
        "task `{task}`, metric `{key}`: model `{model}` has {found} statistics for document {}, expected {expected}; \
         score it again with this version", .doc.0.short()
    )]
    Width {
        /// The task.
        task: String,
        /// The metric.
        key: MetricKey,
        /// The model.
        model: String,
        /// The document.
        doc: DocId,
        /// How many were found.
        found: usize,
        /// How many the metric has.
        expected: usize,
    },
    /// A document has no cluster although others have.
    #[error("task `{task}`: document {} has no cluster although others have; give all or none", .doc.0.short())]
    NoCluster {
        /// The task.
        task: String,
        /// The document.
        doc: DocId,
    },
    /// Aligned columns still do not form a table.
    #[error("task `{task}`, metric `{key}`: {source}")]
    Columns {
        /// The task.
        task: String,
        /// The metric.
        key: MetricKey,
        /// Why.
        source: ColumnsError,
    },
}

/// A list of documents, of which at most three are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Documents(pub Vec<DocId>);

impl std::fmt::Display for Documents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.len() {
            0 => return write!(f, "no document"),
            1 => write!(f, "1 document")?,
            n => write!(f, "{n} documents")?,
        }
        let shown: Vec<String> = self.0.iter().take(3).map(|doc| doc.0.short()).collect();
        write!(f, " ({}{})", shown.join(", "), if self.0.len() > 3 { ", …" } else { "" })
    }
}
