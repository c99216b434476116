//! Mean scores: absolute grading, and MT-Bench's single grading.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Bounded;
use crate::{Item, Judgment, Purpose, Subject};

/// The scores of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreResult {
    /// The model.
    pub model: String,
    /// Mean over items of the mean over turns, with the interval over items.
    pub score: Bounded,
    /// Mean of each turn, from the first.
    pub turns: Vec<Bounded>,
    /// By category of the items, in order of first appearance.
    pub categories: Vec<CategoryScore>,
}

/// The scores of one category: a spoke of the radar plot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CategoryScore {
    /// The category.
    pub category: String,
    /// Its mean.
    pub score: Bounded,
}

/// The scores of every model, in order of first appearance; models without any score are left out. `scale` is the
/// protocol's lowest and highest score: what an unreadable verdict could have been.
pub fn score_results(judgments: &[Judgment], items: &[Item], scale: [f64; 2], confidence: f64) -> Vec<ScoreResult> {
    let mut models: Vec<&str> = vec![];
    let mut by_model: BTreeMap<&str, BTreeMap<&str, BTreeMap<usize, Option<f64>>>> = BTreeMap::new();
    for judgment in judgments.iter().filter(|judgment| judgment.purpose == Purpose::Main) {
        let Subject::Single { model } = &judgment.subject else { continue };
        if !models.contains(&model.as_str()) {
            models.push(model);
        }
        let scores = by_model.entry(model).or_default().entry(&judgment.item).or_default();
        scores.insert(judgment.turn, judgment.score());
    }
    let mut categories: Vec<&str> = vec![];
    for category in items.iter().filter_map(|item| item.category.as_deref()) {
        if !categories.contains(&category) {
            categories.push(category);
        }
    }
    let one = |model: &str| {
        let scores = &by_model[model];
        let bounded = |wanted: &dyn Fn(&str, usize) -> bool| {
            let of_items: Vec<Vec<Option<f64>>> = scores
                .iter()
                .map(|(item, turns)| {
                    turns.iter().filter(|(turn, _)| wanted(item, **turn)).map(|(_, score)| *score).collect()
                })
                .collect();
            Bounded::of_items(&of_items, scale, confidence)
        };
        let last = scores.values().flat_map(|turns| turns.keys()).max().copied().unwrap_or_default();
        let in_category = |id: &str, category: &str| {
            items.iter().any(|item| item.id == id && item.category.as_deref() == Some(category))
        };
        Some(ScoreResult {
            model: model.to_owned(),
            score: bounded(&|_, _| true)?,
            turns: (1..=last).filter_map(|turn| bounded(&|_, t| t == turn)).collect(),
            categories: categories
                .iter()
                .filter_map(|category| {
                    let score = bounded(&|item, _| in_category(item, category))?;
                    Some(CategoryScore { category: (*category).to_owned(), score })
                })
                .collect(),
        })
    };
    models.into_iter().filter_map(one).collect()
}
