//! `harness judge`: outputs before a judge.

mod ask;
mod backend;
mod bill;
mod compare;
mod direct;
mod files;
mod human;
mod jury;
mod kinship;
mod origin;
mod outputs;
mod overlap;
mod report;
mod results;
mod tables;
mod text;

use std::{path::Path, sync::Arc};

use harness_http::Budget;
use harness_judges::{
    Item, JudgesError, Kind, Orders, OutputSet, Plan, PlanOptions, Protocol, Rubric, length_control::Calibration,
};
use harness_metrics::comparison::{Comparison, ModelFacts, Settings};

use self::{
    backend::{Judge, JudgeOptions},
    human::HumanVerdicts,
    outputs::Judged as JudgedOutputs,
    results::{Gold, Setting},
};

pub(super) use self::compare::{Judged, Judging};
use super::{
    App, Failure,
    load::{Loader, Remote},
};
use crate::cli::{JudgeArgs, JudgeOrders, RemoteArgs};

impl From<JudgesError> for Failure {
    fn from(error: JudgesError) -> Self {
        match error {
            JudgesError::Io { action, .. } if action != "read" => Self::work(error.to_string()),
            error => Self::usage(error.to_string()),
        }
    }
}

/// What the options of endpoints say.
pub(super) fn remote(args: &RemoteArgs) -> Result<Remote, Failure> {
    if args.concurrency == Some(0) {
        return Err(Failure::usage("--concurrency 0: expected at least 1"));
    }
    let budget = match args.max_cost {
        None => None,
        Some(limit) => Some(Arc::new(
            Budget::new(limit)
                .map_err(|_| Failure::usage(format!("--max-cost {limit}: expected a positive number")))?,
        )),
    };
    if let Some(rate) = args.requests_per_minute.filter(|rate| !(rate.is_finite() && *rate > 0.0)) {
        return Err(Failure::usage(format!("--requests-per-minute {rate}: expected a positive number")));
    }
    Ok(Remote { concurrency: args.concurrency, requests_per_minute: args.requests_per_minute, budget })
}

/// Runs `harness judge`.
///
/// # Errors
/// If protocol, outputs or judge are wrong, the judge fails, or the user interrupts.
pub(super) fn judge(app: &App, args: &JudgeArgs) -> Result<(), Failure> {
    let protocol = protocol(args)?;
    let rubric = rubric(args.rubric.as_deref(), &protocol)?;
    check(args, &protocol)?;
    let mut loader = Loader::new(app, app.device.limits()).with_remote(remote(&args.remote)?);
    let instructions = outputs::instructions(app, args, &protocol)?;
    let items = &instructions.items;
    let calibration = calibration(app, args, &protocol, items)?;
    let options =
        JudgeOptions { max_new_tokens: args.judge_max_tokens, unconstrained: args.unconstrained, from_store: false };
    let (mut sets, mut origins, mut written, mut thoughts) = (vec![], vec![], vec![], vec![]);
    for name in args.baseline.iter().chain(&args.models) {
        let JudgedOutputs { set, origin, written: one, thoughts: thought } =
            outputs::outputs(app, &mut loader, name, items, args, &protocol)?;
        if sets.iter().any(|other: &OutputSet| other.model == set.model) {
            return Err(Failure::usage(format!(
                "two of the models are called {:?}; give their outputs different names",
                set.model
            )));
        }
        written.push((set.model.clone(), one));
        thoughts.push((set.model.clone(), thought));
        sets.push(set);
        origins.push(origin);
    }
    let pairs = pairs(args, &protocol, sets.len());
    let judge = Judge::load(app, &mut loader, &args.judge, options)?;
    let plan = plan(args, &protocol, rubric.as_ref(), items, &sets, &pairs)?;
    let gold = args.gold.as_deref().map(|file| gold(app, file, &plan)).transpose()?;
    let asked = judge.judge(app, &plan, items, &sets)?;
    let section = &app.experiment.compare;
    let settings = Settings {
        confidence: section.confidence,
        alpha: section.alpha,
        correction: section.correction,
        margin: section.margin,
        resamples: section.resamples,
        seed: args.seed,
        ..Settings::default()
    };
    let setting = Setting {
        protocol: &protocol,
        judge: &judge,
        set: &instructions.set,
        items,
        sets: &sets,
        origins: &origins,
        pairs: &pairs,
        gold: gold.as_ref(),
        calibration: calibration.as_ref(),
        settings: &settings,
    };
    let results = results::results(&setting, &plan, &asked)?;
    let facts: Vec<ModelFacts> =
        sets.iter().map(|set| ModelFacts { model: set.model.clone(), ..ModelFacts::default() }).collect();
    let mut comparison = Comparison::compute(&tables::tables(&setting, &asked, &results), &facts, &settings)?;
    comparison.caveats.extend(results.caveats.iter().cloned());
    let report = report::Report { setting, plan: &plan, comparison, results, asked, written, thoughts };
    if let Some(folder) = &args.out {
        report.write(app, folder)?;
    }
    report.print(app)?;
    if report.results.nothing_read {
        let reasons: Vec<&str> = report.results.unread.keys().map(String::as_str).collect();
        let message = format!("no verdict of {} could be read: {}", judge.name(), reasons.join("; "));
        return Err(Failure::work(message).after_output());
    }
    Ok(())
}

/// What is wrong with the call, before anything is loaded.
fn check(args: &JudgeArgs, protocol: &Protocol) -> Result<(), Failure> {
    let pairwise = protocol.kind == Kind::Pairwise;
    let wrong = |message: String| Err(Failure::usage(message));
    if pairwise && args.baseline.is_none() && !args.all_pairs {
        return wrong(format!(
            "protocol `{}` compares two outputs: give --baseline a model or a file of outputs, or --all-pairs",
            protocol.name
        ));
    }
    if !pairwise && args.baseline.is_some() {
        return wrong(format!("protocol `{}` grades single outputs: it takes no --baseline", protocol.name));
    }
    if args.all_pairs && (!pairwise || args.models.len() < 2) {
        return wrong(format!(
            "--all-pairs: expected two models or more, and a protocol that compares them; found {} and `{}`",
            args.models.len(),
            protocol.name
        ));
    }
    if args.max_new_tokens == Some(0) || args.judge_max_tokens == Some(0) {
        return wrong("--max-new-tokens and --judge-max-tokens: expected at least 1, found 0".to_owned());
    }
    let calibrated = args.instruction_difficulty.is_some() || args.gamed_baselines.is_some();
    if calibrated && (!pairwise || protocol.is_multi_turn()) {
        return wrong(format!(
            "--instruction-difficulty and --gamed-baselines are for AlpacaEval's length control, not for `{}`",
            protocol.name
        ));
    }
    Ok(())
}

/// Which outputs are compared, by their positions: each with the first, or every two.
fn pairs(args: &JudgeArgs, protocol: &Protocol, models: usize) -> Vec<(usize, usize)> {
    match protocol.kind {
        Kind::Absolute => vec![],
        Kind::Pairwise if args.all_pairs => (0..models).flat_map(|a| (a + 1..models).map(move |b| (a, b))).collect(),
        Kind::Pairwise => (1..models).map(|candidate| (0, candidate)).collect(),
    }
}

/// alpaca_eval's calibration data. They go by position among its own instructions, so these have to be the ones judged.
fn calibration(
    app: &App,
    args: &JudgeArgs,
    protocol: &Protocol,
    items: &[Item],
) -> Result<Option<Calibration>, Failure> {
    if args.instruction_difficulty.is_none() && args.gamed_baselines.is_none() {
        return Ok(None);
    }
    let read = Calibration::read(args.gamed_baselines.as_deref(), args.instruction_difficulty.as_deref())?;
    match outputs::official(app)? {
        None => app.progress().say(format!(
            "{}: the instructions are taken to be alpaca_eval's in its order; with its data in a --data-dir this is checked",
            protocol.name
        )),
        Some(official) => {
            let other = items.iter().zip(official.iter().map(Some).chain(std::iter::repeat(None)));
            let mut differ = other.enumerate().filter(|(_, (item, theirs))| theirs.is_none_or(|one| one.id != item.id));
            if let Some((at, (item, _))) = differ.next() {
                return Err(Failure::usage(format!(
                    "difficulties go by alpaca_eval's order of instructions, and instruction {} is another here: {:?}",
                    at + 1,
                    item.instruction()
                )));
            }
        }
    }
    Ok(Some(read))
}

/// Gold labels from a file of people's verdicts.
fn gold(app: &App, file: &Path, plan: &Plan) -> Result<Gold, Failure> {
    let verdicts = HumanVerdicts::read(file)?;
    let (judgments, unused) = verdicts.labels(plan)?;
    if unused > 0 {
        app.progress()
            .say(format!("{}: {unused} of its verdicts are about nothing that is judged here", file.display()));
    }
    let name = file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    Ok(Gold { name, judgments })
}

fn protocol(args: &JudgeArgs) -> Result<Protocol, Failure> {
    let mut protocol = Protocol::load(&args.protocol)?;
    if let Some(file) = &args.prompt_file {
        protocol = protocol.with_prompt_file(file)?;
    }
    if args.compat {
        protocol = protocol.compat();
    }
    if let Some(share) = args.least_label_share {
        if !(0.0..=1.0).contains(&share) || protocol.labels.is_none() {
            let found = if protocol.labels.is_none() { "a protocol without labels" } else { "a share out of range" };
            return Err(Failure::usage(format!(
                "--least-label-share {share}: expected a share from 0 to 1 and a protocol with labels such as \
                 alpaca-eval, found {found}"
            )));
        }
        protocol.least_label_share = share;
    }
    Ok(protocol)
}

/// The rubric: the one named, else helpfulness where a protocol needs one.
fn rubric(name: Option<&str>, protocol: &Protocol) -> Result<Option<Rubric>, Failure> {
    match name {
        Some(name) => Ok(Some(Rubric::load(name)?)),
        None if protocol.uses_rubric() => Ok(Some(Rubric::load("helpfulness")?)),
        None => Ok(None),
    }
}

fn plan(
    args: &JudgeArgs,
    protocol: &Protocol,
    rubric: Option<&Rubric>,
    items: &[Item],
    sets: &[OutputSet],
    pairs: &[(usize, usize)],
) -> Result<Plan, Failure> {
    let options = PlanOptions {
        orders: match args.orders {
            JudgeOrders::Both => Orders::Both,
            JudgeOrders::AlpacaEval => Orders::AlpacaEval,
            JudgeOrders::BaselineFirst => Orders::BaselineFirst,
        },
        repeat_share: args.repeats,
        self_pair_share: args.self_pairs,
        null_share: args.null_answers,
        seed: args.seed,
        ..PlanOptions::default()
    };
    Ok(match protocol.kind {
        Kind::Pairwise => {
            let pairs: Vec<(&OutputSet, &OutputSet)> = pairs.iter().map(|(a, b)| (&sets[*a], &sets[*b])).collect();
            Plan::pairwise(protocol, rubric, items, &pairs, &options)?
        }
        Kind::Absolute => Plan::absolute(protocol, rubric, items, sets, &options)?,
    })
}
