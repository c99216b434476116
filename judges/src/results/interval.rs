//! Intervals of means that survive missing verdicts.

use harness_metrics::stats::{
    Interval, ProportionInterval, distribution::student_t_quantile, mean, mean_standard_error, proportion_interval,
};
use serde::{Deserialize, Serialize};

/// The interval of a mean by Student's t, cut to the range values can have. Where all values are equal there is no
/// spread to go by: at an end of the range Wilson's interval is used, elsewhere there is none.
pub fn mean_interval(values: &[f64], range: [f64; 2], confidence: f64) -> Option<Interval> {
    let n = values.len();
    if n < 2 {
        return None;
    }
    let (centre, error) = (mean(values), mean_standard_error(values));
    if error == 0.0 || error.is_nan() {
        let width = range[1] - range[0];
        let share = (centre - range[0]) / width;
        if share != 0.0 && share != 1.0 {
            return None;
        }
        let successes = if share == 1.0 { n as u64 } else { 0 };
        let wilson = proportion_interval(successes, n as u64, confidence, ProportionInterval::Wilson)?;
        return Some(Interval { low: range[0] + width * wilson.low, high: range[0] + width * wilson.high });
    }
    let reach = student_t_quantile(0.5 + confidence / 2.0, (n - 1) as f64) * error;
    Some(Interval { low: (centre - reach).max(range[0]), high: (centre + reach).min(range[1]) })
}

/// A mean over items of which some verdicts are missing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bounded {
    /// The mean of what could be read.
    pub value: f64,
    /// s/√n of the same; NaN below two items.
    #[serde(with = "crate::results::interval::nan_as_null")]
    pub standard_error: f64,
    /// The reported interval: from the lower end when every missing verdict is the worst to the upper end when every
    /// one is the best. Without missing verdicts it is [`Bounded::sampling_interval`].
    pub interval: Option<Interval>,
    /// The interval of what could be read alone, as if the missing verdicts were like the others.
    pub sampling_interval: Option<Interval>,
    /// The mean if every missing verdict were the worst.
    pub worst: f64,
    /// The mean if every missing verdict were the best.
    pub best: f64,
    /// Items.
    pub n: usize,
    /// Verdicts asked for.
    pub verdicts: usize,
    /// Verdicts that could not be read.
    pub unparsed: usize,
}

impl Bounded {
    /// From the verdicts of each item, `None` for one that could not be read; `range` is the worst and the best value.
    /// `None` if nothing could be read.
    pub fn of_items<V: AsRef<[Option<f64>]>>(items: &[V], range: [f64; 2], confidence: f64) -> Option<Self> {
        let items: Vec<&[Option<f64>]> =
            items.iter().map(AsRef::as_ref).filter(|verdicts| !verdicts.is_empty()).collect();
        let read: Vec<f64> = items
            .iter()
            .filter_map(|verdicts| {
                let read: Vec<f64> = verdicts.iter().flatten().copied().collect();
                (!read.is_empty()).then(|| mean(&read))
            })
            .collect();
        if read.is_empty() {
            return None;
        }
        let filled = |value: f64| -> Vec<f64> {
            let one = |verdicts: &&[Option<f64>]| {
                mean(&verdicts.iter().map(|verdict| verdict.unwrap_or(value)).collect::<Vec<_>>())
            };
            items.iter().map(one).collect()
        };
        let (worst, best) = (filled(range[0]), filled(range[1]));
        let unparsed = items.iter().flat_map(|verdicts| verdicts.iter()).filter(|verdict| verdict.is_none()).count();
        let sampling_interval = mean_interval(&read, range, confidence);
        let interval = if unparsed == 0 {
            sampling_interval
        } else {
            let low = mean_interval(&worst, range, confidence).map_or(mean(&worst), |interval| interval.low);
            let high = mean_interval(&best, range, confidence).map_or(mean(&best), |interval| interval.high);
            Some(Interval { low, high })
        };
        Some(Self {
            value: mean(&read),
            standard_error: mean_standard_error(&read),
            interval,
            sampling_interval,
            worst: mean(&worst),
            best: mean(&best),
            n: items.len(),
            verdicts: items.iter().map(|verdicts| verdicts.len()).sum(),
            unparsed,
        })
    }
}

/// JSON has no NaN: it is written as null.
pub(crate) mod nan_as_null {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if value.is_finite() { serializer.serialize_f64(*value) } else { serializer.serialize_none() }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_verdicts_widen_the_interval() {
        let full: Vec<[Option<f64>; 1]> = (0..40).map(|i| [Some(f64::from(i % 2))]).collect();
        let mut gaps = full.clone();
        (0..4).for_each(|i| gaps[i] = [None]);
        let (full, gaps) = [full, gaps].map(|items| Bounded::of_items(&items, [0.0, 1.0], 0.95).unwrap()).into();
        assert_eq!((full.worst, full.best, full.interval), (0.5, 0.5, full.sampling_interval));
        assert_eq!((gaps.value, gaps.worst, gaps.best, gaps.unparsed), (0.5, 0.45, 0.55, 4));
        let (narrow, wide) = (gaps.sampling_interval.unwrap(), gaps.interval.unwrap());
        assert!(wide.low < narrow.low - 0.02 && wide.high > narrow.high + 0.02, "{wide:?} {narrow:?}");
    }

    #[test]
    fn degenerate_means() {
        let ones = mean_interval(&[1.0; 10], [0.0, 1.0], 0.95).unwrap();
        assert!(ones.low < 0.8 && ones.high == 1.0, "{ones:?}");
        assert_eq!(mean_interval(&[0.5; 10], [0.0, 1.0], 0.95), None);
        assert_eq!(Bounded::of_items(&[[None], [None]], [0.0, 1.0], 0.95), None);
    }
}
