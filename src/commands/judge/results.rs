//! From judgments to the table of a comparison, to results, and to what was found about the judge.

use std::collections::BTreeMap;

use harness_core::{MetricKey, Seed};
use harness_judges::{
    Item, JudgesError, Judgment, Kind, OutputSet, Protocol, WinRate,
    files::alpaca_eval::{AnnotationOrder, annotations},
    length_control::{LengthControl, LengthControlOptions, LengthControlled, LengthRow},
    results::{
        Combine, ControlledWinRate, FindingInputs, FlipRate, NullAnswer, PairResult, Placebo, PositionBias,
        ScoreResult, findings, flip_rate, null_answers, pair_results, pair_scores, placebos, position_bias,
        score_results, single_scores,
    },
};
use harness_metrics::{
    Statistic,
    comparison::{Caveat, Column, JudgeFinding, Scale, Settings, Table},
};
use serde::Serialize;

use super::backend::Judge;
use crate::commands::Failure;

/// What is judged, and how it is computed.
pub(in crate::commands) struct Setting<'a> {
    pub protocol: &'a Protocol,
    pub judge: &'a Judge,
    /// Name of the set of instructions.
    pub set: &'a str,
    pub items: &'a [Item],
    /// Of pairs: the baseline first.
    pub sets: &'a [OutputSet],
    pub settings: &'a Settings,
}

/// The result of one model.
#[derive(Clone, Debug, Serialize)]
pub(in crate::commands) struct ModelResult {
    /// The model.
    pub model: String,
    /// Mean length of its outputs in characters.
    pub avg_length: f64,
    /// Against the baseline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pair: Option<PairResult>,
    /// alpaca_eval's figures, from one order an instruction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpaca_eval: Option<WinRate>,
    /// alpaca_eval's length-controlled win rate, without calibration data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length_controlled: Option<LengthControlled>,
    /// With length and position taken out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controlled: Option<ControlledWinRate>,
    /// Scores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<ScoreResult>,
}

/// All that follows from the judgments.
#[derive(Clone, Debug, Serialize)]
pub(in crate::commands) struct Results {
    /// By model; of pairs, by candidate.
    pub models: Vec<ModelResult>,
    /// How the judge depends on order.
    pub position_bias: Option<PositionBias>,
    /// How often it changes its mind.
    pub flip_rate: Option<FlipRate>,
    /// Models against themselves.
    pub placebos: Vec<Placebo>,
    /// The null answer.
    pub null_answers: Vec<NullAnswer>,
    /// What limits the result.
    #[serde(skip)]
    pub caveats: Vec<Caveat>,
}

impl Results {
    /// Verdicts that could be read, over all models.
    pub(in crate::commands) fn decided(&self) -> usize {
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
/// If outputs are missing.
pub(in crate::commands) fn results(setting: &Setting<'_>, judgments: &[Judgment]) -> Result<Results, Failure> {
    let confidence = setting.settings.confidence;
    let pairwise = setting.protocol.kind == Kind::Pairwise;
    let pairs = pair_results(judgments, Combine::default(), confidence);
    let scale = setting.protocol.scale.unwrap_or([1.0, 5.0]);
    let scores = if pairwise { vec![] } else { score_results(judgments, setting.items, scale, confidence) };
    let mut models = vec![];
    for set in setting.sets.iter().skip(usize::from(pairwise)) {
        let mut result = ModelResult {
            model: set.model.clone(),
            avg_length: average_length(set),
            pair: pairs.iter().find(|pair| pair.candidate == set.model).cloned(),
            alpaca_eval: None,
            length_controlled: None,
            controlled: None,
            score: scores.iter().find(|score| score.model == set.model).cloned(),
        };
        if pairwise {
            let baseline = &setting.sets[0];
            result.controlled = controlled(setting, judgments, baseline, set);
            if !setting.protocol.is_multi_turn() {
                let (win_rate, length) = alpaca_eval(setting, judgments, baseline, set)?;
                result.alpaca_eval = Some(win_rate);
                result.length_controlled = length;
            }
        }
        models.push(result);
    }
    let mut known = vec![];
    if let Judge::Overlap = setting.judge {
        known.push(JudgeFinding::NotALanguageModel {
            what: "it prefers the output that shares more with the reference (mean of ROUGE-L and chrF)".to_owned(),
        });
    }
    let controlled = models.iter().filter_map(|result| Some((result.model.clone(), result.controlled?))).collect();
    let inputs = FindingInputs { pairs: &pairs, scores: &scores, controlled, agreement: vec![], known };
    let caveats = findings(setting.set, &setting.judge.name(), judgments, &inputs, confidence);
    Ok(Results {
        models,
        position_bias: position_bias(judgments, confidence),
        flip_rate: flip_rate(judgments, confidence),
        placebos: placebos(judgments, confidence),
        null_answers: null_answers(judgments, confidence),
        caveats,
    })
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
    let settings = setting.settings;
    ControlledWinRate::fit(&rows, settings.resamples.min(1000), settings.confidence, Seed(settings.seed)).ok()
}

/// alpaca_eval's numbers. The length control is the variant that needs no calibration data.
fn alpaca_eval(
    setting: &Setting<'_>,
    judgments: &[Judgment],
    baseline: &OutputSet,
    candidate: &OutputSet,
) -> Result<(WinRate, Option<LengthControlled>), JudgesError> {
    let order = AnnotationOrder::AlpacaEval;
    let rows = annotations(setting.items, baseline, candidate, judgments, &setting.judge.name(), order)?;
    let characters = |text: &str| text.chars().count() as f64;
    let lengths: Vec<LengthRow> = rows
        .iter()
        .enumerate()
        .filter_map(|(index, row)| {
            Some(LengthRow {
                preference: if row.preference? == 0.0 { 0.5 } else { row.preference? - 1.0 },
                baseline_length: characters(&row.output_1),
                candidate_length: characters(&row.output_2),
                index,
            })
        })
        .collect();
    let settings = setting.settings;
    let fit = LengthControlled::fit(&lengths, LengthControl::Minimal, None, &LengthControlOptions::default());
    let seed = Seed(settings.seed);
    let fit =
        fit.and_then(|fit| fit.with_interval(&lengths, None, settings.resamples.min(1000), settings.confidence, seed));
    Ok((WinRate::of_annotations(rows.iter().filter_map(|row| row.preference)), fit.ok()))
}

/// The row of a comparison: win rates, in which the baseline against itself is ½ by definition, or mean scores.
pub(in crate::commands) fn table(setting: &Setting<'_>, judgments: &[Judgment]) -> Table {
    let pairwise = setting.protocol.kind == Kind::Pairwise;
    let key = MetricKey::new(if pairwise { "win_rate" } else { "score" }, setting.judge.name());
    let range = setting.protocol.scale.unwrap_or([1.0, 5.0]);
    let baseline = setting.sets.first().map_or("", |set| &set.model);
    let columns = setting.sets.iter().enumerate().map(|(number, set)| {
        let candidate = (number > 0).then_some(set.model.as_str());
        let scores = if pairwise {
            pair_scores(setting.set, setting.items, judgments, baseline, candidate, Combine::default(), &key)
        } else {
            single_scores(setting.set, setting.items, judgments, &set.model, range, &key)
        };
        Column::new(set.model.clone(), scores)
    });
    Table {
        task: setting.set.to_owned(),
        alias: None,
        group: None,
        depth: 0,
        pooled: false,
        statistic: Statistic::Mean,
        higher_is_better: true,
        scale: if pairwise { Scale::Fraction } else { Scale::Raw },
        primary: true,
        columns: columns.collect(),
        clusters: BTreeMap::new(),
        noise: None,
        key,
    }
}
