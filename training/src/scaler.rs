//! Dynamic loss scaling for gradients in half precision (Micikevicius et al. 2018).

use serde::{Deserialize, Serialize};

/// Updates without overflow after which the scale is doubled.
const GROWTH_INTERVAL: u64 = 2000;

/// The factor on the loss before its gradient is taken: halved when gradients overflow, doubled after 2,000 updates
/// without. A power of two if it begins as one, so that it changes no digit of what does not overflow.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScaler {
    /// The factor.
    pub scale: f64,
    /// Updates since the factor changed.
    pub good: u64,
    /// Updates left out because gradients overflowed.
    pub skipped: u64,
}

impl LossScaler {
    /// Begins with this factor.
    pub fn new(scale: f64) -> Self {
        Self { scale, good: 0, skipped: 0 }
    }

    /// Hears whether the gradients of an update were finite; says whether the update is to be done.
    pub fn update(&mut self, finite: bool) -> bool {
        if !finite {
            (self.scale, self.good) = (self.scale / 2.0, 0);
            self.skipped += 1;
            return false;
        }
        self.good += 1;
        if self.good == GROWTH_INTERVAL {
            (self.scale, self.good) = (self.scale * 2.0, 0);
        }
        true
    }

    /// Whether the scale has become so small that something else than its size must be wrong.
    pub fn is_exhausted(&self) -> bool {
        self.scale < 1.0 / 65536.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overflow_halves_and_patience_doubles() {
        let mut scaler = LossScaler::new(65536.0);
        assert!(!scaler.update(false) && !scaler.update(false));
        assert_eq!((scaler.scale, scaler.skipped), (16384.0, 2));
        assert!((0..1999).all(|_| scaler.update(true)));
        assert_eq!(scaler.scale, 16384.0);
        assert!(scaler.update(true));
        assert_eq!((scaler.scale, scaler.good), (32768.0, 0));
        assert!((0..40).all(|_| !scaler.update(false)) && scaler.is_exhausted());
    }
}
