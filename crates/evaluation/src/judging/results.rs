//! From judgments to results, and to what was found about the judge.

use std::collections::BTreeMap;

use harness_judges::{
    AlpacaEvalResult, Item, Judgment, Kind, LEAST_LABEL_SHARE, Outcome, OutputSet, Plan, Protocol, Purpose,
    files::{
        alpaca_eval::{AnnotationOrder, annotations},
        fastchat,
    },
    results::{
        Combine, ControlledWinRate, FastChatScores, FindingInputs, FlipRate, GoldResult, JuryResult, LabelShares,
        NullAnswer, PairResult, PairRow, Placebo, PositionBias, ScoreResult, WinLossTie, against_gold,
        fastchat_pairwise, fastchat_single, findings, flip_rate, jury_results, null_answers, pair_results, placebos,
        position_bias, score_results,
    },
};
use harness_metrics::comparison::{Caveat, JudgeFinding};
use serde::Serialize;

use super::{ask::Asked, backend::Judge, case::Setting, kinship};
use crate::EvaluationError;

/// The result of one model.
#[derive(Clone, Debug, Serialize)]
pub struct ModelResult {
    /// The model.
    pub model: String,
    /// What it is compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
    /// Mean length of its outputs in characters.
    pub avg_length: f64,
    /// Against the baseline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pair: Option<PairResult>,
    /// alpaca_eval's figures, from one order an instruction, with the length-controlled win rates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpaca_eval: Option<AlpacaEvalResult>,
    /// With length and position taken out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controlled: Option<ControlledWinRate>,
    /// Scores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<ScoreResult>,
}

/// FastChat's own counts of one model.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Games {
    #[serde(flatten)]
    pub counts: WinLossTie,
    pub win_rate: f64,
    pub loss_rate: f64,
    pub win_rate_adjusted: f64,
}

/// All that follows from the judgments.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Results {
    /// By model; of pairs, by pair.
    pub models: Vec<ModelResult>,
    /// How the judge depends on order.
    pub position_bias: Option<PositionBias>,
    /// How often it changes its mind.
    pub flip_rate: Option<FlipRate>,
    /// Models against themselves.
    pub placebos: Vec<Placebo>,
    /// The null answer.
    pub null_answers: Vec<NullAnswer>,
    /// What the members of a jury say, and how far they agree.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub jury: Vec<JuryResult>,
    /// What gold labels say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gold: Vec<GoldResult>,
    /// FastChat's table of single grading.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub fastchat_scores: BTreeMap<String, FastChatScores>,
    /// FastChat's table of games: orders that disagree are a tie.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub fastchat_games: BTreeMap<String, Games>,
    /// Why verdicts could not be read, and how many.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unread: BTreeMap<String, usize>,
    /// The items of these verdicts, by reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unread_items: BTreeMap<String, Vec<String>>,
    /// How much of the probability lies on the labels, where log-probabilities give verdicts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_share: Option<LabelShares>,
    /// Whether the judge was asked and not one of its verdicts could be read.
    pub nothing_read: bool,
    /// What limits the result.
    #[serde(skip)]
    pub caveats: Vec<Caveat>,
}

impl Results {
    /// Verdicts that could be read, over all models.
    pub fn decided(&self) -> usize {
        let of = |result: &ModelResult| {
            let bounded = result.pair.as_ref().map(|pair| &pair.win_rate).or(result.score.as_ref().map(|s| &s.score));
            bounded.map_or(0, |bounded| bounded.verdicts - bounded.unparsed)
        };
        self.models.iter().map(of).sum()
    }
}

/// Computes everything.
///
/// # Errors
/// If outputs are missing, or calibration data do not cover the instructions.
pub(super) fn results(setting: &Setting<'_>, plan: &Plan, asked: &Asked) -> Result<Results, EvaluationError> {
    let confidence = setting.settings.confidence;
    let judgments = &asked.judgments;
    let pairs = pair_results(judgments, Combine::default(), confidence);
    let scores = match setting.protocol.kind {
        Kind::Pairwise => vec![],
        Kind::Absolute => score_results(judgments, setting.items, setting.range(), confidence),
    };
    let mut results = Results {
        models: models(setting, judgments, &pairs, &scores)?,
        position_bias: position_bias(judgments, confidence),
        flip_rate: flip_rate(judgments, confidence),
        placebos: placebos(judgments, confidence),
        null_answers: null_answers(judgments, confidence),
        jury: jury_results(&asked.by_member(), setting.range(), setting.bootstrap()),
        ..Results::default()
    };
    for judgment in judgments.iter().filter(|judgment| judgment.purpose == Purpose::Main) {
        if let Outcome::Unparsed(reason) = &judgment.outcome {
            *results.unread.entry(reason.to_string()).or_default() += 1;
            let items = results.unread_items.entry(reason.to_string()).or_default();
            if !items.contains(&judgment.item) {
                items.push(judgment.item.clone());
            }
        }
    }
    // Equal outputs are settled without the judge.
    let mut asked_main = judgments.iter().filter(|j| j.purpose == Purpose::Main && j.attempts > 0).peekable();
    results.nothing_read = asked_main.peek().is_some() && asked_main.all(|j| j.outcome.verdict().is_none());
    results.label_share = LabelShares::of(judgments);
    if let Some(gold) = setting.gold {
        results.gold = against_gold(judgments, &gold.judgments, setting.bootstrap())?;
    }
    if setting.protocol.is_multi_turn() {
        fastchat_tables(setting, plan, judgments, &mut results);
    }
    results.caveats = caveats(setting, asked, &results, &pairs, &scores);
    Ok(results)
}

/// The result of every model, of pairs the result of every pair.
fn models(
    setting: &Setting<'_>,
    judgments: &[Judgment],
    pairs: &[PairResult],
    scores: &[ScoreResult],
) -> Result<Vec<ModelResult>, EvaluationError> {
    let mut models = vec![];
    for (baseline, candidate) in setting.pairs.iter().map(|(a, b)| (&setting.sets[*a], &setting.sets[*b])) {
        let is_this = |pair: &&PairResult| pair.baseline == baseline.model && pair.candidate == candidate.model;
        models.push(ModelResult {
            model: candidate.model.clone(),
            baseline: Some(baseline.model.clone()),
            avg_length: average_length(candidate),
            pair: pairs.iter().find(is_this).cloned(),
            alpaca_eval: if setting.protocol.is_multi_turn() {
                None
            } else {
                alpaca_eval(setting, judgments, baseline, candidate)?
            },
            controlled: controlled(setting, judgments, baseline, candidate),
            score: None,
        });
    }
    for set in setting.sets.iter().filter(|_| !setting.is_pairwise()) {
        models.push(ModelResult {
            model: set.model.clone(),
            baseline: None,
            avg_length: average_length(set),
            pair: None,
            alpaca_eval: None,
            controlled: None,
            score: scores.iter().find(|score| score.model == set.model).cloned(),
        });
    }
    Ok(models)
}

/// FastChat's own tables.
fn fastchat_tables(setting: &Setting<'_>, plan: &Plan, judgments: &[Judgment], results: &mut Results) {
    let judge = setting.judge.name();
    if !setting.is_pairwise() {
        results.fastchat_scores = fastchat_single(&fastchat::single_judgments(plan, judgments, &judge, 0.0));
        return;
    }
    let rows = fastchat::pair_judgments(plan, judgments, &judge, 0.0);
    let baseline = if setting.is_all_pairs() { None } else { setting.sets.first().map(|set| set.model.as_str()) };
    results.fastchat_games = fastchat_pairwise(rows.iter().map(PairRow::from), baseline)
        .into_iter()
        .map(|(model, counts)| {
            let rates = (counts.win_rate(), counts.loss_rate(), counts.win_rate_adjusted());
            (model, Games { counts, win_rate: rates.0, loss_rate: rates.1, win_rate_adjusted: rates.2 })
        })
        .collect();
}

/// What was found, about the judge and about each member of a jury.
fn caveats(
    setting: &Setting<'_>,
    asked: &Asked,
    results: &Results,
    pairs: &[PairResult],
    scores: &[ScoreResult],
) -> Vec<Caveat> {
    let confidence = setting.settings.confidence;
    let mut known = vec![];
    if let Judge::Overlap = setting.judge {
        known.push(JudgeFinding::NotALanguageModel {
            what: "it prefers the output that shares more with the reference (mean of ROUGE-L and chrF)".to_owned(),
        });
    }
    known.extend(of_asking(setting.protocol, asked));
    known.extend(setting.sets.iter().filter_map(|set| empty_outputs(setting.items, set)));
    // Only AlpacaEval's own verdicts are quoted with its length control.
    if setting.protocol.labels.is_some() && !results.nothing_read {
        known.extend(results.models.iter().filter_map(length_control_fails));
    }
    let mut agreement = vec![];
    if let Some(gold) = setting.gold {
        known.extend(results.gold.iter().map(|one| one.finding(&gold.name)));
        agreement = results.gold.iter().filter_map(|one| Some((gold.name.clone(), one.agreement?))).collect();
    }
    let controlled = results.models.iter().filter_map(|result| Some((result.model.clone(), result.controlled?)));
    let inputs = FindingInputs { pairs, scores, controlled: controlled.collect(), agreement, known };
    let name = setting.judge.name();
    let mut caveats = findings(setting.set, &name, &asked.judgments, &inputs, confidence);
    // What a jury's mean hides: the members' own leanings.
    for (member, one) in setting.judge.members().iter().zip(&asked.members) {
        if member.origin().is_some() {
            let known = of_asking(setting.protocol, &one.1);
            let inputs = FindingInputs { known, ..FindingInputs::default() };
            caveats.extend(findings(setting.set, &one.0, &one.1.judgments, &inputs, confidence));
        }
    }
    caveats.extend(kinship::caveats(setting, asked));
    caveats
}

/// What was noticed while one judge was asked.
fn of_asking(protocol: &Protocol, asked: &Asked) -> Vec<JudgeFinding> {
    let mut found = vec![];
    let settings = asked.dropped.iter().cloned().collect::<Vec<_>>().join(", ");
    if !settings.is_empty() {
        found.push(JudgeFinding::SettingDropped { settings });
    }
    let [count, of] = asked.written_labels;
    if count > 0 {
        found.push(JudgeFinding::WrittenLabels { count, of });
    }
    let bound = protocol.least_label_share;
    let (least, counted) = if bound > 0.0 { (bound, false) } else { (LEAST_LABEL_SHARE, true) };
    if let Some(shares) = LabelShares::of(&asked.judgments) {
        let below = shares.below(least);
        if below > 0 {
            let (of, median) = (shares.n, shares.median);
            found.push(JudgeFinding::LabelShare { below, of, least, median, counted });
        }
    }
    found
}

/// Outputs of one model that say nothing. Judges see them as they are: the reference tools show them too.
fn empty_outputs(items: &[Item], set: &OutputSet) -> Option<JudgeFinding> {
    let outputs: Vec<&String> = items.iter().filter_map(|item| set.get(&item.id)).flatten().collect();
    let count = outputs.iter().filter(|output| output.trim().is_empty()).count();
    let (model, of) = (set.model.clone(), outputs.len());
    (count > 0).then_some(JudgeFinding::EmptyOutputs { model, count, of })
}

/// The finding that the length-controlled win rate to quote is none.
fn length_control_fails(result: &ModelResult) -> Option<JudgeFinding> {
    let found = result.alpaca_eval.as_ref()?;
    let reason = match found.length_controlled_win_rate() {
        Some(controlled) => controlled.doubt?.to_string(),
        None => "fewer than two instructions have a verdict, or all outputs differ in length by the same amount".into(),
    };
    Some(JudgeFinding::LengthControlFails { model: result.model.clone(), reason })
}

fn length(set: &OutputSet, item: &str) -> Option<usize> {
    Some(set.get(item)?.iter().map(|output| output.chars().count()).sum())
}

fn average_length(set: &OutputSet) -> f64 {
    let lengths: Vec<f64> = set.outputs.keys().filter_map(|item| length(set, item)).map(|n| n as f64).collect();
    if lengths.is_empty() { 0.0 } else { lengths.iter().sum::<f64>() / lengths.len() as f64 }
}

/// The win rate with length and position taken out; `None` where the data do not allow it.
fn controlled(
    setting: &Setting<'_>,
    judgments: &[Judgment],
    baseline: &OutputSet,
    candidate: &OutputSet,
) -> Option<ControlledWinRate> {
    let lengths = |item: &str| Some((length(baseline, item)?, length(candidate, item)?));
    let rows = ControlledWinRate::rows(judgments, &baseline.model, &candidate.model, lengths);
    let (resamples, confidence, seed) = setting.bootstrap();
    ControlledWinRate::fit(&rows, resamples, confidence, seed).ok()
}

/// alpaca_eval's numbers, from the order that it draws for each instruction.
fn alpaca_eval(
    setting: &Setting<'_>,
    judgments: &[Judgment],
    baseline: &OutputSet,
    candidate: &OutputSet,
) -> Result<Option<AlpacaEvalResult>, EvaluationError> {
    let order = AnnotationOrder::AlpacaEval;
    let rows = annotations(setting.items, baseline, candidate, judgments, &setting.judge.name(), order)?;
    Ok(AlpacaEvalResult::of_annotations(&rows, setting.calibration, setting.bootstrap())?)
}
