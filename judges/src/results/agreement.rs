//! Agreement of a judge with people, of judges with each other.

use harness_core::Seed;
use harness_metrics::stats::{
    Agreement, AlphaLevel, Interval, KappaWeights, ProportionInterval, krippendorff_alpha, proportion_interval,
    quantile_sorted,
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Ratings;

/// How far two raters agree on what both rated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgreementResult {
    /// Ratings (an item's turn) that both gave.
    pub n: usize,
    /// Share of them with the same category.
    pub observed: f64,
    /// Its Wilson interval.
    pub observed_interval: Option<Interval>,
    /// Cohen's kappa; NaN where chance leaves nothing to agree on.
    #[serde(with = "super::interval::nan_as_null")]
    pub kappa: f64,
    /// Its percentile interval from a bootstrap over items; `None` where the resamples do not vary.
    pub kappa_interval: Option<Interval>,
    /// Krippendorff's alpha; NaN as above.
    #[serde(with = "super::interval::nan_as_null")]
    pub alpha: f64,
    /// Its interval, likewise.
    pub alpha_interval: Option<Interval>,
}

/// How far several raters agree.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlphaResult {
    /// Ratings (an item's turn) that at least two gave.
    pub n: usize,
    /// Krippendorff's alpha; NaN where it is undefined.
    #[serde(with = "super::interval::nan_as_null")]
    pub alpha: f64,
    /// Its percentile interval from a bootstrap over items.
    pub interval: Option<Interval>,
}

/// Ratings of one thing by all raters, with the number of its item.
type Unit = (usize, Vec<Option<f64>>);

/// The categories of all raters by item and turn, where at least two rated.
fn units(raters: &[&Ratings], category: impl Fn(f64) -> f64) -> Vec<Unit> {
    let mut keys: Vec<&(String, usize)> = raters.iter().flat_map(|ratings| ratings.keys()).collect();
    keys.sort();
    keys.dedup();
    let (mut units, mut items): (Vec<Unit>, Vec<&str>) = (vec![], vec![]);
    for key in keys {
        let row: Vec<Option<f64>> =
            raters.iter().map(|ratings| ratings.get(key).map(|rating| category(*rating))).collect();
        if row.iter().flatten().count() >= 2 {
            if items.last() != Some(&key.0.as_str()) {
                items.push(&key.0);
            }
            units.push((items.len() - 1, row));
        }
    }
    units
}

/// The percentile interval of a statistic over resampled items.
fn interval(
    units: &[Unit],
    statistic: impl Fn(&[&[Option<f64>]]) -> f64 + Sync,
    (resamples, confidence, seed): (usize, f64, Seed),
) -> Option<Interval> {
    let items = units.last()?.0 + 1;
    let mut of_item: Vec<Vec<&[Option<f64>]>> = vec![vec![]; items];
    for (item, row) in units {
        of_item[*item].push(row);
    }
    let one = |i: usize| {
        let mut rng = seed.stream("agreement", i as u64);
        let drawn: Vec<&[Option<f64>]> =
            (0..items).flat_map(|_| of_item[rng.below(items as u64) as usize].iter().copied()).collect();
        statistic(&drawn)
    };
    let mut values: Vec<f64> = (0..resamples).into_par_iter().map(one).filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    if values.first() == values.last() {
        return None;
    }
    let tail = (1.0 - confidence) / 2.0;
    let ends = Interval { low: quantile_sorted(&values, tail), high: quantile_sorted(&values, 1.0 - tail) };
    ends.is_finite().then_some(ends)
}

/// The table of two raters' categories.
fn table(rows: &[&[Option<f64>]]) -> Option<Agreement> {
    let mut values: Vec<f64> = rows.iter().flat_map(|row| row.iter().flatten()).copied().collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    let position = |row: &[Option<f64>], which: usize| {
        row.get(which).copied().flatten().map_or(0, |rating| values.partition_point(|value| *value < rating))
    };
    let columns: [Vec<usize>; 2] = [0, 1].map(|which| rows.iter().map(|row| position(row, which)).collect());
    Agreement::count(&columns[0], &columns[1], values.len())
}

fn kappa(rows: &[&[Option<f64>]]) -> f64 {
    table(rows).map_or(f64::NAN, |table| table.kappa(KappaWeights::Unweighted))
}

/// Agreement of two raters. `category` maps a rating to what kappa and, at its level, alpha compare
/// ([`super::category`]); `settings` are resamples, confidence and seed. `None` if there is nothing that both rated.
pub fn agreement(
    judge: &Ratings,
    other: &Ratings,
    category: impl Fn(f64) -> f64,
    level: AlphaLevel,
    settings: (usize, f64, Seed),
) -> Option<AgreementResult> {
    let units = units(&[judge, other], category);
    let rows: Vec<&[Option<f64>]> = units.iter().map(|(_, row)| row.as_slice()).collect();
    let observed = table(&rows).filter(|_| !rows.is_empty())?.observed();
    let n = rows.len();
    let agreed = (observed * n as f64).round() as u64;
    Some(AgreementResult {
        n,
        observed,
        observed_interval: proportion_interval(agreed, n as u64, settings.1, ProportionInterval::Wilson),
        kappa: kappa(&rows),
        kappa_interval: interval(&units, kappa, settings),
        alpha: krippendorff_alpha(&rows, level),
        alpha_interval: interval(&units, |rows| krippendorff_alpha(rows, level), settings),
    })
}

/// Krippendorff's alpha over any number of raters; `None` if no two rated the same.
pub fn joint_agreement(
    raters: &[&Ratings],
    category: impl Fn(f64) -> f64,
    level: AlphaLevel,
    settings: (usize, f64, Seed),
) -> Option<AlphaResult> {
    let units = units(raters, category);
    let rows: Vec<&[Option<f64>]> = units.iter().map(|(_, row)| row.as_slice()).collect();
    (!rows.is_empty()).then(|| AlphaResult {
        n: rows.len(),
        alpha: krippendorff_alpha(&rows, level),
        interval: interval(&units, |rows| krippendorff_alpha(rows, level), settings),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: (usize, f64, Seed) = (500, 0.95, Seed(1));

    fn rated(n: usize, shifted: usize) -> Ratings {
        let rating = |i: usize| ((i * 7 + if i.is_multiple_of(5) { shifted } else { 0 }) % 10) as f64 / 9.0;
        (0..n).map(|i| ((format!("{i:02}"), 1), rating(i))).collect()
    }

    fn half(x: f64) -> f64 {
        f64::from(u8::from(x > 0.5))
    }

    #[test]
    fn agreement_has_intervals_around_it() {
        let (judge, people) = (rated(60, 0), rated(50, 5));
        let found = agreement(&judge, &people, half, AlphaLevel::Nominal, SETTINGS).unwrap();
        assert_eq!((found.n, found.observed), (50, 0.8));
        assert!((found.kappa - 0.6).abs() < 0.02 && (found.alpha - 0.6).abs() < 0.02, "{found:?}");
        for (interval, value) in [
            (found.kappa_interval, found.kappa),
            (found.alpha_interval, found.alpha),
            (found.observed_interval, found.observed),
        ] {
            let interval = interval.unwrap();
            assert!(interval.contains(value) && interval.half_width() > 0.05, "{interval:?} of {value}");
        }
        assert_eq!(agreement(&judge, &Ratings::new(), half, AlphaLevel::Nominal, SETTINGS), None);
        let joint = joint_agreement(&[&judge, &people, &judge], half, AlphaLevel::Nominal, SETTINGS).unwrap();
        assert!(joint.n == 60 && joint.alpha > found.alpha && joint.interval.unwrap().contains(joint.alpha));
    }

    #[test]
    fn turns_of_one_item_are_resampled_together() {
        let twice = |ratings: &Ratings| -> Ratings {
            ratings.iter().flat_map(|((item, _), x)| [1, 2].map(|turn| ((item.clone(), turn), *x))).collect()
        };
        let (judge, people) = (rated(50, 0), rated(50, 5));
        let one = agreement(&judge, &people, half, AlphaLevel::Nominal, SETTINGS).unwrap();
        let two = agreement(&twice(&judge), &twice(&people), half, AlphaLevel::Nominal, SETTINGS).unwrap();
        // A second turn with the same ratings tells nothing new.
        assert_eq!((two.n, two.kappa, two.kappa_interval), (100, one.kappa, one.kappa_interval));
    }

    #[test]
    fn full_agreement_has_no_interval_of_no_width() {
        let found = agreement(&rated(6, 0), &rated(6, 0), half, AlphaLevel::Nominal, SETTINGS).unwrap();
        assert_eq!((found.kappa, found.kappa_interval, found.alpha_interval), (1.0, None, None));
        assert!(found.observed_interval.unwrap().low < 0.7);
    }
}
