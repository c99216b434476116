//! A judge against gold labels: people's verdicts, or a stronger judge's, on a part of the items.

use std::collections::BTreeMap;

use harness_core::Seed;
use harness_metrics::{comparison::JudgeFinding, stats::AlphaLevel};
use serde::{Deserialize, Serialize};

use super::{
    AgreementResult, Combine, PredictionPowered, agreement, item_preferences, pairwise::pairs, prediction_powered,
    preference_category, self_preference,
};
use crate::{Judgment, Purpose, Result};

/// What gold labels say about the verdicts on one pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GoldResult {
    /// The baseline.
    pub baseline: String,
    /// The candidate.
    pub candidate: String,
    /// The win rate corrected by the labels, from 0 to 1. Holds if the labelled items were drawn at random.
    pub corrected: PredictionPowered,
    /// How far judge and labels agree on win, tie and loss.
    pub agreement: Option<AgreementResult>,
    /// Judge and gold on every labelled item.
    #[serde(skip)]
    pub labelled: Vec<(f64, f64)>,
}

/// Mean of what could be read, by item.
fn means(judgments: &[Judgment], baseline: &str, candidate: &str) -> BTreeMap<String, f64> {
    item_preferences(judgments, baseline, candidate, Purpose::Main, Combine::Average)
        .into_iter()
        .filter_map(|(item, verdicts)| {
            let read: Vec<f64> = verdicts.into_iter().flatten().collect();
            (!read.is_empty()).then(|| (item, read.iter().sum::<f64>() / read.len() as f64))
        })
        .collect()
}

/// Compares a judge's verdicts with gold verdicts (judgments of the same items and pairs, e.g. those of people) pair by
/// pair; pairs with fewer than two labelled items are left out. `(resamples, confidence, seed)` are for the intervals of
/// the agreement.
///
/// # Errors
/// Those of [`prediction_powered`].
pub fn against_gold(
    judgments: &[Judgment],
    gold: &[Judgment],
    (resamples, confidence, seed): (usize, f64, Seed),
) -> Result<Vec<GoldResult>> {
    let mut results = vec![];
    for (baseline, candidate) in pairs(judgments, Purpose::Main) {
        let (judge, labels) = (means(judgments, &baseline, &candidate), means(gold, &baseline, &candidate));
        let labelled: Vec<(f64, f64)> =
            judge.iter().filter_map(|(item, value)| Some((*value, *labels.get(item)?))).collect();
        if labelled.len() < 2 {
            continue;
        }
        let unlabelled: Vec<f64> =
            judge.iter().filter(|(item, _)| !labels.contains_key(*item)).map(|(_, value)| *value).collect();
        let settings = (resamples, confidence, seed);
        results.push(GoldResult {
            corrected: prediction_powered(&labelled, &unlabelled, confidence)?,
            agreement: agreement(&judge, &labels, preference_category, AlphaLevel::Ordinal, settings),
            baseline,
            candidate,
            labelled,
        });
    }
    Ok(results)
}

/// The finding that judge and candidate share a base, with the judge's excess over gold labels where there are any.
pub fn shared_base(candidate: &str, base: &str, gold: &[GoldResult], confidence: f64) -> JudgeFinding {
    let of = |own: bool| -> Vec<(f64, f64)> {
        gold.iter().filter(|one| (one.candidate == candidate) == own).flat_map(|one| one.labelled.clone()).collect()
    };
    self_preference(candidate, base, &of(true), &of(false), confidence)
}
