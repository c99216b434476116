//! `bits_per_byte`: of whole texts, the logarithm of the perplexity over bytes to the base 2.

use std::sync::Arc;

use serde_json::Value;

use super::{
    Statistic,
    answer::{Logged, Reads},
    byte_perplexity::byte_perplexity_stats,
    definition::Metric,
    formula::{Formula, log_pair, read_pair},
    perplexity::OfTexts,
};
use crate::{scale::Scale, stats::Range};

pub(super) const METRIC: Metric = Metric {
    aggregation: "bits_per_byte",
    logs_pairs: true,
    ..Metric::raw("bits_per_byte", &[Reads::Rolling], |_, _| {
        Ok(Arc::new(OfTexts { statistic: Statistic::BitsPerByte, stats: byte_perplexity_stats }))
    })
};

/// `−Σ log p / Σ bytes / ln 2`.
pub(super) struct BitsPerByte;

impl Formula for BitsPerByte {
    fn value(&self, sums: &[f64]) -> f64 {
        -sums[0] / sums[1] / std::f64::consts::LN_2
    }

    fn range(&self, _: Scale) -> Range {
        Range::at_least(0.0)
    }

    fn scale(&self) -> Option<Scale> {
        Some(Scale::Raw)
    }

    fn logged(&self, document: &Logged<'_>) -> Value {
        log_pair(document)
    }

    fn read(&self, logged: &Value) -> Option<Vec<f64>> {
        read_pair(logged)
    }
}
