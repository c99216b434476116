//! Outputs before a judge.

mod ask;
mod backend;
mod bill;
mod case;
mod compare;
mod direct;
mod files;
mod human;
mod jury;
mod kinship;
mod options;
mod origin;
mod outputs;
mod overlap;
mod report;
mod results;
mod tables;
mod text;

use std::path::Path;

use harness_judges::{Item, Kind, OutputSet, Plan, PlanOptions, Protocol, Rubric, length_control::Calibration};
use harness_metrics::comparison::{Comparison, ModelFacts, Settings};

use self::{
    backend::{Judge, JudgeOptions},
    human::HumanVerdicts,
    outputs::Judged as JudgedOutputs,
};
pub use self::{
    case::{Case, Gold},
    compare::{Judged, Judging},
    options::JudgingOptions,
    report::Report,
};
use crate::{EvaluationError, Session, models::Loader, training::ensure_trained};

/// Puts outputs before a judge.
///
/// # Errors
/// If protocol, outputs or judge are wrong, the judge fails, or the caller interrupts.
pub fn judge(session: &Session, options: &JudgingOptions) -> Result<Report, EvaluationError> {
    let protocol = protocol(options)?;
    let rubric = rubric(options.rubric.as_deref(), &protocol)?;
    check(options, &protocol)?;
    let mut loader = Loader::new(session, session.device.limits(), ensure_trained).with_remote(options.remote.clone());
    let outputs::Instructions { set, items } = outputs::instructions(session, options, &protocol)?;
    let calibration = calibration(session, options, &protocol, &items)?;
    let (mut sets, mut origins, mut written, mut thoughts) = (vec![], vec![], vec![], vec![]);
    for name in options.baseline.iter().chain(&options.models) {
        let JudgedOutputs { set, origin, written: one, thoughts: thought } =
            outputs::outputs(session, &mut loader, name, &items, options, &protocol)?;
        if sets.iter().any(|other: &OutputSet| other.model == set.model) {
            return Err(EvaluationError::usage(format!(
                "two of the models are called {:?}; give their outputs different names",
                set.model
            )));
        }
        written.push((set.model.clone(), one));
        thoughts.push((set.model.clone(), thought));
        sets.push(set);
        origins.push(origin);
    }
    let pairs = pairs(options, &protocol, sets.len());
    let how = JudgeOptions {
        max_new_tokens: options.judge_max_tokens,
        unconstrained: options.unconstrained,
        from_store: false,
    };
    let judge = Judge::load(session, &mut loader, &options.judge, how)?;
    let plan = plan(options, &protocol, rubric.as_ref(), &items, &sets, &pairs)?;
    let gold = options.gold.as_deref().map(|file| gold(session, file, &plan)).transpose()?;
    let asked = judge.judge(session, &plan, &items, &sets)?;
    let settings = Settings { seed: options.seed, ..session.experiment.compare.settings() };
    let case = Case { protocol, judge, set, items, sets, origins, pairs, gold, calibration, settings };
    let setting = case.setting();
    let results = results::results(&setting, &plan, &asked)?;
    let facts: Vec<ModelFacts> =
        case.sets.iter().map(|set| ModelFacts { model: set.model.clone(), ..ModelFacts::default() }).collect();
    let mut comparison = Comparison::compute(&tables::tables(&setting, &asked, &results), &facts, &case.settings)?;
    comparison.caveats.extend(results.caveats.iter().cloned());
    Ok(Report { case, plan, comparison, results, asked, written, thoughts })
}

/// What is wrong with the call, before anything is loaded.
fn check(options: &JudgingOptions, protocol: &Protocol) -> Result<(), EvaluationError> {
    let pairwise = protocol.kind == Kind::Pairwise;
    let wrong = |message: String| Err(EvaluationError::usage(message));
    if pairwise && options.baseline.is_none() && !options.all_pairs {
        return wrong(format!(
            "protocol `{}` compares two outputs: give --baseline a model or a file of outputs, or --all-pairs",
            protocol.name
        ));
    }
    if !pairwise && options.baseline.is_some() {
        return wrong(format!("protocol `{}` grades single outputs: it takes no --baseline", protocol.name));
    }
    if options.all_pairs && (!pairwise || options.models.len() < 2) {
        return wrong(format!(
            "--all-pairs: expected two or more models, and a protocol that compares them; found {} and `{}`",
            options.models.len(),
            protocol.name
        ));
    }
    if options.max_new_tokens == Some(0) || options.judge_max_tokens == Some(0) {
        return wrong("--max-new-tokens and --judge-max-tokens: expected at least 1, found 0".to_owned());
    }
    let calibrated = options.instruction_difficulty.is_some() || options.gamed_baselines.is_some();
    if calibrated && (!pairwise || protocol.is_multi_turn()) {
        return wrong(format!(
            "--instruction-difficulty and --gamed-baselines are for AlpacaEval's length control, not for `{}`",
            protocol.name
        ));
    }
    Ok(())
}

/// Which outputs are compared, by their positions: each with the first, or every two.
fn pairs(options: &JudgingOptions, protocol: &Protocol, models: usize) -> Vec<(usize, usize)> {
    match protocol.kind {
        Kind::Absolute => vec![],
        Kind::Pairwise if options.all_pairs => (0..models).flat_map(|a| (a + 1..models).map(move |b| (a, b))).collect(),
        Kind::Pairwise => (1..models).map(|candidate| (0, candidate)).collect(),
    }
}

/// alpaca_eval's calibration data. They go by position among its own instructions, so these have to be the ones judged.
fn calibration(
    session: &Session,
    options: &JudgingOptions,
    protocol: &Protocol,
    items: &[Item],
) -> Result<Option<Calibration>, EvaluationError> {
    if options.instruction_difficulty.is_none() && options.gamed_baselines.is_none() {
        return Ok(None);
    }
    let read = Calibration::read(options.gamed_baselines.as_deref(), options.instruction_difficulty.as_deref())?;
    match outputs::official(session)? {
        None => session.note(format!(
            "{}: assuming alpaca_eval's instructions in its order; put its data into a --data-dir to have this checked",
            protocol.name
        )),
        Some(official) => {
            let other = items.iter().zip(official.iter().map(Some).chain(std::iter::repeat(None)));
            let mut differ = other.enumerate().filter(|(_, (item, theirs))| theirs.is_none_or(|one| one.id != item.id));
            if let Some((at, (item, _))) = differ.next() {
                return Err(EvaluationError::usage(format!(
                    "difficulties follow alpaca_eval's order of instructions, but instruction {} differs here: {:?}",
                    at + 1,
                    item.instruction()
                )));
            }
        }
    }
    Ok(Some(read))
}

/// Gold labels from a file of people's verdicts.
fn gold(session: &Session, file: &Path, plan: &Plan) -> Result<Gold, EvaluationError> {
    let verdicts = HumanVerdicts::read(file)?;
    let (judgments, unused) = verdicts.labels(plan)?;
    if unused > 0 {
        session.note(format!("{}: verdicts that match nothing judged here: {unused}", file.display()));
    }
    let name = file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    Ok(Gold { name, judgments })
}

fn protocol(options: &JudgingOptions) -> Result<Protocol, EvaluationError> {
    let mut protocol = Protocol::load(&options.protocol)?;
    if let Some(file) = &options.prompt_file {
        protocol = protocol.with_prompt_file(file)?;
    }
    if options.compat {
        protocol = protocol.compat();
    }
    if let Some(share) = options.least_label_share {
        if !(0.0..=1.0).contains(&share) || protocol.labels.is_none() {
            let found = if protocol.labels.is_none() { "a protocol without labels" } else { "a share out of range" };
            return Err(EvaluationError::usage(format!(
                "--least-label-share {share}: expected a share from 0 to 1 and a protocol with labels such as \
                 alpaca-eval, found {found}"
            )));
        }
        protocol.least_label_share = share;
    }
    Ok(protocol)
}

/// The rubric: the one named, else helpfulness where a protocol needs one.
fn rubric(name: Option<&str>, protocol: &Protocol) -> Result<Option<Rubric>, EvaluationError> {
    match name {
        Some(name) => Ok(Some(Rubric::load(name)?)),
        None if protocol.uses_rubric() => Ok(Some(Rubric::load("helpfulness")?)),
        None => Ok(None),
    }
}

fn plan(
    options: &JudgingOptions,
    protocol: &Protocol,
    rubric: Option<&Rubric>,
    items: &[Item],
    sets: &[OutputSet],
    pairs: &[(usize, usize)],
) -> Result<Plan, EvaluationError> {
    let how = PlanOptions {
        orders: options.orders,
        repeat_share: options.repeats,
        self_pair_share: options.self_pairs,
        null_share: options.null_answers,
        seed: options.seed,
        ..PlanOptions::default()
    };
    Ok(match protocol.kind {
        Kind::Pairwise => {
            let pairs: Vec<(&OutputSet, &OutputSet)> = pairs.iter().map(|(a, b)| (&sets[*a], &sets[*b])).collect();
            Plan::pairwise(protocol, rubric, items, &pairs, &how)?
        }
        Kind::Absolute => Plan::absolute(protocol, rubric, items, sets, &how)?,
    })
}
