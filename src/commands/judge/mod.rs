//! `harness judge`: outputs before a judge.

mod ask;
mod backend;
mod compare;
mod direct;
mod human;
mod jury;
mod outputs;
mod overlap;
mod report;
mod results;

use std::sync::Arc;

use harness_http::Budget;
use harness_judges::{Item, JudgesError, Kind, Orders, OutputSet, Plan, PlanOptions, Protocol, Rubric};
use harness_metrics::comparison::{Comparison, ModelFacts, Settings};

use results::Setting;

pub(super) use self::{
    backend::{Judge, JudgeOptions},
    compare::{Judged, judge_suite},
};
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
    Ok(Remote { concurrency: args.concurrency, budget })
}

/// Runs `harness judge`.
///
/// # Errors
/// If protocol, outputs or judge are wrong, the judge fails, or the user interrupts.
pub(super) fn judge(app: &App, args: &JudgeArgs) -> Result<(), Failure> {
    let protocol = protocol(args)?;
    let rubric = rubric(args.rubric.as_deref(), &protocol)?;
    if protocol.kind == Kind::Pairwise && args.baseline.is_none() {
        return Err(Failure::usage(format!(
            "protocol `{}` compares two outputs: give --baseline a model or a file of outputs",
            protocol.name
        )));
    }
    if protocol.kind == Kind::Absolute && args.baseline.is_some() {
        return Err(Failure::usage(format!(
            "protocol `{}` grades single outputs: it takes no --baseline",
            protocol.name
        )));
    }
    if args.max_new_tokens == 0 || args.judge_max_tokens == Some(0) {
        return Err(Failure::usage("--max-new-tokens and --judge-max-tokens: expected at least 1, found 0"));
    }
    let mut loader = Loader::new(app, app.device.limits()).with_remote(remote(&args.remote)?);
    let instructions = outputs::instructions(app, args, &protocol)?;
    let items = &instructions.items;
    let options = JudgeOptions { max_new_tokens: args.judge_max_tokens, unconstrained: args.unconstrained };
    let mut sets: Vec<OutputSet> = vec![];
    for name in args.baseline.iter().chain(&args.models) {
        let set = outputs::outputs(app, &mut loader, name, items, args, &protocol)?;
        if sets.iter().any(|other| other.model == set.model) {
            return Err(Failure::usage(format!(
                "two of the models are called {:?}; give their outputs different names",
                set.model
            )));
        }
        sets.push(set);
    }
    let judge = Judge::load(app, &mut loader, &args.judge, options)?;
    let plan = plan(args, &protocol, rubric.as_ref(), items, &sets)?;
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
    let setting =
        Setting { protocol: &protocol, judge: &judge, set: &instructions.set, items, sets: &sets, settings: &settings };
    let results = results::results(&setting, &asked.judgments)?;
    let facts: Vec<ModelFacts> =
        sets.iter().map(|set| ModelFacts { model: set.model.clone(), ..ModelFacts::default() }).collect();
    let mut comparison = Comparison::compute(&[results::table(&setting, &asked.judgments)], &facts, &settings)?;
    comparison.caveats.extend(results.caveats.iter().cloned());
    let report = report::Report { setting, plan: &plan, comparison, results, asked };
    if let Some(folder) = &args.out {
        report.write(app, folder)?;
    }
    report.print(app)
}

fn protocol(args: &JudgeArgs) -> Result<Protocol, Failure> {
    let mut protocol = Protocol::load(&args.protocol)?;
    if let Some(file) = &args.prompt_file {
        protocol = protocol.with_prompt_file(file)?;
    }
    Ok(if args.compat { protocol.compat() } else { protocol })
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
    Ok(match (protocol.kind, sets) {
        (Kind::Pairwise, [baseline, candidates @ ..]) => {
            let pairs: Vec<(&OutputSet, &OutputSet)> =
                candidates.iter().map(|candidate| (baseline, candidate)).collect();
            Plan::pairwise(protocol, rubric, items, &pairs, &options)?
        }
        _ => Plan::absolute(protocol, rubric, items, sets, &options)?,
    })
}
