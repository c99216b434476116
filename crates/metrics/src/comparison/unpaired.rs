//! Comparison of two values of which only standard errors are known.

use super::{IntervalMethod, Settings, TestMethod, inference::Finding};
use crate::stats::{
    Interval, PairedPower,
    distribution::{normal_critical, normal_sf},
};

/// A value with what is known of its precision.
#[derive(Clone, Copy)]
pub(super) struct Estimate {
    pub(super) value: f64,
    pub(super) standard_error: Option<f64>,
    pub(super) n: Option<usize>,
}

impl Estimate {
    /// The normal interval.
    pub(super) fn interval(&self, confidence: f64) -> Option<Interval> {
        let half = normal_critical(confidence) * self.standard_error?;
        Some(Interval { low: self.value - half, high: self.value + half }).filter(Interval::is_finite)
    }
}

/// `b` against `a` by a z test; nothing beyond the difference where a standard error is not known.
pub(super) fn unpaired(a: Estimate, b: Estimate, margin: Option<f64>, settings: &Settings) -> Finding {
    let (Some(error_a), Some(error_b)) = (a.standard_error, b.standard_error) else {
        return Finding::default();
    };
    let error = error_a.hypot(error_b);
    let difference = b.value - a.value;
    if error.is_nan() || error <= 0.0 || !difference.is_finite() {
        return Finding::default();
    }
    let estimate = Estimate { value: difference, standard_error: Some(error), n: None };
    let equivalence =
        |margin: f64| normal_sf((margin - difference) / error).max(normal_sf((margin + difference) / error));
    // The error of an estimate against an exact value need not shrink with the documents.
    let n = a.n.into_iter().chain(b.n).min().filter(|_| error_a > 0.0);
    Finding {
        interval: estimate.interval(settings.confidence),
        method: Some(IntervalMethod::Normal),
        test: Some(TestMethod::UnpairedZ),
        p: Some((2.0 * normal_sf((difference / error).abs())).min(1.0)),
        equivalence_p: margin.map(equivalence),
        power: n
            .filter(|&n| n > 2)
            .map(|n| (PairedPower::Mean { deviation: error * (n as f64).sqrt(), step: 0.0 }, n as f64)),
        flips: None,
    }
}
