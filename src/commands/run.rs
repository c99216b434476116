//! `harness run`.

use std::time::SystemTime;

use harness_core::{LanguageModel, Request, canonical_json};
use harness_engine::CivilTime;
use harness_metrics::comparison::{Comparison, Settings};
use harness_store::{Manifest, atomic_write};
use harness_tasks::{
    Task as _,
    lm_eval_files::{RunDescription, TaskOutcome, write_run},
};
use serde_json::{Map, json};

use super::{
    App, Failure,
    evaluate::{Evaluated, evaluate, limits, prepare, share},
    judge::remote,
    lineage,
    load::{Loader, Missing, Ready},
    probe,
    suite::Suite,
    tables::{Noise, Scores, tables},
};
use crate::cli::RunArgs;

/// Runs `harness run`.
///
/// # Errors
/// If model or tasks are wrong, or the evaluation fails.
pub(super) fn run(app: &App, args: &RunArgs) -> Result<(), Failure> {
    let started = SystemTime::now();
    let limits = limits(app, &args.evaluation)?;
    let resolved = app.experiment.model(&args.model)?.asked(&args.evaluation.texts)?;
    let mut suite = Suite::load(app, &args.evaluation)?;
    let ready =
        Loader::new(app, limits).with_remote(remote(&args.evaluation.remote)?).load(&resolved, Missing::Train)?;
    if args.dry_run {
        return dry_run(app, &suite, &ready, started);
    }
    let mut refused = None;
    if let Some(refusal) = probe::refusal(app, &suite, &ready)? {
        suite = suite.without(&refusal.tasks);
        let failure = refusal.failure();
        if suite.tasks.is_empty() {
            return Err(failure);
        }
        app.progress().say(format!("{}; the other tasks are run", failure.message()));
        refused = Some(Failure::work(failure.message()).after_output());
    }
    let asked_how = lineage::caveats(app, &suite, &ready);
    let evaluated = [evaluate(app, &suite, &ready, false)?];
    let facts = [evaluated[0].facts.clone()];
    let scores = [Scores::Evaluated(&evaluated[0])];
    let mut comparison = Comparison::compute(&tables(&suite, &scores, &Noise::new()), &facts, &Settings::default())?;
    comparison.caveats.extend(asked_how);
    if let Some(folder) = &args.out {
        write(app, &suite, &evaluated[0], folder)?;
    }
    if let Some(folder) = &args.lm_eval_output {
        let paths = write_lm_eval(&suite, &evaluated[0], &ready, folder, args.bootstrap_iters, started)?;
        app.progress().say(format!("{} and {} samples files", paths[0].display(), paths.len() - 1));
    }
    super::compare::print(app, &comparison, true)?;
    refused.map_or(Ok(()), Err)
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
        return Err(Failure::usage("--dry-run: the tokens of a model behind a server are not known here"));
    };
    let plan = local.plan(&requests)?;
    let planned = seconds();
    let object = json!({
        "model": ready.name, "tasks": suite.tasks.len(), "documents": documents, "plan": plan,
        "seconds": {"load": loaded, "build": built - loaded, "tokenize": planned - built},
    });
    app.output(&object, || {
        format!(
            "{} tasks, {documents} documents, {} requests\n{} input tokens asked for, {} to compute ({})\n{} requests \
             whose join is crossed by a token, {} with a context that is cut\n{loaded:.2} s to load model and data, \
             {:.2} s to build requests, {:.2} s to tokenise and plan\n",
            suite.tasks.len(),
            plan.requests,
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

/// lm-eval's results and samples files.
fn write_lm_eval(
    suite: &Suite,
    evaluated: &Evaluated,
    ready: &Ready,
    folder: &std::path::Path,
    bootstrap_iters: usize,
    started: SystemTime,
) -> Result<Vec<std::path::PathBuf>, Failure> {
    let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = since(SystemTime::now());
    let date = CivilTime::from_unix(now.as_secs() as i64).strftime("%Y-%m-%dT%H-%M-%S").unwrap_or_default();
    let entry = &ready.entry;
    let path = entry.path.as_ref().map_or_else(|| ready.name.clone(), |path| path.display().to_string());
    let mut model_args = Map::new();
    model_args.insert("dtype".to_owned(), json!(entry.identity.dtype));
    if let Some(adapter) = &entry.adapter {
        model_args.insert("peft".to_owned(), json!(adapter.display().to_string()));
    }
    let options = suite.common_options();
    if let Some(mark) = options.think_end_token.as_ref().or(ready.think_end_token.as_ref()) {
        model_args.insert("think_end_token".to_owned(), json!(mark));
    }
    let base = ready.model.local().map(|model| model.base());
    let mut model_info = Map::new();
    if let Some(base) = base {
        model_info.insert("model_num_parameters".to_owned(), json!(base.model().config().num_parameters()));
    }
    model_info.insert("model_dtype".to_owned(), json!(entry.identity.dtype));
    model_info.insert("model_sha".to_owned(), json!(entry.identity.digest().to_string()));
    let model: &dyn LanguageModel = &*ready.model;
    let template =
        suite.uses_chat_template().then(|| base?.chat_template().map(|template| template.source().to_owned()));
    let description = RunDescription {
        model: path,
        model_args,
        model_info,
        options: options.clone(),
        chat_template: template.flatten(),
        max_length: model.capabilities().max_length,
        bootstrap_iters,
        started: since(started).as_secs_f64(),
        seconds: (now - since(started).min(now)).as_secs_f64(),
        date: format!("{date}.{:06}", now.subsec_micros()),
    };
    let outcomes: Vec<TaskOutcome<'_>> = suite
        .tasks
        .iter()
        .enumerate()
        .map(|(i, task)| TaskOutcome {
            task: task.as_ref(),
            prepared: &evaluated.prepared[i],
            responses: &evaluated.responses[i],
            scored: &evaluated.scored[i],
        })
        .collect();
    Ok(write_run(folder, &description, &outcomes, &suite.groups)?)
}

/// Every document's requests, responses and scores as one JSONL file a task, and the manifest.
fn write(app: &App, suite: &Suite, evaluated: &Evaluated, folder: &std::path::Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder).map_err(|e| Failure::work(format!("cannot create {}: {e}", folder.display())))?;
    for (number, task) in suite.tasks.iter().enumerate() {
        let mut text = String::new();
        let documents = evaluated.prepared[number].documents.iter();
        for ((item, scored), responses) in documents.zip(&evaluated.scored[number]).zip(&evaluated.responses[number]) {
            let line = json!({
                "task": task.id(), "doc": item.doc, "target": item.target, "requests": item.requests,
                "responses": responses, "answers": scored.answers, "scores": scored.scores,
            });
            text.push_str(&canonical_json(&line));
            text.push('\n');
        }
        atomic_write(&folder.join(format!("samples_{}.jsonl", task.id())), text)?;
    }
    manifest(app, suite, std::slice::from_ref(evaluated), &evaluated.name)?.write(&folder.join("manifest.json"))?;
    Ok(())
}

/// Everything that the numbers of these models depend on.
pub(super) fn manifest(app: &App, suite: &Suite, models: &[Evaluated], name: &str) -> Result<Manifest, Failure> {
    let mut manifest = Manifest::new(name, env!("CARGO_PKG_VERSION"), std::env::args().collect());
    manifest.models = models.iter().map(|model| model.entry.clone()).collect();
    if let Some(first) = models.first() {
        manifest.tasks = suite.entries(&first.prepared, &app.hashes())?;
    }
    manifest.settings.insert("build".to_owned(), json!(suite.common_options()));
    manifest.settings.insert("tasks".to_owned(), json!(suite.names()));
    let lineage: std::collections::BTreeMap<&str, _> =
        models.iter().map(|model| (model.name.as_str(), super::explain::lineage(suite, model))).collect();
    manifest.settings.insert(super::explain::LINEAGE.to_owned(), json!(lineage));
    manifest.seeds.insert("fewshot".to_owned(), suite.common_options().fewshot_seed as u64);
    for model in models {
        manifest.timings.insert(format!("evaluate {}", model.name), model.seconds);
    }
    Ok(manifest)
}
