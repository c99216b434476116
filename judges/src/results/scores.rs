//! Judgments as scores of documents, for the comparison table.

use std::collections::BTreeMap;

use harness_core::{MetricKey, SampleScore};

use super::{
    Combine, item_preferences,
    ratings::{by_item as by_item_means, ratings, subjects},
};
use crate::{Item, Judgment, Purpose, Subject};

/// One score a document for a candidate: its preference over the baseline as `[value, 1]`. The baseline's own column is
/// ½ everywhere: pass `None` as the candidate. An item without any readable verdict counts ½, and as not parsed.
pub fn pair_scores(
    set: &str,
    items: &[Item],
    judgments: &[Judgment],
    baseline: &str,
    candidate: Option<&str>,
    combine: Combine,
    key: &MetricKey,
) -> Vec<SampleScore> {
    let preferences = candidate
        .map(|candidate| item_preferences(judgments, baseline, candidate, Purpose::Main, combine))
        .unwrap_or_default();
    let score = |item: &Item| {
        let read: Vec<f64> = preferences.get(&item.id).into_iter().flatten().flatten().copied().collect();
        let value = if read.is_empty() { 0.5 } else { read.iter().sum::<f64>() / read.len() as f64 };
        let parsed = candidate.is_none() || !read.is_empty();
        SampleScore { doc: item.doc_id(set), key: key.clone(), stats: vec![value, 1.0], parsed }
    };
    items.iter().map(score).collect()
}

/// One score a document for a model that was graded by itself: the mean over turns as `[value, 1]`. An item without any
/// readable verdict gets the middle of the scale, and counts as not parsed.
pub fn single_scores(
    set: &str,
    items: &[Item],
    judgments: &[Judgment],
    model: &str,
    scale: [f64; 2],
    key: &MetricKey,
) -> Vec<SampleScore> {
    let mut by_item: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for judgment in judgments.iter().filter(|j| j.purpose == Purpose::Main) {
        if matches!(&judgment.subject, Subject::Single { model: m } if m == model)
            && let Some(score) = judgment.score()
        {
            by_item.entry(&judgment.item).or_default().push(score);
        }
    }
    let score = |item: &Item| {
        let read = by_item.get(item.id.as_str());
        let value = read.map_or((scale[0] + scale[1]) / 2.0, |read| read.iter().sum::<f64>() / read.len() as f64);
        SampleScore { doc: item.doc_id(set), key: key.clone(), stats: vec![value, 1.0], parsed: read.is_some() }
    };
    items.iter().map(score).collect()
}

/// One score a document for a model where every two models are compared: its preference over the others, averaged over
/// its pairs, as `[value, 1]`. An item without any readable verdict counts ½, and as not parsed.
pub fn all_pairs_scores(
    set: &str,
    items: &[Item],
    judgments: &[Judgment],
    model: &str,
    key: &MetricKey,
) -> Vec<SampleScore> {
    let mut by_item: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for subject in subjects(judgments) {
        let own = match (subject.model() == model, subject.baseline() == Some(model)) {
            (true, _) => 0.0,
            (_, true) => 1.0,
            _ => continue,
        };
        for (item, preference) in by_item_means(&ratings(judgments, &subject)) {
            by_item.entry(item.to_owned()).or_default().push(f64::abs(own - preference));
        }
    }
    let score = |item: &Item| {
        let read = by_item.get(&item.id);
        let value = read.map_or(0.5, |read| read.iter().sum::<f64>() / read.len() as f64);
        SampleScore { doc: item.doc_id(set), key: key.clone(), stats: vec![value, 1.0], parsed: read.is_some() }
    };
    items.iter().map(score).collect()
}
