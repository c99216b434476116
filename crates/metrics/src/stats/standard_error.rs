//! Means and their standard errors, with and without clusters.

use std::collections::BTreeMap;

/// Arithmetic mean; NaN for no values.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Sample variance with n − 1 in the denominator; NaN below two values.
pub fn variance(values: &[f64]) -> f64 {
    let centre = mean(values);
    let squares: f64 = values.iter().map(|x| (x - centre).powi(2)).sum();
    if values.len() < 2 { f64::NAN } else { squares / (values.len() - 1) as f64 }
}

/// Sample standard deviation with n − 1 in the denominator; NaN below two values.
pub fn standard_deviation(values: &[f64]) -> f64 {
    variance(values).sqrt()
}

/// Standard error of a mean by the central limit theorem, s/√n; NaN below two values.
pub fn mean_standard_error(values: &[f64]) -> f64 {
    (variance(values) / values.len() as f64).sqrt()
}

/// Standard error of a proportion, √(p(1−p)/n).
pub fn bernoulli_standard_error(proportion: f64, n: usize) -> f64 {
    (proportion * (1.0 - proportion) / n as f64).sqrt()
}

/// Correction for few clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterCorrection {
    /// None: √(Σ_c (Σ_{i∈c} e_i)²)/n (Miller 2024, arXiv:2411.00640).
    Cr0,
    /// Variance times G/(G−1)·(n−1)/(n−1), as regression software does for a constant alone.
    Cr1,
}

/// Standard error of a mean when values of one cluster are dependent; NaN for no values, for unequal lengths, and for
/// one cluster under [`ClusterCorrection::Cr1`].
pub fn clustered_standard_error<L: Ord>(values: &[f64], clusters: &[L], correction: ClusterCorrection) -> f64 {
    if values.len() != clusters.len() {
        return f64::NAN;
    }
    let centre = mean(values);
    let mut sums: BTreeMap<&L, f64> = BTreeMap::new();
    for (value, cluster) in values.iter().zip(clusters) {
        *sums.entry(cluster).or_default() += value - centre;
    }
    let n = values.len() as f64;
    let groups = sums.len() as f64;
    let variance = sums.values().map(|sum| sum * sum).sum::<f64>() / (n * n);
    match correction {
        ClusterCorrection::Cr0 => variance.sqrt(),
        ClusterCorrection::Cr1 if sums.len() < 2 => f64::NAN,
        ClusterCorrection::Cr1 => (variance * groups / (groups - 1.0)).sqrt(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_a_cluster_is_the_ordinary_error() {
        let values = [0.3, 1.2, -0.4, 2.2];
        let clustered = clustered_standard_error(&values, &[0, 1, 2, 3], ClusterCorrection::Cr1);
        assert!((clustered - mean_standard_error(&values)).abs() < 1e-15);
    }

    #[test]
    fn nothing_to_compute_is_nan() {
        assert!(mean(&[]).is_nan() && mean_standard_error(&[1.0]).is_nan());
        assert!(clustered_standard_error(&[1.0, 2.0], &[0, 0], ClusterCorrection::Cr1).is_nan());
        assert!(clustered_standard_error(&[1.0], &[0, 0], ClusterCorrection::Cr0).is_nan());
    }
}
