//! What is worth saying about a judge.

use std::collections::{BTreeMap, BTreeSet};

use harness_metrics::comparison::{Caveat, JudgeFinding, UnreadCause};

use super::{
    AgreementResult, ControlledWinRate, PairResult, ScoreResult, flip_rate, null_answers, placebos, position_bias,
    ratings::subjects,
};
use crate::{Judgment, Outcome, Purpose, Subject};

/// Consistency below which a judge's dependence on order is reported even where no position is favoured.
const CONSISTENCY: f64 = 0.75;
/// Flip rate above which a judge is called unsteady.
const FLIPS: f64 = 0.1;
/// Win rate of the null answer above which a judge is called exploitable.
const NULL_WINS: f64 = 0.1;
/// Kappa below which agreement is called low ("moderate" ends at 0.41; Landis and Koch 1977).
const KAPPA: f64 = 0.41;
/// p below which a bias is reported.
const ALPHA: f64 = 0.05;

/// What the findings are drawn from, besides the judgments.
#[derive(Clone, Debug, Default)]
pub struct FindingInputs<'a> {
    /// Win rates.
    pub pairs: &'a [PairResult],
    /// Mean scores, with the highest and lowest possible.
    pub scores: &'a [ScoreResult],
    /// Win rates with length and position taken out, by candidate.
    pub controlled: Vec<(String, ControlledWinRate)>,
    /// Agreement with others, by their name.
    pub agreement: Vec<(String, AgreementResult)>,
    /// Findings that only the caller can know: [`super::self_preference`], [`JudgeFinding::NotALanguageModel`].
    pub known: Vec<JudgeFinding>,
}

/// Every finding as a caveat of the comparison, for one task and judge.
pub fn findings(
    task: &str,
    judge: &str,
    judgments: &[Judgment],
    inputs: &FindingInputs<'_>,
    confidence: f64,
) -> Vec<Caveat> {
    let mut found = inputs.known.clone();
    let main_pairs: Vec<&Judgment> = judgments
        .iter()
        .filter(|j| j.purpose == Purpose::Main && j.attempts > 0 && matches!(j.subject, Subject::Pair { .. }))
        .collect();
    // AlpacaEval's one order differs from item to item: what counts is that none was asked in both.
    let asked: BTreeSet<_> = main_pairs.iter().map(|j| (&j.item, &j.subject, j.turn)).collect();
    let one_order = !asked.is_empty() && asked.len() == main_pairs.len();
    match position_bias(judgments, confidence) {
        None if one_order => found.push(JudgeFinding::OneOrderOnly { pairs: main_pairs.len() }),
        Some(bias) if bias.p < ALPHA || bias.consistency < CONSISTENCY => {
            found.push(JudgeFinding::PositionBias {
                consistency: bias.consistency,
                first_position_rate: bias.first_position_rate.unwrap_or(0.5),
                pairs: bias.pairs,
                p: bias.p,
            });
        }
        _ => {}
    }
    for (candidate, controlled) in &inputs.controlled {
        let raw = inputs.pairs.iter().find(|pair| &pair.candidate == candidate).map(|pair| pair.win_rate.value);
        if let (Some(win_rate), Some(interval)) = (raw, controlled.length_interval)
            && !interval.contains(0.0)
        {
            let (slope, controlled) = (controlled.length_slope, controlled.win_rate);
            found.push(JudgeFinding::LengthBias { slope, interval, win_rate, controlled });
        }
    }
    if let Some(flips) = flip_rate(judgments, confidence)
        && flips.rate > FLIPS
        && let Some(interval) = flips.interval
    {
        found.push(JudgeFinding::UnsteadyJudge { flip_rate: flips.rate, interval, asked: flips.asked });
    }
    for placebo in placebos(judgments, confidence).into_iter().filter(|placebo| !placebo.passed) {
        if let Some(interval) = placebo.win_rate.interval {
            let (model, win_rate) = (placebo.model, placebo.win_rate.value);
            found.push(JudgeFinding::PlaceboFailed { model, win_rate, interval });
        }
    }
    for null in null_answers(judgments, confidence).into_iter().filter(|null| null.win_rate.value > NULL_WINS) {
        if let Some(interval) = null.win_rate.interval {
            let (win_rate, n) = (null.win_rate.value, null.win_rate.n);
            found.push(JudgeFinding::ExploitableJudge { win_rate, interval, n });
        }
    }
    let of_pairs = inputs.pairs.iter().map(|pair| {
        let (baseline, candidate) = (pair.baseline.clone(), pair.candidate.clone());
        (Subject::Pair { baseline, candidate }, &pair.win_rate)
    });
    let of_scores = inputs.scores.iter().map(|score| (Subject::Single { model: score.model.clone() }, &score.score));
    for (subject, value) in of_pairs.chain(of_scores).filter(|(_, value)| value.unparsed > 0) {
        let (count, of, worst, best) = (value.unparsed, value.verdicts, value.worst, value.best);
        let (reasons, cause) = unread(judgments, &subject);
        found.push(JudgeFinding::UnparsedVerdicts { count, of, worst, best, reasons, cause });
    }
    found.extend(nothing_read(judgments));
    for (with, agreement) in inputs.agreement.iter().filter(|(_, agreement)| agreement.kappa < KAPPA) {
        let (kappa, interval, n) = (agreement.kappa, agreement.kappa_interval, agreement.n);
        found.push(JudgeFinding::LowAgreement { with: with.clone(), kappa, interval, n });
    }
    found.into_iter().map(|finding| Caveat::Judge { task: task.into(), judge: judge.into(), finding }).collect()
}

/// Why verdicts about something could not be read, the most frequent reason first, and where the cause of most lies.
fn unread(judgments: &[Judgment], subject: &Subject) -> (Vec<(String, usize)>, UnreadCause) {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut causes: BTreeMap<UnreadCause, usize> = BTreeMap::new();
    for judgment in judgments.iter().filter(|j| j.purpose == Purpose::Main && j.subject == *subject) {
        if let Outcome::Unparsed(reason) = &judgment.outcome {
            *reasons.entry(reason.to_string()).or_default() += 1;
            *causes.entry(reason.cause()).or_default() += 1;
        }
    }
    let mut reasons: Vec<(String, usize)> = reasons.into_iter().collect();
    reasons.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let most = causes.into_iter().rev().max_by_key(|(_, count)| *count);
    (reasons, most.map_or_else(UnreadCause::default, |(cause, _)| cause))
}

/// The finding that no verdict on a model could be read at all; what it could have been is left open.
fn nothing_read(judgments: &[Judgment]) -> Vec<JudgeFinding> {
    let main = |subject: &Subject| -> Vec<&Judgment> {
        judgments.iter().filter(|j| j.purpose == Purpose::Main && j.subject == *subject).collect()
    };
    let nothing = |subject: Subject| {
        let all = main(&subject);
        let none = all.iter().all(|judgment| judgment.outcome.verdict().is_none());
        let (reasons, cause) = unread(judgments, &subject);
        none.then(|| JudgeFinding::NothingRead { model: subject.model().to_owned(), count: all.len(), reasons, cause })
    };
    subjects(judgments).into_iter().filter_map(nothing).collect()
}
