//! Verdicts of people, from a file.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use harness_judges::{Judgment, Order, Outcome, Plan, Purpose, Subject, Verdict};
use serde::Deserialize;

use super::direct;
use crate::commands::Failure;

/// One line of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// Id of the item: its instruction, or the question's number.
    item: String,
    /// The model that is judged, or the candidate of a pair.
    model: String,
    /// What it is compared with.
    baseline: Option<String>,
    #[serde(default = "one")]
    turn: usize,
    /// From 0 (the baseline is better) to 1 (the model is better).
    preference: Option<f64>,
    score: Option<f64>,
}

fn one() -> usize {
    1
}

type Key = (String, String, Option<String>, usize);

/// People's verdicts by item, model, baseline and turn; several of one are averaged.
pub(in crate::commands) struct HumanVerdicts {
    path: PathBuf,
    name: String,
    verdicts: BTreeMap<Key, Vec<f64>>,
}

impl HumanVerdicts {
    /// Reads JSON Lines with `item`, `model`, and `score`, or `baseline` and `preference`.
    ///
    /// # Errors
    /// If the file cannot be read, or a line is not of this form.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("cannot read the verdicts {}: {error}", path.display())))?;
        let mut verdicts: BTreeMap<Key, Vec<f64>> = BTreeMap::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let at = |what: String| Failure::usage(format!("{}, line {}: {what}", path.display(), number + 1));
            let line: Line = serde_json::from_str(line).map_err(|error| at(error.to_string()))?;
            let value = match (&line.baseline, line.preference, line.score) {
                (Some(_), Some(preference), None) if (0.0..=1.0).contains(&preference) => preference,
                (None, None, Some(score)) if score.is_finite() => score,
                (Some(_), Some(preference), None) => {
                    return Err(at(format!("preference {preference}: expected a number from 0 to 1")));
                }
                _ => {
                    return Err(at("expected `score`, or `baseline` with `preference` (0 to 1 for the model)".into()));
                }
            };
            verdicts.entry((line.item, line.model, line.baseline, line.turn)).or_default().push(value);
        }
        if verdicts.is_empty() {
            return Err(Failure::usage(format!("{}: there are no verdicts in it", path.display())));
        }
        let stem = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        Ok(Self { path: path.to_owned(), name: format!("human {stem}"), verdicts })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Judgments of the plan's main questions; people are asked neither twice nor about placebos.
    ///
    /// # Errors
    /// If the file has a verdict for none of the questions.
    pub(super) fn judge(&self, plan: &Plan) -> Result<Vec<Judgment>, Failure> {
        let mut judgments = direct::judgments(plan, |question| {
            let (model, baseline) = match &question.subject {
                Subject::Single { model } => (model, None),
                Subject::Pair { baseline, candidate } => (candidate, Some(baseline.clone())),
            };
            let values = self.verdicts.get(&(question.item.clone(), model.clone(), baseline, question.turn))?;
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            Some(Outcome::Parsed(match (&question.subject, question.order) {
                (Subject::Single { .. }, _) => Verdict::Score(mean),
                (Subject::Pair { .. }, Order::BaselineFirst) => Verdict::Preference(mean),
                (Subject::Pair { .. }, Order::CandidateFirst) => Verdict::Preference(1.0 - mean),
            }))
        });
        judgments.retain(|judgment| judgment.purpose == Purpose::Main);
        if !judgments.iter().any(|judgment| judgment.attempts > 0 && judgment.outcome.verdict().is_some()) {
            let (item, model, ..) = self.verdicts.keys().next().cloned().unwrap_or_default();
            return Err(Failure::usage(format!(
                "{}: no verdict is about what is judged here; the first is about item {item:?} of {model:?}",
                self.path.display()
            )));
        }
        Ok(judgments)
    }
}
