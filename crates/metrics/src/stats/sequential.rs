//! Tests that may be looked at after every document: bets on paired differences (Ville 1939; Waudby-Smith and Ramdas
//! 2024), mixed over the size of the stake as in the mixture sequential probability ratio test (Robbins 1970).
//!
//! Wealth starts at 1 and is multiplied by `1 + λ·(d − m)` for each difference `d` in [−1, 1]. If the differences have
//! mean `m` given the past, wealth is a martingale, so that it ever reaches 1/α with probability α at most, however
//! often one looks. The mixture bets on both directions with stakes λ from ±½ down by halves.

use serde::{Deserialize, Serialize};

use super::Interval;

/// Number of stakes a direction: ½, ¼, …
const STAKES: usize = 9;

/// The log of the mixed wealth of bets in one direction (+1: the mean is above `m`).
fn log_wealth(differences: &[f64], mean: f64, sign: f64) -> f64 {
    let stakes = (0..STAKES).map(|k| sign * 0.5_f64.powi(k as i32 + 1));
    mixed(&stakes.map(|stake| differences.iter().map(|d| (stake * (d - mean)).ln_1p()).sum()).collect::<Vec<f64>>())
}

/// ln of the mean of exponentials.
fn mixed(logs: &[f64]) -> f64 {
    let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return largest;
    }
    largest + (logs.iter().map(|log| (log - largest).exp()).sum::<f64>() / logs.len() as f64).ln()
}

/// A sequential test that the mean of differences is 0, updated one difference at a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SequentialTest {
    /// ln of the wealth by stake, of bets on a positive and on a negative mean.
    up: [f64; STAKES],
    down: [f64; STAKES],
    seen: usize,
    /// The largest mixed log-wealth so far.
    peak: f64,
    /// The sign of the direction that was ahead at the peak.
    sign: f64,
}

impl Default for SequentialTest {
    fn default() -> Self {
        Self { up: [0.0; STAKES], down: [0.0; STAKES], seen: 0, peak: 0.0, sign: 0.0 }
    }
}

impl SequentialTest {
    /// Takes one difference in; it is cut to [−1, 1], NaN counts as 0. The cut keeps the test valid where differences
    /// are symmetric about 0 under the hypothesis, as they are when two models are exchangeable.
    pub fn push(&mut self, difference: f64) {
        let d = if difference.is_nan() { 0.0 } else { difference.clamp(-1.0, 1.0) };
        self.seen += 1;
        let mut stake = 0.5;
        for (up, down) in self.up.iter_mut().zip(&mut self.down) {
            *up += (stake * d).ln_1p();
            *down += (-stake * d).ln_1p();
            stake *= 0.5;
        }
        let (up, down) = (mixed(&self.up), mixed(&self.down));
        let both = mixed(&[up, down]);
        if both > self.peak {
            self.peak = both;
            self.sign = if up > down { 1.0 } else { -1.0 };
        }
    }

    /// Differences taken in.
    pub fn seen(&self) -> usize {
        self.seen
    }

    /// The p-value that holds at any time of looking: 1 over the largest wealth so far.
    pub fn p(&self) -> f64 {
        (-self.peak).exp().min(1.0)
    }

    /// The sign of the mean difference where p ≤ `level`.
    pub fn decided(&self, level: f64) -> Option<f64> {
        (self.p() <= level && self.sign != 0.0).then_some(self.sign)
    }
}

/// The interval of the mean of differences in [−1, 1] that covers at all times of looking with probability
/// `confidence`: means against which neither direction's wealth has reached 2/(1 − `confidence`). `None` without
/// differences.
pub fn confidence_sequence(differences: &[f64], confidence: f64) -> Option<Interval> {
    if differences.is_empty() {
        return None;
    }
    let bound = (2.0 / (1.0 - confidence)).ln();
    let mean = differences.iter().sum::<f64>() / differences.len() as f64;
    // With stakes of at most ½ every factor is positive for any mean in [−1, 1], and wealth is monotone in the mean.
    let edge = |sign: f64| {
        let (mut inside, mut outside) = (mean.clamp(-1.0, 1.0), -sign);
        if log_wealth(differences, outside, sign) < bound {
            return outside;
        }
        for _ in 0..30 {
            let middle = 0.5 * (inside + outside);
            *if log_wealth(differences, middle, sign) < bound { &mut inside } else { &mut outside } = middle;
        }
        inside
    };
    Some(Interval { low: edge(1.0), high: edge(-1.0) })
}

/// p of the hypothesis that the mean of differences in [−1, 1] is at least `margin` in size, by bets against either end;
/// it holds at any time of looking.
pub fn sequential_equivalence_p(differences: &[f64], margin: f64) -> f64 {
    let below = log_wealth(differences, margin.min(1.0), -1.0);
    let above = log_wealth(differences, (-margin).max(-1.0), 1.0);
    (-below.min(above)).exp().min(1.0)
}

/// Differences of documents' own values brought into [−1, 1] for [`SequentialTest`]: divided by the largest size seen
/// before (the first counts as 0), so that the scale is fixed before each bet. With `bounded`, values are taken as they
/// are.
pub fn scaled(differences: &[f64], bounded: bool) -> Vec<f64> {
    let mut largest = 0.0_f64;
    let scale = |&d: &f64| {
        let d = if d.is_finite() { d } else { 0.0 };
        let value = if bounded {
            d
        } else if largest > 0.0 {
            d / largest
        } else {
            0.0
        };
        largest = largest.max(d.abs());
        value.clamp(-1.0, 1.0)
    };
    differences.iter().map(scale).collect()
}

#[cfg(test)]
mod tests {
    use harness_core::Seed;

    use super::*;

    /// Ternary differences: disagreement 0.3 and the given mean.
    fn draw(seed: u64, mean: f64, n: usize) -> Vec<f64> {
        let mut rng = Seed(seed).stream("sequential", 0);
        let up = 0.15 + mean / 2.0;
        (0..n)
            .map(|_| match rng.uniform() {
                u if u < up => 1.0,
                u if u < 0.3 => -1.0,
                _ => 0.0,
            })
            .collect()
    }

    fn runs(count: u64, mean: f64, n: usize) -> f64 {
        let decided = |seed| {
            let mut test = SequentialTest::default();
            draw(seed, mean, n).into_iter().any(|d| {
                test.push(d);
                test.decided(0.05).is_some()
            })
        };
        (0..count).filter(|&seed| decided(seed)).count() as f64 / count as f64
    }

    #[test]
    fn looking_after_every_document_keeps_the_level() {
        let rate = runs(2_000, 0.0, 1_000);
        assert!(rate <= 0.05, "{rate}");
    }

    #[test]
    fn real_differences_are_found() {
        assert!(runs(200, 0.15, 1_000) > 0.97);
    }

    #[test]
    fn the_confidence_sequence_covers_and_agrees_with_the_test() {
        let mut covered = 0;
        for seed in 0..200 {
            let differences = draw(seed, 0.1, 300);
            let interval = confidence_sequence(&differences, 0.95).unwrap();
            covered += usize::from(interval.contains(0.1));
            let mean = differences.iter().sum::<f64>() / 300.0;
            assert!(interval.contains(mean));
        }
        assert!(covered >= 190, "{covered}");
        assert_eq!(confidence_sequence(&[], 0.95), None);
        let certain = confidence_sequence(&[1.0; 200], 0.95).unwrap();
        assert!(certain.low > 0.8 && certain.high == 1.0, "{certain:?}");
    }

    #[test]
    fn direction_and_odd_numbers() {
        let mut test = SequentialTest::default();
        (0..60).for_each(|_| test.push(-0.9));
        assert_eq!(test.decided(0.05), Some(-1.0));
        let mut test = SequentialTest::default();
        [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0].iter().for_each(|&d| test.push(d));
        assert!(test.p() <= 1.0 && test.decided(0.05).is_none() && test.seen() == 4);
        assert_eq!(scaled(&[2.0, 1.0, -4.0, 2.0], false), [0.0, 0.5, -1.0, 0.5]);
        assert_eq!(scaled(&[0.2, f64::NAN], true), [0.2, 0.0]);
    }
}
