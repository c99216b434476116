//! The score of one document under one metric.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::DocId;

/// A metric as computed behind a filter pipeline, e.g. `exact_match,strict-match`; lm-eval's result keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MetricKey {
    /// Name of the metric, e.g. `acc_norm`.
    pub metric: String,
    /// Name of the filter pipeline, `none` where there is none.
    pub filter: String,
}

impl MetricKey {
    /// A key from its two parts.
    pub fn new(metric: impl Into<String>, filter: impl Into<String>) -> Self {
        Self { metric: metric.into(), filter: filter.into() }
    }
}

impl fmt::Display for MetricKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.metric, self.filter)
    }
}

/// The score of one document under one metric, as additive sufficient statistics.
///
/// Every aggregate this project reports is a function of the *sum* of these vectors over documents: a mean keeps
/// `[value, 1]`, a perplexity `[Σ log p, count]`, corpus BLEU its n-gram counts and lengths. So resampling documents
/// is a weighted sum, whatever the metric. Which function it is, the metric's `Statistic` (harness-metrics) says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleScore {
    /// The document.
    pub doc: DocId,
    /// The metric and the filter before it.
    pub key: MetricKey,
    /// The additive statistics; their number and order are fixed by the metric.
    pub stats: Vec<f64>,
    /// False where no answer could be extracted from the response (the fallback of a filter, an empty verdict).
    pub parsed: bool,
}
