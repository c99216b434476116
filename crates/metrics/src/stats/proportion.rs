//! Intervals for proportions, and for the difference of two paired ones.

use serde::{Deserialize, Serialize};

use super::{
    Interval,
    distribution::{beta_quantile, normal_critical, normal_sf},
};

/// Interval for a binomial proportion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProportionInterval {
    /// Score interval (Wilson 1927): sound for small n and near 0 and 1.
    Wilson,
    /// Exact (Clopper and Pearson 1934), by Beta quantiles: never below its nominal coverage.
    ClopperPearson,
    /// Beta(k+½, n−k+½) quantiles, the posterior under Jeffreys' prior (Brown, Cai and DasGupta 2001).
    Jeffreys,
    /// Wald interval about the Wilson centre (Agresti and Coull 1998), cut at 0 and 1.
    AgrestiCoull,
    /// p ± z√(p(1−p)/n), cut at 0 and 1: poor for small n.
    Normal,
}

/// The interval for `successes` of `n`; `None` for n = 0 or more successes than trials.
pub fn proportion_interval(successes: u64, n: u64, confidence: f64, method: ProportionInterval) -> Option<Interval> {
    if n == 0 || successes > n {
        return None;
    }
    let (k, n) = (successes as f64, n as f64);
    let p = k / n;
    let z = normal_critical(confidence);
    let tail = (1.0 - confidence) / 2.0;
    let around = |centre: f64, half: f64| Interval { low: (centre - half).max(0.0), high: (centre + half).min(1.0) };
    Some(match method {
        ProportionInterval::Wilson => {
            let scale = 1.0 + z * z / n;
            let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
            let interval = around((p + z * z / (2.0 * n)) / scale, half / scale);
            Interval { low: if k == 0.0 { 0.0 } else { interval.low }, high: if k == n { 1.0 } else { interval.high } }
        }
        ProportionInterval::ClopperPearson => Interval {
            low: if k == 0.0 { 0.0 } else { beta_quantile(tail, k, n - k + 1.0) },
            high: if k == n { 1.0 } else { beta_quantile(1.0 - tail, k + 1.0, n - k) },
        },
        ProportionInterval::Jeffreys => Interval {
            low: beta_quantile(tail, k + 0.5, n - k + 0.5),
            high: beta_quantile(1.0 - tail, k + 0.5, n - k + 0.5),
        },
        ProportionInterval::AgrestiCoull => {
            let trials = n + z * z;
            let centre = (k + z * z / 2.0) / trials;
            around(centre, z * (centre * (1.0 - centre) / trials).sqrt())
        }
        ProportionInterval::Normal => around(p, z * (p * (1.0 - p) / n).sqrt()),
    })
}

/// Interval for the difference p_b − p_a of paired proportions, from the discordant counts (Bonett and Price 2012):
/// the Wald interval after adding one pair to each discordant cell. It keeps a width where no pair is discordant.
/// `None` for n = 0 or more discordant pairs than pairs.
pub fn paired_proportion_interval(only_a: u64, only_b: u64, n: u64, confidence: f64) -> Option<Interval> {
    if n == 0 || only_a.checked_add(only_b).is_none_or(|discordant| discordant > n) {
        return None;
    }
    let trials = n as f64 + 2.0;
    let (a, b) = ((only_a as f64 + 1.0) / trials, (only_b as f64 + 1.0) / trials);
    let centre = b - a;
    let half = normal_critical(confidence) * ((a + b - centre * centre) / trials).sqrt();
    Some(Interval { low: (centre - half).max(-1.0), high: (centre + half).min(1.0) })
}

/// p of the hypothesis that paired proportions differ by `margin` at least, by two one-sided tests on the estimate and
/// standard error of [`paired_proportion_interval`]: p ≤ α exactly where the interval of confidence 1−2α lies within
/// ± `margin`. `None` as there.
pub fn paired_proportion_equivalence(only_a: u64, only_b: u64, n: u64, margin: f64) -> Option<f64> {
    if n == 0 || only_a.checked_add(only_b).is_none_or(|discordant| discordant > n) {
        return None;
    }
    let trials = n as f64 + 2.0;
    let (a, b) = ((only_a as f64 + 1.0) / trials, (only_b as f64 + 1.0) / trials);
    let centre = b - a;
    let error = ((a + b - centre * centre) / trials).sqrt();
    Some(normal_sf((margin - centre) / error).max(normal_sf((margin + centre) / error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_counts_have_no_interval() {
        assert_eq!(proportion_interval(0, 0, 0.95, ProportionInterval::Wilson), None);
        assert_eq!(proportion_interval(3, 2, 0.95, ProportionInterval::Jeffreys), None);
        assert_eq!(paired_proportion_interval(2, 2, 3, 0.95), None);
    }

    #[test]
    fn paired_interval_keeps_a_width_without_discordant_pairs() {
        let interval = paired_proportion_interval(0, 0, 20, 0.95).unwrap();
        assert!((interval.low + interval.high).abs() < 1e-15 && interval.high > 0.05 && interval.high < 0.2);
        let one_sided = paired_proportion_interval(0, 40, 100, 0.95).unwrap();
        assert!(one_sided.low > 0.25 && one_sided.high < 0.5);
    }

    #[test]
    fn equivalence_of_proportions_agrees_with_the_interval() {
        for (a, b, n) in [(3, 4, 200), (0, 0, 400), (40, 60, 2_000), (1, 9, 150)] {
            for margin in [0.01, 0.02, 0.05, 0.2] {
                let interval = paired_proportion_interval(a, b, n, 0.9).unwrap();
                let inside = -margin < interval.low && interval.high < margin;
                let p = paired_proportion_equivalence(a, b, n, margin).unwrap();
                assert_eq!(p < 0.05, inside, "{a} {b} {n} {margin}: {p}");
            }
        }
        assert_eq!(paired_proportion_equivalence(0, 0, 0, 0.1), None);
    }
}
