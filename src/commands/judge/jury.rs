//! Several judges as one: the mean of their verdicts.

use harness_judges::{Judgment, Outcome, Verdict};

/// For every question the mean of the verdicts there are; unparsed only where no member's could be read.
pub(super) fn mean(votes: &[Vec<Judgment>]) -> Vec<Judgment> {
    let Some(first) = votes.first() else { return vec![] };
    first
        .iter()
        .enumerate()
        .map(|(at, judgment)| {
            let all: Vec<&Judgment> = votes.iter().filter_map(|judgments| judgments.get(at)).collect();
            let verdicts: Vec<Verdict> = all.iter().filter_map(|judgment| judgment.outcome.verdict()).collect();
            let value = verdicts.iter().map(|verdict| verdict.value()).sum::<f64>() / verdicts.len() as f64;
            let outcome = match verdicts.first() {
                None => judgment.outcome.clone(),
                Some(Verdict::Score(_)) => Outcome::Parsed(Verdict::Score(value)),
                Some(Verdict::Preference(_)) => Outcome::Parsed(Verdict::Preference(value)),
            };
            Judgment { outcome, attempts: all.iter().map(|judgment| judgment.attempts).sum(), ..judgment.clone() }
        })
        .collect()
}
