//! The bootstrap over instructions, through the refit.

use harness_core::Seed;
use harness_metrics::stats::{Interval, quantile_sorted};
use rayon::prelude::*;

use super::{
    Design,
    solver::{L1Logistic, LogisticRow},
};

/// Win rate (percent) and length coefficient in each resample; resample i draws from `Seed::stream("length control", i)`.
/// A resample that cannot be fitted (all lengths differ alike) is left out.
pub(super) fn refit(design: &Design<'_>, c: f64, start: [f64; 3], resamples: usize, seed: Seed) -> Vec<[f64; 2]> {
    let n = design.rows.len();
    let one = |(counts, data): &mut (Vec<f64>, Vec<LogisticRow>), i: usize| {
        let mut rng = seed.stream("length control", i as u64);
        counts.fill(0.0);
        for _ in 0..n {
            counts[rng.below(n as u64) as usize] += 1.0;
        }
        design.fill(Some(counts), data).ok()?;
        let fit = L1Logistic { c, terms: design.terms() }.fit(data, start);
        Some([design.predict(&fit, Some(counts)).0, fit[0]])
    };
    (0..resamples).into_par_iter().map_init(|| (vec![0.0; n], vec![]), one).flatten_iter().collect()
}

/// The percentile interval; `None` where the values do not vary.
pub(super) fn percentile(mut values: Vec<f64>, confidence: f64) -> Option<Interval> {
    values.sort_unstable_by(f64::total_cmp);
    let tail = (1.0 - confidence) / 2.0;
    let interval = Interval { low: quantile_sorted(&values, tail), high: quantile_sorted(&values, 1.0 - tail) };
    (interval.is_finite() && values.first() != values.last()).then_some(interval)
}
