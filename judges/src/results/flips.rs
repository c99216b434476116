//! Whether a judge changes its mind.

use std::collections::BTreeMap;

use harness_metrics::stats::{Interval, ProportionInterval, proportion_interval};
use serde::{Deserialize, Serialize};

use super::pairs::winner;
use crate::{Judgment, Purpose, Verdict};

/// How often the judge changes its mind when asked again with another seed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlipRate {
    /// Questions with a verdict both times.
    pub asked: usize,
    /// Verdicts that changed: another winner, or another score.
    pub flipped: usize,
    /// Share of them.
    pub rate: f64,
    /// Its Wilson interval.
    pub interval: Option<Interval>,
    /// Variance of one verdict given the question: mean of (first − second)²/2.
    pub variance: f64,
}

/// The flip rate over repeated questions; `None` if there are none.
pub fn flip_rate(judgments: &[Judgment], confidence: f64) -> Option<FlipRate> {
    let key = |j: &Judgment| (j.item.clone(), j.subject.clone(), j.turn, j.order);
    let first: BTreeMap<_, Verdict> = judgments
        .iter()
        .filter(|j| j.purpose == Purpose::Main && j.repeat == 0)
        .filter_map(|j| Some((key(j), j.outcome.verdict()?)))
        .collect();
    let twice: Vec<(Verdict, Verdict)> = judgments
        .iter()
        .filter(|j| j.purpose == Purpose::Repeat)
        .filter_map(|j| Some((*first.get(&key(j))?, j.outcome.verdict()?)))
        .collect();
    if twice.is_empty() {
        return None;
    }
    let changed = |(a, b): &&(Verdict, Verdict)| match (a, b) {
        (Verdict::Preference(a), Verdict::Preference(b)) => winner(*a) != winner(*b),
        (a, b) => a.value() != b.value(),
    };
    let flipped = twice.iter().filter(changed).count();
    let asked = twice.len();
    Some(FlipRate {
        asked,
        flipped,
        rate: flipped as f64 / asked as f64,
        interval: proportion_interval(flipped as u64, asked as u64, confidence, ProportionInterval::Wilson),
        variance: twice.iter().map(|(a, b)| (a.value() - b.value()).powi(2) / 2.0).sum::<f64>() / asked as f64,
    })
}
