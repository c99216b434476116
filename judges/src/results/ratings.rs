//! Verdicts as ratings: one number for each item and turn, whoever gave it.

use std::collections::BTreeMap;

use harness_metrics::stats::{AlphaLevel, mean};

use super::pairs::winner;
use crate::{Judgment, Purpose, Subject};

/// Ratings of one subject by item and turn.
pub type Ratings = BTreeMap<(String, usize), f64>;

/// The subjects of main judgments, in order of first appearance.
pub fn subjects(judgments: &[Judgment]) -> Vec<Subject> {
    let mut found: Vec<Subject> = vec![];
    for judgment in judgments.iter().filter(|judgment| judgment.purpose == Purpose::Main) {
        if !found.contains(&judgment.subject) {
            found.push(judgment.subject.clone());
        }
    }
    found
}

/// What could be read of the main verdicts on a subject: the score, or the preference for the candidate, averaged over
/// orders.
pub fn ratings(judgments: &[Judgment], subject: &Subject) -> Ratings {
    let mut all: BTreeMap<(String, usize), Vec<f64>> = BTreeMap::new();
    for judgment in judgments.iter().filter(|j| j.purpose == Purpose::Main && j.repeat == 0 && j.subject == *subject) {
        if let Some(value) = judgment.score().or(judgment.candidate_preference()) {
            all.entry((judgment.item.clone(), judgment.turn)).or_default().push(value);
        }
    }
    all.into_iter().map(|(at, values)| (at, mean(&values))).collect()
}

/// Means over turns, by item.
pub(super) fn by_item(ratings: &Ratings) -> BTreeMap<&str, f64> {
    let mut turns: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for ((item, _), value) in ratings {
        turns.entry(item).or_default().push(*value);
    }
    turns.into_iter().map(|(item, values)| (item, mean(&values))).collect()
}

/// The category of a rating that agreement is measured by: loss, tie or win of a pair, the rounded score of a single
/// output.
pub fn category(subject: &Subject, rating: f64) -> f64 {
    match subject {
        Subject::Pair { .. } => winner(rating),
        Subject::Single { .. } => rating.round(),
    }
}

/// How far apart the categories of a subject's ratings are: ranks of loss, tie and win; differences of scores.
pub fn alpha_level(subject: &Subject) -> AlphaLevel {
    match subject {
        Subject::Pair { .. } => AlphaLevel::Ordinal,
        Subject::Single { .. } => AlphaLevel::Interval,
    }
}

impl Subject {
    /// The model in question: the candidate of a pair.
    pub fn model(&self) -> &str {
        match self {
            Self::Single { model } => model,
            Self::Pair { candidate, .. } => candidate,
        }
    }

    /// The model it is compared with.
    pub fn baseline(&self) -> Option<&str> {
        match self {
            Self::Single { .. } => None,
            Self::Pair { baseline, .. } => Some(baseline),
        }
    }
}
