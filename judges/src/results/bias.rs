//! Where a judge leans, and how steady it is.

use std::collections::BTreeMap;

use harness_metrics::{
    comparison::JudgeFinding,
    stats::{
        Interval, ProportionInterval,
        distribution::{binomial_half_test, normal_critical},
        mean, mean_standard_error, proportion_interval, variance,
    },
};
use serde::{Deserialize, Serialize};

use super::{
    Bounded, Combine, item_preferences,
    pairs::{pairs, winner},
};
use crate::{Judgment, Order, Purpose, Subject};

/// How verdicts depend on the order shown (Zheng et al. 2023; Wang et al. 2023; Shi et al. 2024).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PositionBias {
    /// Pairs (an item's turn) with verdicts in both orders.
    pub pairs: usize,
    /// Share of them with the same winner, or a tie, in both orders.
    pub consistency: f64,
    /// Its Wilson interval.
    pub consistency_interval: Option<Interval>,
    /// The same among pairs without a tie in either order; `None` if there are none.
    pub consistency_without_ties: Option<f64>,
    /// Share of decided verdicts (no ties) for the output shown first; `None` if there are none.
    pub first_position_rate: Option<f64>,
    /// Inconsistent pairs in which the first output won both times.
    pub always_first: usize,
    /// Inconsistent pairs in which the second output won both times.
    pub always_second: usize,
    /// Exact two-sided p that neither position is favoured, from these two counts (McNemar's test).
    pub p: f64,
}

/// Position bias over all pairs shown in both orders; `None` if there are none.
pub fn position_bias(judgments: &[Judgment], confidence: f64) -> Option<PositionBias> {
    let mut shown: BTreeMap<(&str, &Subject, usize), BTreeMap<Order, f64>> = BTreeMap::new();
    for judgment in judgments.iter().filter(|j| j.purpose == Purpose::Main && j.attempts > 0) {
        if let Some(preference) = judgment.candidate_preference() {
            let orders = shown.entry((&judgment.item, &judgment.subject, judgment.turn)).or_default();
            orders.insert(judgment.order, winner(preference));
        }
    }
    let both: Vec<[f64; 2]> = shown
        .values()
        .filter_map(|orders| Some([*orders.get(&Order::BaselineFirst)?, *orders.get(&Order::CandidateFirst)?]))
        .collect();
    if both.is_empty() {
        return None;
    }
    let count = |condition: &dyn Fn(&[f64; 2]) -> bool| both.iter().filter(|pair| condition(pair)).count();
    let consistent = count(&|[a, b]| a == b);
    let decided = count(&|[a, b]| *a != 0.5 && *b != 0.5);
    let decided_consistent = count(&|[a, b]| a == b && *a != 0.5);
    // In the first order a win of the first output is a win of the baseline, in the second one of the candidate.
    let first = count(&|[a, _]| *a == 0.0) + count(&|[_, b]| *b == 1.0);
    let verdicts = count(&|[a, _]| *a != 0.5) + count(&|[_, b]| *b != 0.5);
    let (always_first, always_second) = (count(&|pair| *pair == [0.0, 1.0]), count(&|pair| *pair == [1.0, 0.0]));
    let share = |count: usize, of: usize| (of > 0).then(|| count as f64 / of as f64);
    let n = both.len();
    Some(PositionBias {
        pairs: n,
        consistency: consistent as f64 / n as f64,
        consistency_interval: proportion_interval(consistent as u64, n as u64, confidence, ProportionInterval::Wilson),
        consistency_without_ties: share(decided_consistent, decided),
        first_position_rate: share(first, verdicts),
        always_first,
        always_second,
        p: binomial_half_test(always_first as u64, (always_first + always_second) as u64),
    })
}

/// A model against itself. A coin decides which side is called the candidate's, so a sound procedure gives ½ even with
/// a judge that always names the first output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Placebo {
    /// The model.
    pub model: String,
    /// Its preference over itself.
    pub win_rate: Bounded,
    /// Whether the interval contains ½ (or all verdicts are ties).
    pub passed: bool,
    /// Share of decided verdicts for the output shown first: with equal outputs nothing but position decides.
    pub first_position_rate: Option<f64>,
}

/// The placebo of every model compared with itself.
pub fn placebos(judgments: &[Judgment], confidence: f64) -> Vec<Placebo> {
    let one = |(model, other): (String, String)| {
        let items = item_preferences(judgments, &model, &other, Purpose::SelfPair, Combine::Average);
        let win_rate = Bounded::of_items(&items.values().collect::<Vec<_>>(), [0.0, 1.0], confidence)?;
        let verdicts = judgments.iter().filter(|j| {
            j.purpose == Purpose::SelfPair
                && matches!(&j.subject, Subject::Pair { candidate, .. } if *candidate == model)
        });
        let slots: Vec<f64> =
            verdicts.filter_map(|j| j.outcome.verdict()).map(|v| winner(v.value())).filter(|w| *w != 0.5).collect();
        let first = slots.iter().filter(|slot| **slot == 0.0).count();
        Some(Placebo {
            passed: win_rate.interval.map_or(win_rate.value == 0.5, |interval| interval.contains(0.5)),
            model,
            win_rate,
            first_position_rate: (!slots.is_empty()).then(|| first as f64 / slots.len() as f64),
        })
    };
    pairs(judgments, Purpose::SelfPair).into_iter().filter_map(one).collect()
}

/// A candidate that always gives the same answer, against a baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NullAnswer {
    /// The baseline.
    pub baseline: String,
    /// Preference for the null answer; near 0 for a sound judge.
    pub win_rate: Bounded,
}

/// The null answer against every baseline.
pub fn null_answers(judgments: &[Judgment], confidence: f64) -> Vec<NullAnswer> {
    let one = |(baseline, candidate): (String, String)| {
        let items = item_preferences(judgments, &baseline, &candidate, Purpose::NullAnswer, Combine::Average);
        let win_rate = Bounded::of_items(&items.values().collect::<Vec<_>>(), [0.0, 1.0], confidence)?;
        Some(NullAnswer { baseline, win_rate })
    };
    pairs(judgments, Purpose::NullAnswer).into_iter().filter_map(one).collect()
}

/// What the judge and others say of the same items.
type VerdictPairs<'a> = &'a [(f64, f64)];

/// Self-preference of a judge for a model on the same base: by how much the judge's verdicts exceed those of others on
/// the model's items, less the same for the other models (Welch's standard error, normal quantiles). Pairs are (judge,
/// other), of the model itself and of the rest; `against` says who the others are. Without pairs of the model itself the
/// finding has no figures.
pub fn self_preference(
    model: &str,
    base: &str,
    (own, others): (VerdictPairs<'_>, VerdictPairs<'_>),
    against: &str,
    confidence: f64,
) -> JudgeFinding {
    let excess = |pairs: &[(f64, f64)]| pairs.iter().map(|(judge, other)| judge - other).collect::<Vec<f64>>();
    let (own, others) = (excess(own), excess(others));
    let (model, base, against) = (model.to_owned(), base.to_owned(), against.to_owned());
    if own.is_empty() {
        return JudgeFinding::SelfPreference { model, base, excess: None, interval: None, against };
    }
    let reference = if others.is_empty() { 0.0 } else { mean(&others) };
    let value = mean(&own) - reference;
    let error = if others.len() < 2 {
        mean_standard_error(&own)
    } else {
        (variance(&own) / own.len() as f64 + variance(&others) / others.len() as f64).sqrt()
    };
    let reach = normal_critical(confidence) * error;
    let interval = (reach > 0.0).then_some(Interval { low: value - reach, high: value + reach });
    JudgeFinding::SelfPreference { model, base, excess: Some(value), interval, against }
}
