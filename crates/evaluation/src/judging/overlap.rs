//! The judge that reads no meaning: which output shares more with the reference?

use std::collections::BTreeMap;

use harness_judges::{Item, Judgment, Order, Outcome, OutputSet, Plan, Subject, Verdict};
use harness_metrics::{Chrf, Rouge, RougeType};

use super::direct;
use crate::EvaluationError;

/// Overlaps that differ by less are equal.
const EQUAL: f64 = 1e-9;

/// Judgments by overlap with the items' references. A pair's better output is the one with the larger overlap; a single
/// output's score is the overlap on the protocol's scale.
///
/// # Errors
/// If an item has no reference.
pub(super) fn judge(plan: &Plan, items: &[Item], outputs: &[OutputSet]) -> Result<Vec<Judgment>, EvaluationError> {
    let items: BTreeMap<&str, &Item> = items.iter().map(|item| (item.id.as_str(), item)).collect();
    let without: Vec<&str> = plan
        .questions
        .iter()
        .filter(|question| reference(&items, &question.item, question.turn).is_none())
        .map(|question| question.item.as_str())
        .collect();
    if let Some(first) = without.first() {
        return Err(EvaluationError::usage(format!(
            "the judge `overlap` compares outputs with references, and {} questions have none, the first of item {first:?}; \
             give a file with references, or another --judge",
            without.len()
        )));
    }
    let overlap = Overlap::new();
    let scale = plan.protocol.scale.unwrap_or([1.0, 5.0]);
    Ok(direct::judgments(plan, |question| {
        let reference = reference(&items, &question.item, question.turn)?;
        let score = |model: &str| {
            let output = outputs.iter().find(|set| set.model == model)?.get(&question.item)?;
            Some(overlap.score(reference, output.get(question.turn - 1)?))
        };
        let verdict = match &question.subject {
            Subject::Single { model } => Verdict::Score(scale[0] + score(model)? * (scale[1] - scale[0])),
            Subject::Pair { baseline, candidate } => {
                let (base, other) = (score(baseline)?, score(candidate)?);
                let for_candidate = if (base - other).abs() < EQUAL { 0.5 } else { f64::from(u8::from(other > base)) };
                Verdict::Preference(match question.order {
                    Order::BaselineFirst => for_candidate,
                    Order::CandidateFirst => 1.0 - for_candidate,
                })
            }
        };
        Some(Outcome::Parsed(verdict))
    }))
}

fn reference<'a>(items: &BTreeMap<&str, &'a Item>, item: &str, turn: usize) -> Option<&'a str> {
    items.get(item)?.reference.get(turn - 1).map(String::as_str).filter(|text| !text.trim().is_empty())
}

/// The overlap of an output with a reference, from 0 to 1.
pub(super) struct Overlap {
    rouge: Rouge,
    chrf: Chrf,
}

impl Overlap {
    pub(super) fn new() -> Self {
        Self { rouge: Rouge::new([RougeType::L], false), chrf: Chrf::default() }
    }

    /// Mean of the F-measure of ROUGE-L and chrF.
    pub(super) fn score(&self, reference: &str, output: &str) -> f64 {
        let rouge = self.rouge.score(reference, output).first().map_or(0.0, |score| score.fmeasure);
        (rouge + self.chrf.sentence_score(output, &[reference]) / 100.0) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_in_common_is_more() {
        let overlap = Overlap::new();
        let reference = "The red house stands by the river.";
        let score = |output: &str| overlap.score(reference, output);
        assert!((score(reference) - 1.0).abs() < 1e-9);
        assert!(score("A red house by the river") > score("A house"));
        assert!(score("") == 0.0 && score("zzz") < 0.05);
    }
}
