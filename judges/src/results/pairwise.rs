//! Win rates of pairs.

use std::collections::BTreeMap;

use harness_metrics::stats::variance;
use serde::{Deserialize, Serialize};

use super::{
    Bounded, flip_rate,
    pairs::{pairs, winner},
};
use crate::{Judgment, Order, Purpose, Subject};

/// How the verdicts in both orders become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Combine {
    /// Each order counts half.
    #[default]
    Average,
    /// Orders that disagree are a tie (MT-Bench): ½.
    InconsistentIsTie,
}

/// A candidate against a baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairResult {
    /// The baseline.
    pub baseline: String,
    /// The candidate.
    pub candidate: String,
    /// Mean preference for the candidate, from 0 to 1: ties count half. One value an item; its interval carries the
    /// choice of items and the judge's noise.
    pub win_rate: Bounded,
    /// Item-turns the candidate won in every order asked.
    pub wins: usize,
    /// Item-turns it lost in every order asked.
    pub losses: usize,
    /// Item-turns that were ties in every order asked.
    pub ties: usize,
    /// Item-turns whose orders disagree.
    pub inconsistent: usize,
    /// Variance of one verdict when the same question is asked again, from repeated questions.
    pub judge_variance: Option<f64>,
    /// The part of the standard error that is due to it: √(variance/verdicts). The reported interval includes it.
    pub judge_standard_error: Option<f64>,
    /// Share of the variance over items that is due to it.
    pub judge_share: Option<f64>,
}

/// Preferences for the candidate by item: one a turn and order, combined by the rule; `None` for what could not be read.
pub fn item_preferences(
    judgments: &[Judgment],
    baseline: &str,
    candidate: &str,
    purpose: Purpose,
    combine: Combine,
) -> BTreeMap<String, Vec<Option<f64>>> {
    let mut by_turn: BTreeMap<(&str, usize), BTreeMap<Order, Option<f64>>> = BTreeMap::new();
    for judgment in judgments.iter().filter(|judgment| judgment.purpose == purpose && judgment.repeat == 0) {
        let Subject::Pair { baseline: b, candidate: c } = &judgment.subject else { continue };
        if b == baseline && c == candidate {
            let orders = by_turn.entry((&judgment.item, judgment.turn)).or_default();
            orders.insert(judgment.order, judgment.candidate_preference());
        }
    }
    let mut items: BTreeMap<String, Vec<Option<f64>>> = BTreeMap::new();
    for ((item, _), orders) in by_turn {
        let verdicts: Vec<Option<f64>> = orders.into_values().collect();
        let into = items.entry(item.to_owned()).or_default();
        match (combine, verdicts.as_slice()) {
            (Combine::InconsistentIsTie, [Some(a), Some(b)]) => {
                let same = winner(*a) == winner(*b);
                into.push(Some(if same { winner(*a) } else { 0.5 }));
            }
            // One order missing: the other may or may not have agreed.
            (Combine::InconsistentIsTie, [_, _]) => into.push(None),
            _ => into.extend(verdicts),
        }
    }
    items
}

/// The result of every pair, in order of first appearance; pairs without any verdict are left out.
pub fn pair_results(judgments: &[Judgment], combine: Combine, confidence: f64) -> Vec<PairResult> {
    let judge_variance = flip_rate(judgments, confidence).map(|flips| flips.variance);
    let one = |(baseline, candidate): (String, String)| {
        let items = item_preferences(judgments, &baseline, &candidate, Purpose::Main, combine);
        let values: Vec<&Vec<Option<f64>>> = items.values().collect();
        let win_rate = Bounded::of_items(&values, [0.0, 1.0], confidence)?;
        let mut counts = [0; 4];
        let mut by_turn: BTreeMap<(&str, usize), Vec<f64>> = BTreeMap::new();
        for judgment in judgments.iter().filter(|j| j.purpose == Purpose::Main) {
            let Subject::Pair { baseline: b, candidate: c } = &judgment.subject else { continue };
            if (b, c) == (&baseline, &candidate)
                && let Some(preference) = judgment.candidate_preference()
            {
                by_turn.entry((&judgment.item, judgment.turn)).or_default().push(winner(preference));
            }
        }
        for winners in by_turn.into_values() {
            let same = winners.iter().all(|w| *w == winners[0]);
            let which = if same { (winners[0] * 2.0) as usize } else { 3 };
            counts[which] += 1;
        }
        let means: Vec<f64> = items
            .values()
            .map(|verdicts| verdicts.iter().flatten().copied().collect::<Vec<f64>>())
            .filter(|read| !read.is_empty())
            .map(|read| read.iter().sum::<f64>() / read.len() as f64)
            .collect();
        let read = (win_rate.verdicts - win_rate.unparsed).max(1) as f64;
        let judge_standard_error = judge_variance.map(|variance| (variance / read).sqrt());
        let per_item = judge_variance.map(|variance| variance * means.len() as f64 / read);
        let judge_share = per_item.map(|part| part / variance(&means)).filter(|share| share.is_finite());
        Some(PairResult {
            baseline,
            candidate,
            win_rate,
            wins: counts[2],
            losses: counts[0],
            ties: counts[1],
            inconsistent: counts[3],
            judge_variance,
            judge_standard_error,
            judge_share: judge_share.map(|share| share.min(1.0)),
        })
    };
    pairs(judgments, Purpose::Main).into_iter().filter_map(one).collect()
}
