//! What an evaluation leaves behind: the manifest, samples, and lm-eval's files.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::SystemTime,
};

use harness_core::{LanguageModel, canonical_json, file_part, visible_json};
use harness_python::CivilTime;
use harness_store::{Manifest, atomic_write};
use harness_tasks::{
    Task as _,
    lm_eval_files::{RunDescription, TaskOutcome, write_run},
};
use serde_json::{Map, json};

use crate::{
    EvaluationError, Session,
    evaluate::Evaluated,
    explain::{LINEAGE, ModelPlace, lineage},
    models::Ready,
    suite::Suite,
};

/// Everything that the numbers of these models depend on.
///
/// # Errors
/// If a file cannot be read.
pub fn manifest(
    session: &Session,
    suite: &Suite,
    models: &[Evaluated],
    name: &str,
) -> Result<Manifest, EvaluationError> {
    let mut manifest = Manifest::new(name, env!("CARGO_PKG_VERSION"), session.command.clone());
    manifest.models = models.iter().map(|model| model.entry.clone()).collect();
    if let Some(first) = models.first() {
        for (entry, files) in suite.entries(&first.prepared, &session.hashes())? {
            manifest.run.data.insert(entry.id.clone(), files);
            manifest.tasks.push(entry);
        }
    }
    manifest.settings.insert("build".to_owned(), json!(suite.common_options()));
    manifest.settings.insert("tasks".to_owned(), json!(suite.names()));
    let lineage: BTreeMap<&str, _> = models.iter().map(|model| (model.name.as_str(), lineage(suite, model))).collect();
    manifest.settings.insert(LINEAGE.to_owned(), json!(lineage));
    let places: BTreeMap<&str, _> = models.iter().map(|model| (model.name.as_str(), ModelPlace::of(model))).collect();
    manifest.run.places.insert(ModelPlace::ALL.to_owned(), json!(places));
    manifest.seeds.insert("fewshot".to_owned(), suite.common_options().fewshot_seed as u64);
    for model in models {
        manifest.run.timings.insert(format!("evaluate {}", model.name), model.seconds);
    }
    Ok(manifest)
}

/// Every document's requests, responses and scores as one JSONL file a task ([`file_part`]), and the manifest.
///
/// # Errors
/// If a file cannot be written.
pub fn write_samples(
    session: &Session,
    suite: &Suite,
    evaluated: &Evaluated,
    folder: &Path,
) -> Result<(), EvaluationError> {
    std::fs::create_dir_all(folder)
        .map_err(|e| EvaluationError::work(format!("cannot create {}: {e}", folder.display())))?;
    for (number, task) in suite.tasks.iter().enumerate() {
        let mut text = String::new();
        let documents = evaluated.prepared[number].documents.iter();
        for ((item, scored), responses) in documents.zip(&evaluated.scored[number]).zip(&evaluated.responses[number]) {
            let line = json!({
                "task": task.id(), "doc": item.doc, "target": item.target, "requests": item.requests,
                "responses": responses, "answers": scored.answers, "scores": scored.scores,
            });
            text.push_str(&visible_json(&canonical_json(&line)));
            text.push('\n');
        }
        atomic_write(&folder.join(format!("samples_{}.jsonl", file_part(task.id()))), text)?;
    }
    manifest(session, suite, std::slice::from_ref(evaluated), &evaluated.name)?.write(&folder.join("manifest.json"))?;
    Ok(())
}

/// Writes lm-eval's results and samples files below a folder; `started` is when the work began, `bootstrap_iters` the
/// replicates of bootstrap standard errors. Returns the files, the results first.
///
/// # Errors
/// If a file cannot be written.
pub fn write_lm_eval(
    suite: &Suite,
    evaluated: &Evaluated,
    ready: &Ready,
    folder: &Path,
    bootstrap_iters: usize,
    started: SystemTime,
) -> Result<Vec<PathBuf>, EvaluationError> {
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
