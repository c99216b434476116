//! `byte_perplexity`: of whole texts, over their bytes of UTF-8.

use std::sync::Arc;

use super::{Statistic, answer::Reads, definition::Metric, perplexity::OfTexts};

pub(super) const METRIC: Metric = Metric {
    aggregation: "weighted_perplexity",
    logs_pairs: true,
    ..Metric::raw("byte_perplexity", &[Reads::Rolling], |_, _| {
        Ok(Arc::new(OfTexts { statistic: Statistic::Perplexity, stats: byte_perplexity_stats }))
    })
};

/// Statistics for `byte_perplexity` and `bits_per_byte`: `[log p, UTF-8 bytes]`.
pub fn byte_perplexity_stats(loglikelihood: f64, text: &str) -> Vec<f64> {
    vec![loglikelihood, text.len() as f64]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_model_over_bytes_has_eight_bits_per_byte() {
        let ll = |text: &str| -(text.len() as f64) * 256f64.ln();
        let sums = Statistic::BitsPerByte.sum(["abc", "defgh"].map(|text| byte_perplexity_stats(ll(text), text)));
        assert!((Statistic::BitsPerByte.value(&sums) - 8.0).abs() < 1e-12);
        assert!((Statistic::Perplexity.value(&sums) - 256.0).abs() < 1e-9);
    }
}
