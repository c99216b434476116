//! Why a comparison cannot be computed.

use std::collections::BTreeMap;

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
    /// Whoever watches does not want it any more.
    #[error("the comparison was stopped")]
    Stopped,
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
    #[error("{at} has two tables; give each task and metric once")]
    DuplicateTable {
        /// The task and metric.
        at: Box<Place>,
    },
    /// A table has other models than the first table.
    #[error("{at} has scores of [{found}], expected those of [{expected}] in this order")]
    Models {
        /// The task and metric.
        at: Box<Place>,
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
    #[error("{at}: model `{model}` has two scores for document {doc}")]
    DuplicateDocument {
        /// The task and metric.
        at: Box<Place>,
        /// The model.
        model: String,
        /// The document.
        doc: Box<NamedDocument>,
    },
    /// A score belongs to another metric than its table.
    #[error("{at}: the table holds a score of the metric `{found}` (model `{model}`, document {doc})")]
    OtherMetric {
        /// The task and metric.
        at: Box<Place>,
        /// The metric of the score.
        found: MetricKey,
        /// The model.
        model: String,
        /// The document.
        doc: Box<NamedDocument>,
    },
    /// Two models were not scored on the same documents.
    #[error(
        "{at}: model `{model}` lacks {missing} and has {extra} that `{base}` lacks; evaluate both on the same \
         documents, or use --intersect to compare those they share"
    )]
    Misaligned {
        /// The task and metric.
        at: Box<Place>,
        /// The model that differs.
        model: String,
        /// The first model.
        base: String,
        /// Documents of the first model that this one lacks.
        missing: Documents,
        /// Documents of this model that the first one lacks.
        extra: Documents,
    },
    /// Two models have no document in common.
    #[error(
        "{at}: models `{model}` and `{base}` have no document in common: `{model}` has {theirs}, `{base}` has {ours}; \
         evaluate both on the same data"
    )]
    NothingShared {
        /// The task and metric.
        at: Box<Place>,
        /// The model that differs.
        model: String,
        /// The first model.
        base: String,
        /// Documents of the model.
        theirs: Documents,
        /// Documents of the first model.
        ours: Documents,
    },
    /// A score is NaN or infinite.
    #[error(
        "{at}: model `{model}` has the score {value} for document {doc}; expected finite numbers, \
         score it again"
    )]
    NotFinite {
        /// The task and metric.
        at: Box<Place>,
        /// The model.
        model: String,
        /// The document.
        doc: Box<NamedDocument>,
        /// The offending statistic.
        value: f64,
    },
    /// A score has the wrong number of statistics.
    #[error(
        "{at}: model `{model}` has {found} statistics for document {doc}, expected {expected}; \
         score it again with this version"
    )]
    Width {
        /// The task and metric.
        at: Box<Place>,
        /// The model.
        model: String,
        /// The document.
        doc: Box<NamedDocument>,
        /// How many were found.
        found: usize,
        /// How many the metric has.
        expected: usize,
    },
    /// A document has no cluster although others have.
    #[error("task `{task}`: document {doc} has no cluster although others have; give all or none")]
    NoCluster {
        /// The task.
        task: String,
        /// The document.
        doc: Box<NamedDocument>,
    },
    /// Aligned columns still do not form a table.
    #[error("{at}: {source}")]
    Columns {
        /// The task and metric.
        at: Box<Place>,
        /// Why.
        source: ColumnsError,
    },
}

/// A task and metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The task.
    pub task: String,
    /// The metric.
    pub key: MetricKey,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "task `{}`, metric `{}`", self.task, self.key)
    }
}

/// A document, with the name that its source has for it where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedDocument {
    /// Hash of its content.
    pub id: DocId,
    /// What its source calls it.
    pub label: Option<String>,
}

impl NamedDocument {
    fn labelled(&mut self, labels: &BTreeMap<DocId, String>) {
        self.label = labels.get(&self.id).cloned();
    }
}

impl From<DocId> for NamedDocument {
    fn from(id: DocId) -> Self {
        Self { id, label: None }
    }
}

impl From<DocId> for Box<NamedDocument> {
    fn from(id: DocId) -> Self {
        Self::new(id.into())
    }
}

impl std::fmt::Display for NamedDocument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.label {
            Some(label) => write!(f, "{label:?}"),
            None => f.write_str(&self.id.0.short()),
        }
    }
}

/// A list of documents, of which at most three are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Documents(pub Vec<NamedDocument>);

impl FromIterator<DocId> for Documents {
    fn from_iter<I: IntoIterator<Item = DocId>>(documents: I) -> Self {
        Self(documents.into_iter().map(NamedDocument::from).collect())
    }
}

impl std::fmt::Display for Documents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.len() {
            0 => return write!(f, "no document"),
            1 => write!(f, "1 document")?,
            n => write!(f, "{n} documents")?,
        }
        let shown: Vec<String> = self.0.iter().take(3).map(NamedDocument::to_string).collect();
        write!(f, " ({}{})", shown.join(", "), if self.0.len() > 3 { ", …" } else { "" })
    }
}

impl ComparisonError {
    /// The same error, in which documents have the names of their source.
    #[must_use]
    pub fn with_labels(mut self, labels: &BTreeMap<DocId, String>) -> Self {
        match &mut self {
            Self::DuplicateDocument { doc, .. }
            | Self::OtherMetric { doc, .. }
            | Self::NotFinite { doc, .. }
            | Self::Width { doc, .. }
            | Self::NoCluster { doc, .. } => doc.labelled(labels),
            Self::Misaligned { missing: some, extra: others, .. }
            | Self::NothingShared { theirs: some, ours: others, .. } => {
                some.0.iter_mut().chain(&mut others.0).for_each(|doc| doc.labelled(labels));
            }
            Self::Setting { .. }
            | Self::Stopped
            | Self::Nothing { .. }
            | Self::DuplicateModel(_)
            | Self::DuplicateTable { .. }
            | Self::Models { .. }
            | Self::UnknownFacts { .. }
            | Self::Columns { .. } => {}
        }
        self
    }
}
