//! `harness run`.

use harness_core::canonical_json;
use harness_metrics::comparison::{Comparison, Settings};
use harness_store::{Manifest, atomic_write};
use harness_tasks::Task as _;
use serde_json::json;

use super::{
    App, Failure,
    evaluate::{Evaluated, evaluate, limits},
    load::{Loader, Missing},
    suite::Suite,
    tables::tables,
};
use crate::cli::RunArgs;

/// Runs `harness run`.
///
/// # Errors
/// If model or tasks are wrong, or the evaluation fails.
pub(super) fn run(app: &App, args: &RunArgs) -> Result<(), Failure> {
    let limits = limits(&args.evaluation)?;
    let resolved = app.experiment.model(&args.model)?;
    let suite = Suite::load(app, &args.evaluation)?;
    let ready = Loader::new(app, limits).load(&resolved, Missing::Train)?;
    let evaluated = [evaluate(app, &suite, &ready, false)?];
    let facts = [evaluated[0].facts.clone()];
    let comparison = Comparison::compute(&tables(&suite, &evaluated), &facts, &Settings::default())?;
    if let Some(folder) = &args.out {
        write(app, &suite, &evaluated[0], folder)?;
    }
    super::compare::print(app, &comparison, true)
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
    manifest.seeds.insert("fewshot".to_owned(), suite.common_options().fewshot_seed as u64);
    for model in models {
        manifest.timings.insert(format!("evaluate {}", model.name), model.seconds);
    }
    Ok(manifest)
}
