//! Several judges as one: the mean of their verdicts.

use std::collections::BTreeMap;

use harness_judges::{Judgment, Outcome, QuestionId, Verdict};

/// For every question the mean of the verdicts there are; unparsed only where no member's could be read. Members may leave
/// questions out (people are not asked twice).
pub(super) fn mean(votes: &[Vec<Judgment>]) -> Vec<Judgment> {
    let Some(most) = votes.iter().max_by_key(|judgments| judgments.len()) else { return vec![] };
    let mut by_question: BTreeMap<QuestionId, Vec<&Judgment>> = BTreeMap::new();
    for judgment in votes.iter().flatten() {
        by_question.entry(judgment.question).or_default().push(judgment);
    }
    most.iter()
        .map(|judgment| {
            let all = by_question.get(&judgment.question).map(Vec::as_slice).unwrap_or_default();
            let verdicts: Vec<Verdict> = all.iter().filter_map(|judgment| judgment.outcome.verdict()).collect();
            let value = verdicts.iter().map(|verdict| verdict.value()).sum::<f64>() / verdicts.len() as f64;
            let outcome = match verdicts.first() {
                None => judgment.outcome.clone(),
                Some(Verdict::Score(_)) => Outcome::Parsed(Verdict::Score(value)),
                Some(Verdict::Preference(_)) => Outcome::Parsed(Verdict::Preference(value)),
            };
            let label_share = None;
            Judgment {
                outcome,
                label_share,
                attempts: all.iter().map(|judgment| judgment.attempts).sum(),
                ..judgment.clone()
            }
        })
        .collect()
}
