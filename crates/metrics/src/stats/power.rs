//! Power and the smallest difference that can be shown, for paired accuracy (Connor 1987; Card et al. 2020).

mod grid;

use serde::{Deserialize, Serialize};

use super::{
    Bootstrap,
    distribution::{binomial_half_cdf, normal_cdf, normal_quantile, normal_sf, regularised_beta, student_t_quantile},
    permutation::EXACT_LIMIT,
};
use crate::Statistic;

/// Expected number of discordant documents up to which the power of McNemar's test is summed exactly.
const EXACT_DISCORDANT: f64 = 200.0;
/// More documents than this are not worth naming.
const MOST_UNITS: f64 = 1e9;

/// The design of a paired comparison of two accuracies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairedDesign {
    /// Share of documents on which the two systems disagree.
    pub disagreement: f64,
    /// Two-sided level of the test.
    pub alpha: f64,
}

impl PairedDesign {
    /// Documents needed to show a difference `delta` with the given power by the Wald test; fractional.
    pub fn documents_needed(&self, delta: f64, power: f64) -> f64 {
        let z = self.critical() + normal_quantile(power);
        z * z * (self.disagreement - delta * delta) / (delta * delta)
    }

    /// The same for McNemar's test (Connor 1987).
    pub fn documents_needed_mcnemar(&self, delta: f64, power: f64) -> f64 {
        let root = self.critical() * self.disagreement.sqrt()
            + normal_quantile(power) * (self.disagreement - delta * delta).sqrt();
        root * root / (delta * delta)
    }

    /// The smallest difference of accuracies that n documents show with the given power (Wald):
    /// δ² = (z_{α/2}+z_β)²(p_disc − δ²)/n solved for δ.
    pub fn minimum_detectable(&self, n: usize, power: f64) -> f64 {
        let z = self.critical() + normal_quantile(power);
        let n = n as f64;
        z * (self.disagreement / n).sqrt() / (1.0 + z * z / n).sqrt()
    }

    /// The probability that n documents show a true difference `delta` (Wald; the far tail is ignored).
    pub fn power(&self, delta: f64, n: usize) -> f64 {
        let error = ((self.disagreement - delta * delta) / n as f64).sqrt();
        normal_cdf(delta.abs() / error - self.critical())
    }

    fn critical(&self) -> f64 {
        -normal_quantile(self.alpha / 2.0)
    }
}

/// The jackknife's standard error of column `b` less column `a` on the scale that tests of swapped documents see. For
/// perplexity that is the logarithm of the ratio, times the value of `a`: how the level of both varies is no noise there.
pub fn swap_standard_error(bootstrap: &Bootstrap, statistic: &Statistic, a: usize, b: usize) -> f64 {
    if statistic.differs_by_factor() {
        bootstrap.observed()[a] * bootstrap.jackknife_standard_error(|values| (values[b] / values[a]).ln())
    } else {
        bootstrap.jackknife_standard_error(|values| values[b] - values[a])
    }
}

/// The smallest true difference that an estimate with this standard error shows with the given power at a two-sided
/// level: (z_{α/2} + z_β)·SE.
pub fn minimum_detectable_difference(standard_error: f64, alpha: f64, power: f64) -> f64 {
    (normal_quantile(power) - normal_quantile(alpha / 2.0)) * standard_error
}

/// What the power of a paired comparison depends on besides the number of units and the true difference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PairedPower {
    /// Right and wrong answers, tested by McNemar's exact test.
    McNemar {
        /// Share of documents on which the two systems disagree; at least the difference is assumed.
        disagreement: f64,
    },
    /// Differences of any kind, tested on their mean or on a function of sums that is nearly linear.
    Mean {
        /// Standard deviation of the differences a unit: standard error times √units.
        deviation: f64,
        /// [`super::Columns::swap_step`]: scores on a grid tie under swaps, which costs power. 0 for continuous scores.
        step: f64,
    },
}

impl PairedPower {
    /// The probability that `units` documents (or clusters) show a true difference `delta` at the two-sided level.
    ///
    /// Exact for McNemar's test up to 200 expected discordant documents, then the normal approximation with continuity
    /// correction; for means the approximation of the noncentral t distribution by Johnson and Welch (1940), with a
    /// continuity correction for scores on a grid, and by simulation for few units on a grid.
    pub fn power(&self, delta: f64, units: f64, level: f64) -> f64 {
        let delta = delta.abs();
        match *self {
            Self::McNemar { disagreement } => {
                let disagreement = disagreement.max(delta).clamp(0.0, 1.0);
                if units * disagreement <= EXACT_DISCORDANT {
                    exact_mcnemar_power(units.floor(), disagreement, delta.min(disagreement), level)
                } else {
                    let z = -normal_quantile(level / 2.0);
                    let spread = (units * (disagreement - delta * delta).max(1e-12)).sqrt();
                    let reach = 1.0 + z * (units * disagreement).sqrt();
                    normal_cdf((units * delta - reach) / spread) + normal_cdf((-units * delta - reach) / spread)
                }
            }
            Self::Mean { deviation, step } => {
                let df = units - 1.0;
                if df < 1.0 || deviation <= 0.0 {
                    return f64::NAN;
                }
                if step > 0.0
                    && units <= EXACT_LIMIT as f64
                    && let Some(power) = grid::power(delta, deviation, step, units as usize, level)
                {
                    return power;
                }
                // All swaps of few units give p in steps: what is below the last step is lost.
                let swaps = if units <= EXACT_LIMIT as f64 { (units.floor() - 1.0).exp2() } else { f64::INFINITY };
                let level = if swaps.is_finite() { (level * swaps).floor() / swaps } else { level };
                if level <= 0.0 {
                    return 0.0;
                }
                let critical = student_t_quantile(1.0 - level / 2.0, df);
                let centre = delta * units.sqrt() / deviation;
                let scale = (1.0 + critical * critical / (2.0 * df)).sqrt();
                let bound = critical * (1.0 - 1.0 / (4.0 * df)) + step / (deviation * units.sqrt());
                normal_sf((bound - centre) / scale) + normal_sf((bound + centre) / scale)
            }
        }
    }

    /// The smallest true difference that `units` documents show with the given power; `None` where none can be shown.
    /// At most 1 for proportions.
    pub fn detectable(&self, units: f64, level: f64, power: f64) -> Option<f64> {
        let most = match *self {
            Self::McNemar { .. } => 1.0,
            Self::Mean { deviation, .. } => 1e3 * deviation,
        };
        // Written so that a power that is NaN is not enough.
        let enough = |delta: f64| self.power(delta, units, level) >= power;
        if !enough(most) {
            return None;
        }
        let (mut low, mut high) = (0.0, most);
        let guess = match *self {
            Self::McNemar { disagreement } => (disagreement / units).sqrt(),
            Self::Mean { deviation, .. } => deviation / units.sqrt(),
        };
        let mut guess = 2.8 * guess;
        // Doubling from a guess brackets the answer in a few steps, bisection narrows it.
        while guess > 0.0 && guess < high && !enough(guess) {
            low = guess;
            guess *= 1.5;
        }
        if guess > 0.0 {
            high = high.min(guess);
        }
        while high - low > 1e-4 * high {
            let middle = 0.5 * (low + high);
            *if enough(middle) { &mut high } else { &mut low } = middle;
        }
        Some(high)
    }

    /// Units that show a true difference `delta` with the given power; `None` for no difference, or beyond 10⁹.
    pub fn needed(&self, delta: f64, level: f64, power: f64) -> Option<u64> {
        if delta == 0.0 || !delta.is_finite() {
            return None;
        }
        search(|units| self.power(delta, units, level) >= power)
    }

    /// Units that show equivalence within ± `margin` with the given power if the true difference is `delta`; `None`
    /// where it does not lie within the margin, or beyond 10⁹.
    pub fn needed_for_equivalence(&self, delta: f64, margin: f64, level: f64, power: f64) -> Option<u64> {
        let deviation = match *self {
            Self::McNemar { disagreement } => (disagreement - delta * delta).max(0.0).sqrt(),
            Self::Mean { deviation, .. } => deviation,
        };
        let z = -normal_quantile(level);
        search(|units| {
            let error = deviation / units.sqrt();
            let above = normal_cdf((margin - delta) / error - z);
            let below = normal_cdf((margin + delta) / error - z);
            above + below - 1.0 >= power
        })
    }
}

/// The smallest number of units from which a condition holds that holds for all larger numbers.
fn search(enough: impl Fn(f64) -> bool) -> Option<u64> {
    let mut high = 4.0;
    while !enough(high) {
        high *= 2.0;
        if high > MOST_UNITS {
            return None;
        }
    }
    let mut low = high / 2.0;
    while high - low > 1.0 && high - low > 1e-3 * high {
        let middle = (0.5 * (low + high)).floor();
        *if enough(middle) { &mut high } else { &mut low } = middle;
    }
    Some(high as u64)
}

/// Power of the exact McNemar test: over the number of discordant documents, Binomial(units, disagreement), the chance
/// that their split, Binomial(m, ½ + delta/2·disagreement), is among those with two-sided p ≤ level.
fn exact_mcnemar_power(units: f64, disagreement: f64, delta: f64, level: f64) -> f64 {
    if units < 1.0 || disagreement <= 0.0 {
        return 0.0;
    }
    let favoured = 0.5 + delta / (2.0 * disagreement);
    let (mean, sd) = (units * disagreement, (units * disagreement * (1.0 - disagreement)).sqrt());
    let last = (mean + 8.0 * sd + 8.0).min(units) as u64;
    let log_choose = |n: f64, k: f64| libm::lgamma(n + 1.0) - libm::lgamma(k + 1.0) - libm::lgamma(n - k + 1.0);
    // The largest k with 2·P(X ≤ k) ≤ level among m tosses; it grows by at most one as m grows by one.
    let mut bound: Option<u64> = None;
    let mut power = 0.0;
    for m in 1..=last {
        let next = bound.map_or(0, |k| k + 1);
        if 2.0 * binomial_half_cdf(next, m) <= level {
            bound = Some(next);
        }
        let Some(k) = bound else { continue };
        let weight = if disagreement >= 1.0 {
            if m as f64 == units { 1.0 } else { 0.0 }
        } else {
            let (m, rest) = (m as f64, units - m as f64);
            (log_choose(units, m) + m * disagreement.ln() + rest * (-disagreement).ln_1p()).exp()
        };
        if weight < 1e-12 {
            continue;
        }
        // P(X ≤ k) for m tosses of a coin.
        let tail = |p: f64| if p <= 0.0 { 1.0 } else { 1.0 - regularised_beta(k as f64 + 1.0, (m - k) as f64, p) };
        power += weight * (tail(1.0 - favoured) + tail(favoured));
    }
    power.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_at_the_minimum_is_the_power_asked_for() {
        let design = PairedDesign { disagreement: 0.2, alpha: 0.05 };
        let delta = design.minimum_detectable(500, 0.8);
        assert!((design.power(delta, 500) - 0.8).abs() < 1e-12);
        assert!((design.documents_needed(delta, 0.8) - 500.0).abs() < 1e-9);
    }

    #[test]
    fn exact_power_is_the_rejection_rate_by_enumeration() {
        // Ten documents, each favouring one system (0.3), the other (0.1) or neither.
        let (n, up, down) = (10usize, 0.3_f64, 0.1_f64);
        let factorial = |n: usize| (1..=n).map(|i| i as f64).product::<f64>();
        let mut expected = 0.0;
        for b in 0..=n {
            for c in 0..=n - b {
                let ways = factorial(n) / factorial(b) / factorial(c) / factorial(n - b - c);
                let chance = ways * up.powi(b as i32) * down.powi(c as i32) * 0.6_f64.powi((n - b - c) as i32);
                if super::super::distribution::binomial_half_test(b as u64, (b + c) as u64) <= 0.05 {
                    expected += chance;
                }
            }
        }
        let power = PairedPower::McNemar { disagreement: 0.4 }.power(0.2, 10.0, 0.05);
        assert!((power - expected).abs() < 1e-9, "{power} {expected}");
    }

    #[test]
    fn the_approximation_meets_the_exact_sum() {
        for (units, disagreement, delta) in [(1_500.0, 0.2, 0.03), (2_500.0, 0.12, 0.02), (3_000.0, 0.1, 0.02)] {
            let exact = exact_mcnemar_power(units, disagreement, delta, 0.05);
            let z = -normal_quantile(0.025);
            let spread = (units * (disagreement - delta * delta)).sqrt();
            let near = normal_cdf((units * delta - 1.0 - z * (units * disagreement).sqrt()) / spread);
            assert!((exact - near).abs() < 0.012, "{units}: {exact} {near}");
        }
    }

    #[test]
    fn detectable_differences_have_the_power_asked_for() {
        for design in [PairedPower::McNemar { disagreement: 0.15 }, PairedPower::Mean { deviation: 0.3, step: 0.0 }] {
            for units in [40.0, 400.0, 14_042.0] {
                let delta = design.detectable(units, 0.05, 0.8).unwrap();
                let power = design.power(delta, units, 0.05);
                assert!((0.8..0.82).contains(&power), "{design:?} {units}: {delta} {power}");
                let needed = design.needed(delta, 0.05, 0.8).unwrap() as f64;
                assert!((needed / units - 1.0).abs() < 0.06, "{design:?} {units}: {needed}");
            }
        }
        assert_eq!(PairedPower::McNemar { disagreement: 0.5 }.detectable(5.0, 0.05, 0.8), None);
        assert_eq!(
            PairedPower::Mean { deviation: 1.0, step: 0.0 }.detectable(5.0, 0.05, 0.8),
            None,
            "p is 2/32 at least"
        );
        assert_eq!(PairedPower::Mean { deviation: 0.0, step: 0.0 }.detectable(50.0, 0.05, 0.8), None);
        assert_eq!(PairedPower::Mean { deviation: 1.0, step: 0.0 }.needed(0.0, 0.05, 0.8), None);
    }

    #[test]
    fn scores_on_a_grid_lose_power_to_ties() {
        // Differences of ±1 are McNemar's: the correction is that of its normal approximation.
        let (units, delta) = (2_000.0, 0.03);
        let mcnemar = PairedPower::McNemar { disagreement: 0.2 }.power(delta, units, 0.05);
        let deviation = (0.2_f64 - delta * delta).sqrt();
        let mean = |step| PairedPower::Mean { deviation, step }.power(delta, units, 0.05);
        assert!((mean(1.0) - mcnemar).abs() < 0.003, "{} {mcnemar}", mean(1.0));
        assert!(mean(0.0) - mcnemar > 0.01, "{} {mcnemar}", mean(0.0));
    }

    #[test]
    fn equivalence_needs_a_difference_within_the_margin() {
        let design = PairedPower::Mean { deviation: 0.3, step: 0.0 };
        assert_eq!(design.needed_for_equivalence(0.02, 0.01, 0.05, 0.8), None);
        let needed = design.needed_for_equivalence(0.0, 0.01, 0.05, 0.8).unwrap() as f64;
        let expected = ((1.6449_f64 + 1.2816) * 0.3 / 0.01).powi(2);
        assert!((needed / expected - 1.0).abs() < 0.01, "{needed} {expected}");
    }
}
