//! Verdicts of people, from a file.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use harness_core::Digest;
use harness_judges::{Judgment, Order, Outcome, Plan, Purpose, Subject, Verdict};
use serde::Deserialize;

use super::direct;
use crate::EvaluationError;

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
pub struct HumanVerdicts {
    path: PathBuf,
    name: String,
    digest: Digest,
    verdicts: BTreeMap<Key, Vec<f64>>,
}

impl HumanVerdicts {
    /// Reads JSON Lines with `item`, `model`, and `score`, or `baseline` and `preference`.
    ///
    /// # Errors
    /// If the file cannot be read, or a line is not of this form.
    pub fn read(path: &Path) -> Result<Self, EvaluationError> {
        let text = harness_core::read_text(path)
            .map_err(|error| EvaluationError::usage(format!("cannot read the verdicts {}: {error}", path.display())))?;
        let mut verdicts: BTreeMap<Key, Vec<f64>> = BTreeMap::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let at = |what: String| EvaluationError::usage(format!("{}, line {}: {what}", path.display(), number + 1));
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
            return Err(EvaluationError::usage(format!("{}: contains no verdicts", path.display())));
        }
        let stem = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        Ok(Self { path: path.to_owned(), name: format!("human {stem}"), digest: Digest::of(&text), verdicts })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hash of the file.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Judgments of the plan's main questions; people are asked neither twice nor about placebos.
    ///
    /// # Errors
    /// If the file has a verdict for none of the questions, or one outside the protocol's scale.
    pub fn judge(&self, plan: &Plan) -> Result<Vec<Judgment>, EvaluationError> {
        self.check(plan)?;
        let mut judgments =
            direct::judgments(plan, |q| self.verdict(&q.item, &q.subject, q.order, q.turn).map(Outcome::Parsed));
        judgments.retain(|judgment| judgment.purpose == Purpose::Main);
        Ok(judgments)
    }

    /// The verdicts as gold labels: judgments of what the file has a verdict on, and of nothing else; and how many of its
    /// verdicts are about nothing that is judged.
    ///
    /// # Errors
    /// As for [`HumanVerdicts::judge`].
    pub fn labels(&self, plan: &Plan) -> Result<(Vec<Judgment>, usize), EvaluationError> {
        self.check(plan)?;
        // Equal outputs are a tie without a question, but no label unless people said so.
        let own = |j: &Judgment| self.verdict(&j.item, &j.subject, j.order, j.turn);
        let labels: Vec<Judgment> = direct::judgments(plan, |_| None)
            .into_iter()
            .filter(|judgment| judgment.purpose == Purpose::Main)
            .filter_map(|judgment| {
                own(&judgment).map(|verdict| Judgment { outcome: Outcome::Parsed(verdict), ..judgment })
            })
            .collect();
        let used: BTreeSet<Key> = labels.iter().map(|label| key(&label.item, &label.subject, label.turn)).collect();
        Ok((labels, self.verdicts.len() - used.len()))
    }

    /// The mean verdict on an output, in terms of what was shown.
    fn verdict(&self, item: &str, subject: &Subject, order: Order, turn: usize) -> Option<Verdict> {
        let values = self.verdicts.get(&key(item, subject, turn))?;
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        Some(match (subject, order) {
            (Subject::Single { .. }, _) => Verdict::Score(mean),
            (Subject::Pair { .. }, Order::BaselineFirst) => Verdict::Preference(mean),
            (Subject::Pair { .. }, Order::CandidateFirst) => Verdict::Preference(1.0 - mean),
        })
    }

    /// Whether any verdict is about what is judged, and all of those lie on the scale.
    fn check(&self, plan: &Plan) -> Result<(), EvaluationError> {
        let judged = plan.questions.iter().filter(|q| q.purpose == Purpose::Main);
        let mut known = false;
        for question in judged {
            let key = key(&question.item, &question.subject, question.turn);
            let Some(values) = self.verdicts.get(&key) else { continue };
            known = true;
            if let (Some([low, high]), Subject::Single { model }) = (plan.protocol.scale, &question.subject)
                && let Some(out) = values.iter().find(|value| !(low..=high).contains(*value))
            {
                return Err(EvaluationError::usage(format!(
                    "{}: the score {out} of {model:?} on item {:?} is not on the scale of {}, {low} to {high}",
                    self.path.display(),
                    question.item,
                    plan.protocol.name
                )));
            }
        }
        if known {
            return Ok(());
        }
        let (item, model, ..) = self.verdicts.keys().next().cloned().unwrap_or_default();
        Err(EvaluationError::usage(format!(
            "{}: no verdict is about anything judged here; the first is about item {item:?} of {model:?}",
            self.path.display()
        )))
    }
}

/// What a verdict is filed under.
fn key(item: &str, subject: &Subject, turn: usize) -> Key {
    (item.to_owned(), subject.model().to_owned(), subject.baseline().map(str::to_owned), turn)
}
