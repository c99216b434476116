//! The values that a quantity can have.

use serde::{Deserialize, Serialize};

use super::Interval;

/// The least and the largest possible value, where there are such.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Range {
    /// The least possible value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// The largest possible value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
}

impl Range {
    /// No bounds.
    pub const UNBOUNDED: Self = Self { low: None, high: None };

    /// Between two bounds.
    pub fn between(low: f64, high: f64) -> Self {
        Self { low: Some(low), high: Some(high) }
    }

    /// Not below a bound.
    pub fn at_least(low: f64) -> Self {
        Self { low: Some(low), high: None }
    }

    /// Whether a value lies inside, bounds included. Rounding in the last digits is forgiven.
    pub fn contains(self, value: f64) -> bool {
        let slack = 1e-12 * value.abs().max(1.0);
        self.low.is_none_or(|low| value >= low - slack) && self.high.is_none_or(|high| value <= high + slack)
    }

    /// The part of an interval that lies inside. It covers whatever the interval covers, because nothing true lies
    /// outside.
    pub fn cut(self, interval: Interval) -> Interval {
        Interval {
            low: self.low.map_or(interval.low, |low| interval.low.max(low)),
            high: self.high.map_or(interval.high, |high| interval.high.min(high)),
        }
    }

    /// The range of the difference of two values from this one.
    pub fn of_differences(self) -> Self {
        match (self.low, self.high) {
            (Some(low), Some(high)) => Self::between(low - high, high - low),
            _ => Self::UNBOUNDED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_only_where_there_is_a_bound() {
        let wide = Interval { low: -2.0, high: 3.0 };
        assert_eq!(Range::between(0.0, 1.0).cut(wide), Interval { low: 0.0, high: 1.0 });
        assert_eq!(Range::at_least(1.0).cut(wide), Interval { low: 1.0, high: 3.0 });
        assert_eq!(Range::UNBOUNDED.cut(wide), wide);
        assert_eq!(Range::between(-1.0, 1.0).of_differences(), Range::between(-2.0, 2.0));
        assert_eq!(Range::at_least(0.0).of_differences(), Range::UNBOUNDED);
        assert!(Range::between(0.0, 1.0).contains(1.0 + 1e-15) && !Range::between(0.0, 1.0).contains(1.01));
    }
}
