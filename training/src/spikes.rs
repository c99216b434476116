//! Losses that lie far above those before them.

use serde::{Deserialize, Serialize};

/// Losses that are looked back at.
const WINDOW: usize = 64;
/// Losses needed before one can be called a spike.
const ENOUGH: usize = 16;
/// Standard deviations above the mean.
const FAR: f64 = 6.0;

/// Counts losses that lie more than six standard deviations above the mean of the 64 before, and more than a tenth of
/// it. A spike does not enter the window, so that the next one is seen as well.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpikeDetector {
    /// Spikes seen.
    pub count: u64,
    recent: Vec<f64>,
}

impl SpikeDetector {
    /// Whether a loss is a spike.
    pub fn observe(&mut self, loss: f64) -> bool {
        let n = self.recent.len() as f64;
        if self.recent.len() >= ENOUGH {
            let mean = self.recent.iter().sum::<f64>() / n;
            let variance = self.recent.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            if loss > mean + (FAR * variance.sqrt()).max(0.1 * mean.abs()) {
                self.count += 1;
                return true;
            }
        }
        if self.recent.len() == WINDOW {
            self.recent.remove(0);
        }
        self.recent.push(loss);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_far_above_is_a_spike() {
        let mut spikes = SpikeDetector::default();
        assert!(!spikes.observe(50.0), "nothing to compare with");
        let mut spikes = SpikeDetector::default();
        let losses = (0..200).map(|i| 2.0 - f64::from(i) * 0.005 + 0.05 * f64::from(i % 7 - 3));
        assert!(losses.into_iter().all(|loss| !spikes.observe(loss)));
        assert!(spikes.observe(4.0) && spikes.observe(4.0) && !spikes.observe(1.1));
        assert_eq!(spikes.count, 2);
    }
}
