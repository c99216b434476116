//! Tests on paired scores of two systems: z, t, equivalence, sign and signed-rank.

use super::{
    Interval,
    distribution::{binomial_half_test, normal_critical, normal_sf, student_t_quantile, student_t_sf},
    standard_error::{ClusterCorrection, clustered_standard_error, mean, mean_standard_error, variance},
};

/// The mean of paired differences and its standard error; tests and intervals follow from the two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairedDifference {
    /// Mean of a − b.
    pub mean: f64,
    /// Its standard error: SD(a − b)/√n, or clustered.
    pub standard_error: f64,
    /// Degrees of freedom of the t tests: documents (or clusters) less one.
    pub df: f64,
}

impl PairedDifference {
    /// Differences `a[i] − b[i]`, documents independent; `None` for unequal lengths. Below two documents the standard
    /// error is NaN.
    pub fn new(a: &[f64], b: &[f64]) -> Option<Self> {
        let differences = differences(a, b)?;
        let df = differences.len() as f64 - 1.0;
        Some(Self { mean: mean(&differences), standard_error: mean_standard_error(&differences), df })
    }

    /// The same with dependence inside clusters.
    pub fn clustered<L: Ord>(a: &[f64], b: &[f64], clusters: &[L], correction: ClusterCorrection) -> Option<Self> {
        let differences = differences(a, b)?;
        let groups = clusters.iter().collect::<std::collections::BTreeSet<_>>().len() as f64;
        let standard_error = clustered_standard_error(&differences, clusters, correction);
        Some(Self { mean: mean(&differences), standard_error, df: groups - 1.0 })
    }

    /// Mean over standard error; 0 where both are 0.
    pub fn t(&self) -> f64 {
        if self.mean == 0.0 && self.standard_error == 0.0 { 0.0 } else { self.mean / self.standard_error }
    }

    /// Two-sided p by the normal distribution.
    pub fn p_normal(&self) -> f64 {
        (2.0 * normal_sf(self.t().abs())).min(1.0)
    }

    /// Two-sided p by Student's t.
    pub fn p_student(&self) -> f64 {
        (2.0 * student_t_sf(self.t().abs(), self.df)).min(1.0)
    }

    /// Interval by the normal distribution.
    pub fn interval_normal(&self, confidence: f64) -> Interval {
        self.interval(normal_critical(confidence))
    }

    /// Interval by Student's t.
    pub fn interval_student(&self, confidence: f64) -> Interval {
        self.interval(student_t_quantile(0.5 + confidence / 2.0, self.df))
    }

    /// p of the hypothesis that the difference is at least `margin` in size, by two one-sided t tests (TOST,
    /// Schuirmann 1987): small p shows equivalence, and p ≤ α exactly where the 1−2α interval lies within ±`margin`.
    pub fn equivalence_p(&self, margin: f64) -> f64 {
        if self.standard_error == 0.0 {
            return if self.mean.abs() < margin { 0.0 } else { 1.0 };
        }
        let above = student_t_sf((self.mean + margin) / self.standard_error, self.df);
        let below = student_t_sf((margin - self.mean) / self.standard_error, self.df);
        above.max(below)
    }

    fn interval(&self, critical: f64) -> Interval {
        let half = critical * self.standard_error;
        Interval { low: self.mean - half, high: self.mean + half }
    }
}

fn differences(a: &[f64], b: &[f64]) -> Option<Vec<f64>> {
    (a.len() == b.len()).then(|| a.iter().zip(b).map(|(a, b)| a - b).collect())
}

/// Standard error of the difference of means if the two samples were independent: √(SE_a² + SE_b²).
pub fn unpaired_standard_error(a: &[f64], b: &[f64]) -> f64 {
    mean_standard_error(a).hypot(mean_standard_error(b))
}

/// Pearson's correlation; NaN for unequal lengths or a constant sample.
pub fn correlation(a: &[f64], b: &[f64]) -> f64 {
    if a.len() != b.len() {
        return f64::NAN;
    }
    let (centre_a, centre_b) = (mean(a), mean(b));
    let covariance =
        a.iter().zip(b).map(|(x, y)| (x - centre_a) * (y - centre_b)).sum::<f64>() / (a.len() as f64 - 1.0);
    covariance / (variance(a) * variance(b)).sqrt()
}

/// Two-sided p of the sign test: documents on which a is above b against those below, ties left out. `None` for
/// unequal lengths.
pub fn sign_test(a: &[f64], b: &[f64]) -> Option<f64> {
    let differences = differences(a, b)?;
    let above = differences.iter().filter(|&&d| d > 0.0).count() as u64;
    let below = differences.iter().filter(|&&d| d < 0.0).count() as u64;
    Some(binomial_half_test(above, above + below))
}

/// Statistic (the smaller sum of signed ranks) and two-sided p of Wilcoxon's signed-rank test, zeros left out, ties
/// by mean ranks, normal approximation with the variance corrected for ties and without continuity correction
/// (Wilcoxon 1945). `None` for unequal lengths; p is 1 where all differences are 0.
pub fn wilcoxon_signed_rank(a: &[f64], b: &[f64]) -> Option<(f64, f64)> {
    let mut differences = differences(a, b)?;
    differences.retain(|&d| d != 0.0);
    differences.sort_by(|x, y| x.abs().total_cmp(&y.abs()));
    let n = differences.len() as f64;
    let (mut plus, mut minus, mut ties) = (0.0, 0.0, 0.0);
    let mut start = 0;
    while start < differences.len() {
        let end = start + differences[start..].partition_point(|d| d.abs() <= differences[start].abs());
        let rank = (start + 1 + end) as f64 / 2.0;
        for &d in &differences[start..end] {
            *if d > 0.0 { &mut plus } else { &mut minus } += rank;
        }
        let tied = (end - start) as f64;
        ties += tied * tied * tied - tied;
        start = end;
    }
    let statistic = f64::min(plus, minus);
    let variance = n * (n + 1.0) * (2.0 * n + 1.0) / 24.0 - ties / 48.0;
    let z = (statistic - n * (n + 1.0) / 4.0) / variance.sqrt();
    Some((statistic, if variance > 0.0 { (2.0 * normal_sf(z.abs())).min(1.0) } else { 1.0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_only() {
        let same = [0.4, 0.1, 0.7];
        let difference = PairedDifference::new(&same, &same).unwrap();
        assert_eq!((difference.t(), difference.p_student(), difference.equivalence_p(0.01)), (0.0, 1.0, 0.0));
        assert_eq!(wilcoxon_signed_rank(&same, &same), Some((0.0, 1.0)));
        assert_eq!(sign_test(&same, &same), Some(1.0));
        assert_eq!(PairedDifference::new(&same, &[1.0]), None);
    }

    #[test]
    fn equivalence_agrees_with_the_interval() {
        let a = [0.5, 0.6, 0.4, 0.55, 0.52];
        let b = [0.48, 0.61, 0.42, 0.5, 0.5];
        let difference = PairedDifference::new(&a, &b).unwrap();
        let interval = difference.interval_student(0.9);
        for margin in [0.001, 0.01, 0.03, 0.05, 0.2] {
            let inside = -margin < interval.low && interval.high < margin;
            assert_eq!(difference.equivalence_p(margin) < 0.05, inside, "{margin}");
        }
    }
}
