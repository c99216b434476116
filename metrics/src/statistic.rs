//! How the summed statistics of documents become one number.

use serde::{Deserialize, Serialize};

/// The function from summed per-document statistics to the reported value.
///
/// A document contributes a vector of [`Statistic::dim`] numbers (`SampleScore::stats`); the value of any set of
/// documents is [`Statistic::value`] of the sum of their vectors. Bootstrap, permutation and cluster resampling all
/// work on those sums alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Statistic {
    /// Arithmetic mean; stats `[value, 1]`.
    Mean,
    /// `exp(−Σ log p / Σ count)`; stats `[Σ log p, count]` with tokens, words or bytes as the count.
    Perplexity,
    /// `−Σ log p / Σ bytes / ln 2`; stats `[Σ log p, bytes]`.
    BitsPerByte,
}

impl Statistic {
    /// Number of statistics a document contributes.
    pub fn dim(&self) -> usize {
        match self {
            Self::Mean | Self::Perplexity | Self::BitsPerByte => 2,
        }
    }

    /// The value of a set of documents from their summed statistics; NaN for no documents.
    pub fn value(&self, sums: &[f64]) -> f64 {
        match self {
            Self::Mean => sums[0] / sums[1],
            Self::Perplexity => (-sums[0] / sums[1]).exp(),
            Self::BitsPerByte => -sums[0] / sums[1] / std::f64::consts::LN_2,
        }
    }
}
