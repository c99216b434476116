//! Correcting a judge with gold labels on a part of the items.

use harness_metrics::stats::{Interval, distribution::student_t_quantile, mean, variance};
use serde::{Deserialize, Serialize};

use crate::{JudgesError, Result};

/// A mean over all items, judged everywhere and labelled on some.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PredictionPowered {
    /// The corrected mean.
    pub value: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// Its interval.
    pub interval: Interval,
    /// How much the judge is relied on: 0 leaves the labels alone, 1 takes judge plus mean error.
    pub lambda: f64,
    /// Mean of gold less judge on the labelled items.
    pub rectifier: f64,
    /// The mean of the labels alone, for comparison.
    pub labels_only: f64,
    /// The mean of the judge alone.
    pub judge_only: f64,
    /// Items with a label.
    pub labelled: usize,
    /// Items without one.
    pub unlabelled: usize,
}

/// Prediction-powered inference for a mean (Angelopoulos et al. 2023, arXiv:2301.09633; the weight λ that makes the
/// variance smallest: Angelopoulos, Duchi and Zrnic 2023, arXiv:2311.01453): mean gold on the labelled items plus
/// λ·(mean judge on the others − mean judge on the labelled). Unbiased whatever the judge's bias, provided that the
/// labelled items were drawn at random. The quantile is Student's with labels − 1 degrees of freedom.
///
/// `labelled` has (judge, gold) of the labelled items, `unlabelled` the judge's values of the others.
///
/// # Errors
/// [`JudgesError::Statistics`] for fewer than two labelled items.
pub fn prediction_powered(labelled: &[(f64, f64)], unlabelled: &[f64], confidence: f64) -> Result<PredictionPowered> {
    let n = labelled.len();
    if n < 2 {
        let what = format!("the correction needs gold labels on at least 2 items, found {n}");
        return Err(JudgesError::Statistics { what });
    }
    let judge: Vec<f64> = labelled.iter().map(|(judge, _)| *judge).collect();
    let gold: Vec<f64> = labelled.iter().map(|(_, gold)| *gold).collect();
    let m = unlabelled.len();
    let all: Vec<f64> = judge.iter().chain(unlabelled).copied().collect();
    let (judge_mean, gold_mean) = (mean(&judge), mean(&gold));
    let covariance: f64 =
        labelled.iter().map(|(j, g)| (j - judge_mean) * (g - gold_mean)).sum::<f64>() / (n - 1) as f64;
    let spread = variance(&all);
    let lambda = if m == 0 || spread == 0.0 || spread.is_nan() {
        0.0
    } else {
        (covariance / ((1.0 + n as f64 / m as f64) * spread)).clamp(0.0, 1.0)
    };
    let rest: Vec<f64> = labelled.iter().map(|(j, g)| g - lambda * j).collect();
    let unlabelled_mean = if m == 0 { 0.0 } else { mean(unlabelled) };
    let value = mean(&rest) + lambda * unlabelled_mean;
    let unlabelled_part = if m < 2 || lambda == 0.0 { 0.0 } else { lambda * lambda * variance(unlabelled) / m as f64 };
    let standard_error = (variance(&rest) / n as f64 + unlabelled_part).sqrt();
    let reach = student_t_quantile(0.5 + confidence / 2.0, (n - 1) as f64) * standard_error;
    Ok(PredictionPowered {
        value,
        standard_error,
        interval: Interval { low: value - reach, high: value + reach },
        lambda,
        rectifier: gold_mean - judge_mean,
        labels_only: gold_mean,
        judge_only: mean(&all),
        labelled: n,
        unlabelled: m,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_bias_is_removed() {
        // The judge is the gold label plus 0.2, with a little noise.
        let gold = |i: usize| ((i * 37) % 101) as f64 / 100.0;
        let noise = |i: usize| ((i * 53) % 11) as f64 / 100.0 - 0.05;
        let labelled: Vec<(f64, f64)> = (0..101).map(|i| (gold(i) + 0.2 + noise(i), gold(i))).collect();
        let unlabelled: Vec<f64> = (101..1111).map(|i| gold(i) + 0.2 + noise(i)).collect();
        let found = prediction_powered(&labelled, &unlabelled, 0.95).unwrap();
        assert!((found.value - 0.5).abs() < 0.01 && (found.judge_only - 0.7).abs() < 0.01, "{found:?}");
        let labels = 1.98 * (variance(&labelled.iter().map(|p| p.1).collect::<Vec<_>>()) / 101.0).sqrt();
        assert!(found.interval.half_width() < 0.5 * labels, "{found:?} against {labels} with labels alone");
        assert!(found.lambda > 0.8);
    }

    #[test]
    fn without_unlabelled_items_it_is_the_mean_of_the_labels() {
        let found = prediction_powered(&[(0.0, 1.0), (1.0, 0.0), (1.0, 1.0)], &[], 0.95).unwrap();
        assert_eq!((found.value, found.lambda), (found.labels_only, 0.0));
        assert!(prediction_powered(&[(0.0, 1.0)], &[0.5], 0.95).is_err());
    }
}
