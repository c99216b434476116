//! `harness run`.

use std::time::SystemTime;

use harness_core::Request;
use harness_evaluation::{
    Suite,
    evaluate::{prepare, share},
    models::{Loader, Missing, Ready},
    record::{write_lm_eval, write_samples},
    run::{Run, run as evaluate_alone},
    training::ensure_trained,
};
use harness_metrics::comparison::counted;
use serde_json::json;

use super::{App, Failure, print};
use crate::{cli::RunArgs, options};

/// Runs `harness run`.
///
/// # Errors
/// If model or tasks are wrong, or the evaluation fails.
pub(super) fn run(app: &App, args: &RunArgs) -> Result<(), Failure> {
    let started = SystemTime::now();
    let options = options::evaluation(&args.evaluation, app.device)?;
    let resolved = app.experiment.model(&args.model)?.asked(&options.texts);
    let suite = Suite::load(app, &options)?;
    let limits = options.limits.unwrap_or_default();
    let mut loader = Loader::new(app, limits, ensure_trained).with_remote(options.remote);
    let ready = loader.load(&resolved, Missing::Train)?;
    if args.dry_run {
        return dry_run(app, &suite, &ready, started);
    }
    let Run { suite, evaluated, comparison, refused } = evaluate_alone(app, suite, &ready)?;
    if let Some(folder) = &args.out {
        write_samples(app, &suite, &evaluated, folder)?;
    }
    if let Some(folder) = &args.lm_eval_output {
        let paths = write_lm_eval(&suite, &evaluated, &ready, folder, args.bootstrap_iters, started)?;
        app.note(format!("{} and {} samples files", paths[0].display(), paths.len() - 1));
    }
    print::comparison(app, &comparison, true)?;
    refused.map_or(Ok(()), |error| Err(Failure::work(error.message()).after_output()))
}

/// What an evaluation would ask and compute.
fn dry_run(app: &App, suite: &Suite, ready: &Ready, started: SystemTime) -> Result<(), Failure> {
    let seconds = || started.elapsed().unwrap_or_default().as_secs_f64();
    let loaded = seconds();
    let prepared = prepare(app, suite, ready)?;
    let built = seconds();
    let documents: usize = prepared.iter().map(|p| p.documents.len()).sum();
    let requests: Vec<Request> =
        prepared.iter().flat_map(|p| p.documents.iter().flat_map(|d| d.requests.iter().cloned())).collect();
    let Some(local) = ready.model.local() else {
        return Err(Failure::usage("--dry-run: the number of tokens is unknown for a model behind a server"));
    };
    let plan = local.plan(&requests)?;
    let planned = seconds();
    let object = json!({
        "model": ready.name, "tasks": suite.tasks.len(), "documents": documents, "plan": plan,
        "seconds": {"load": loaded, "build": built - loaded, "tokenize": planned - built},
    });
    app.output(&object, || {
        format!(
            "{}, {}, {}\n{} input tokens asked for, {} to compute ({})\nrequests where a token crosses the boundary of \
             context and continuation: {}; with a truncated context: {}\n{loaded:.2} s to load model and data, {:.2} s \
             to build requests, {:.2} s to tokenise and plan\n",
            counted(suite.tasks.len(), "task"),
            counted(documents, "document"),
            counted(plan.requests, "request"),
            plan.requested_tokens,
            plan.computed_tokens,
            share(plan.computed_tokens, plan.requested_tokens),
            plan.boundary_shifts,
            plan.truncated,
            built - loaded,
            planned - built
        )
    })
}
