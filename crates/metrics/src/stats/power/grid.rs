//! Power of the exact permutation test of few units with scores on a grid, where ties decide.

use harness_core::Seed;

/// Simulated comparisons; the error of a power of 0.5 is 0.01.
const DRAWS: u64 = 2_500;
/// Beyond this many grid steps a difference is as good as continuous.
const MOST_STEPS: f64 = 64.0;

/// The probability that all swaps of `units` units show a true mean difference `delta` at the two-sided level, if the
/// differences are normal with this standard deviation, rounded to multiples of `step`. The same draws serve all
/// arguments, so that the power grows with the difference. `None` where the grid is too fine to matter.
pub(super) fn power(delta: f64, deviation: f64, step: f64, units: usize, level: f64) -> Option<f64> {
    if (delta + 4.0 * deviation) / step > MOST_STEPS {
        return None;
    }
    // Sheppard: rounding to a grid adds step²/12 to the variance.
    let spread = (deviation * deviation - step * step / 12.0).max(0.0).sqrt();
    let found = (0..DRAWS).filter(|&draw| {
        let mut rng = Seed(0).stream("power on a grid", draw);
        let differences = (0..units).map(|_| ((delta + spread * rng.normal()) / step).round() as i64);
        exact_p(&differences.collect::<Vec<_>>()) <= level
    });
    Some(found.count() as f64 / DRAWS as f64)
}

/// Two-sided p of the sign-flip test of whole numbers: the share of sign patterns whose sum is at least as large in size.
fn exact_p(differences: &[i64]) -> f64 {
    let total: usize = differences.iter().map(|d| d.unsigned_abs() as usize).sum();
    let observed = differences.iter().sum::<i64>().unsigned_abs() as usize;
    // Number of patterns by the sum of what is positive.
    let mut patterns = vec![0.0; total + 1];
    patterns[0] = 1.0;
    let mut reached = 0;
    for size in differences.iter().map(|d| d.unsigned_abs() as usize) {
        reached += size;
        for sum in (size..=reached).rev() {
            patterns[sum] += patterns[sum - size];
        }
    }
    let all: f64 = patterns.iter().sum();
    let extreme: f64 = (0..=total)
        .filter(|positive| (2 * positive).abs_diff(total) >= observed)
        .map(|positive| patterns[positive])
        .sum();
    extreme / all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Columns, permutation_test};

    #[test]
    fn p_is_that_of_the_permutation_test() {
        for differences in [vec![1, 2, -1, 3, 0, 2, 2], vec![0, 0, 0], vec![5, -5, 1], vec![3, 3, 3, 3, 3, 3]] {
            let scores: Vec<f64> = differences.iter().map(|&d| d as f64).collect();
            let columns = Columns::of_means(&[&vec![0.0; scores.len()], &scores]).unwrap();
            let p = permutation_test(&columns, 0, 1, 10, Seed(0)).unwrap().p;
            assert!((exact_p(&differences) - p).abs() < 1e-12, "{differences:?}: {} {p}", exact_p(&differences));
        }
    }

    #[test]
    fn few_clusters_have_less_power_than_continuous_scores() {
        // Ten clusters of three right or wrong answers that differ by 0.3 on average: 43.4 % were found in 6,000 draws.
        let found = power(0.3, 0.3813, 1.0 / 3.0, 10, 0.05).unwrap();
        assert!((found - 0.434).abs() < 0.03, "{found}");
        assert!(power(0.0, 0.38, 1.0 / 3.0, 10, 0.05).unwrap() <= 0.05);
        assert_eq!(power(30.0, 0.38, 1.0 / 3.0, 10, 0.05), None);
    }
}
