//! What passes of so many rows take, as measured, and how many drafted rows pay.

use std::collections::{BTreeMap, VecDeque};

/// Times that are kept for a number of rows.
const KEPT: usize = 5;
/// Passes after which a number of rows is measured anew: texts grow, and other programs come and go.
const STALE: u64 = 256;
/// What a further row is taken to cost of a pass of one, before anything is known.
const HOPE: f64 = 0.2;
/// Tokens that a second must gain by drafting, so that errors of measurement cost nothing.
const MARGIN: f64 = 1.03;

/// Measured seconds by rows.
#[derive(Debug, Default)]
pub(crate) struct Cost {
    passes: u64,
    by_rows: BTreeMap<usize, Times>,
}

#[derive(Debug, Default)]
struct Times {
    last: u64,
    seconds: VecDeque<f64>,
}

impl Times {
    /// The middle of the faster half: what disturbs a measurement only makes it slower.
    fn seconds(&self) -> f64 {
        let mut sorted: Vec<f64> = self.seconds.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted[(sorted.len() - 1) / 4]
    }
}

impl Cost {
    /// A pass was measured.
    pub(crate) fn note(&mut self, rows: usize, seconds: f64) {
        self.passes += 1;
        let times = self.by_rows.entry(rows).or_default();
        times.last = self.passes;
        times.seconds.push_back(seconds);
        if times.seconds.len() > KEPT {
            times.seconds.pop_front();
        }
        let now = self.passes;
        self.by_rows.retain(|_, times| now - times.last < STALE);
    }

    /// Seconds of a pass of so many rows: between measured ones on a line, beyond them on the line through the first and the
    /// last, or on a hopeful one. `None` before the first measurement.
    fn of(&self, rows: usize) -> Option<f64> {
        let below = self.by_rows.range(..=rows).next_back().map(|(&at, times)| (at, times.seconds()));
        let above = self.by_rows.range(rows..).next().map(|(&at, times)| (at, times.seconds()));
        match (below, above) {
            (Some((at, seconds)), _) if at == rows => Some(seconds),
            (Some((low, fast)), Some((high, slow))) => {
                Some(fast + (slow - fast).max(0.0) * (rows - low) as f64 / (high - low) as f64)
            }
            (Some((high, seconds)), None) => {
                let (low, fast) = self.by_rows.first_key_value().map(|(&at, times)| (at, times.seconds()))?;
                let a_row = match high - low {
                    0 => seconds / (1.0 + HOPE * (high - 1) as f64) * HOPE,
                    more => (seconds - fast).max(0.0) / more as f64,
                };
                Some(seconds + a_row * (rows - high) as f64)
            }
            (None, above) => above.map(|(_, seconds)| seconds),
        }
    }

    /// How many drafted rows are best beside `rows` others, where `gains[i]` is the expected number of tokens gained by the
    /// i-th of them, descending.
    pub(crate) fn best(&self, rows: usize, gains: &[f64]) -> usize {
        let Some(without) = self.of(rows) else { return 0 };
        let mut best = (0, rows as f64 / without * MARGIN);
        let mut tokens = rows as f64;
        for (at, gain) in gains.iter().enumerate() {
            tokens += gain;
            let Some(seconds) = self.of(rows + at + 1) else { break };
            if tokens / seconds > best.1 {
                best = (at + 1, tokens / seconds);
            }
        }
        best.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws as many rows as seem best until that does not change, on a machine that takes so long for so many rows.
    fn settled(rows: usize, gains: &[f64], seconds: impl Fn(usize) -> f64) -> (usize, usize) {
        let mut cost = Cost::default();
        let (mut last, mut slow) = (0, 0);
        for _ in 0..200 {
            last = cost.best(rows, gains);
            let expected = gains[..last].iter().sum::<f64>() + rows as f64;
            slow += usize::from(expected / seconds(rows + last) < rows as f64 / seconds(rows));
            cost.note(rows + last, seconds(rows + last));
        }
        (last, slow)
    }

    #[test]
    fn cheap_rows_are_drafted_and_dear_ones_are_not() {
        let gains: Vec<f64> = (1..16).map(|i| 0.8f64.powi(i)).collect();
        let (drafted, slow) = settled(1, &gains, |rows| 1.0 + 0.02 * rows as f64);
        assert!(drafted >= 9 && slow == 0, "{drafted}, {slow} slower");
        let (drafted, slow) = settled(1, &gains, |rows| rows as f64);
        assert!(drafted == 0 && slow <= 6, "{drafted}, {slow} slower");
        // A step after four rows.
        let (drafted, slow) = settled(1, &gains, |rows| if rows <= 4 { 1.0 } else { 3.0 });
        assert!((2..=3).contains(&drafted) && slow <= 12, "{drafted}, {slow} slower");
        let (drafted, _) = settled(64, &gains, |rows| 0.01 + rows as f64);
        assert_eq!(drafted, 0);
    }

    #[test]
    fn nothing_is_drafted_before_a_pass_was_measured() {
        assert_eq!(Cost::default().best(1, &[1.0]), 0);
    }

    #[test]
    fn one_slow_measurement_is_forgotten() {
        let mut cost = Cost::default();
        cost.note(1, 1.0);
        for seconds in [9.0, 1.1, 1.0, 1.2] {
            cost.note(2, seconds);
        }
        assert!(cost.of(2).unwrap() <= 1.1);
        for _ in 0..STALE {
            cost.note(1, 1.0);
        }
        assert_eq!(cost.by_rows.len(), 1, "two rows are measured anew");
    }
}
