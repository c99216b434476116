//! Agreement of a judge with people, or with another judge.

use std::collections::BTreeMap;

use harness_core::Seed;
use harness_metrics::stats::{
    Agreement, AlphaLevel, Interval, KappaWeights, distribution::normal_critical, krippendorff_alpha, quantile_sorted,
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::pairwise::winner;

/// How far two raters agree on the items both rated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgreementResult {
    /// Items both rated.
    pub n: usize,
    /// Share of items with the same category.
    pub observed: f64,
    /// Cohen's kappa; NaN where chance leaves nothing to agree on.
    #[serde(with = "super::interval::nan_as_null")]
    pub kappa: f64,
    /// Its interval by the delta method (Fleiss, Cohen and Everitt 1969).
    pub kappa_interval: Option<Interval>,
    /// Krippendorff's alpha; NaN as above.
    #[serde(with = "super::interval::nan_as_null")]
    pub alpha: f64,
    /// Its percentile interval from a bootstrap over items.
    pub alpha_interval: Option<Interval>,
}

/// The category of a preference: loss, tie or win.
pub fn preference_category(preference: f64) -> f64 {
    winner(preference)
}

/// Agreement of two raters, by item. `category` maps a rating to what kappa compares (for preferences
/// [`preference_category`], for scores rounding); alpha takes categories too, at its level. `None` without a common item.
pub fn agreement(
    judge: &BTreeMap<String, f64>,
    other: &BTreeMap<String, f64>,
    category: impl Fn(f64) -> f64,
    level: AlphaLevel,
    (resamples, confidence, seed): (usize, f64, Seed),
) -> Option<AgreementResult> {
    let units: Vec<[Option<f64>; 2]> =
        judge.iter().filter_map(|(item, a)| Some([Some(category(*a)), Some(category(*other.get(item)?))])).collect();
    if units.is_empty() {
        return None;
    }
    let mut values: Vec<f64> = units.iter().flatten().flatten().copied().collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    let position = |rating: Option<f64>| values.iter().position(|value| Some(*value) == rating).unwrap_or_default();
    let columns: [Vec<usize>; 2] = [0, 1].map(|which| units.iter().map(|unit| position(unit[which])).collect());
    let table = Agreement::count(&columns[0], &columns[1], values.len())?;
    let kappa = table.kappa(KappaWeights::Unweighted);
    let reach = normal_critical(confidence) * table.kappa_standard_error();
    let kappa_interval = reach.is_finite().then(|| Interval { low: kappa - reach, high: (kappa + reach).min(1.0) });
    let mut alphas: Vec<f64> = (0..resamples)
        .into_par_iter()
        .map(|i| {
            let mut rng = seed.stream("agreement", i as u64);
            let drawn: Vec<[Option<f64>; 2]> =
                (0..units.len()).map(|_| units[rng.below(units.len() as u64) as usize]).collect();
            krippendorff_alpha(&drawn, level)
        })
        .filter(|alpha| alpha.is_finite())
        .collect();
    alphas.sort_by(f64::total_cmp);
    let tail = (1.0 - confidence) / 2.0;
    let ends = Interval { low: quantile_sorted(&alphas, tail), high: quantile_sorted(&alphas, 1.0 - tail) };
    Some(AgreementResult {
        n: units.len(),
        observed: table.observed(),
        kappa,
        kappa_interval: kappa_interval.filter(|_| kappa.is_finite()),
        alpha: krippendorff_alpha(&units, level),
        alpha_interval: ends.is_finite().then_some(ends),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_has_intervals_around_it() {
        let rating = |i: usize, shift: usize| ((i * 7 + shift) % 10) as f64 / 9.0;
        let judge: BTreeMap<String, f64> = (0..60).map(|i| (format!("{i:02}"), rating(i, 0))).collect();
        let people = (0..50).map(|i| (format!("{i:02}"), rating(i, if i % 5 == 0 { 5 } else { 0 }))).collect();
        let settings = (500, 0.95, Seed(1));
        let found = agreement(&judge, &people, preference_category, AlphaLevel::Nominal, settings).unwrap();
        assert_eq!((found.n, found.observed), (50, 0.8));
        assert!((found.kappa - 0.6).abs() < 0.02 && (found.alpha - 0.6).abs() < 0.02, "{found:?}");
        assert!(
            found.kappa_interval.unwrap().contains(found.kappa) && found.alpha_interval.unwrap().contains(found.alpha)
        );
        assert_eq!(agreement(&judge, &BTreeMap::new(), |x| x, AlphaLevel::Nominal, settings), None);
    }
}
