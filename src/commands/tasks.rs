//! `harness tasks`.

use std::{fmt::Write as _, path::Path, sync::Arc};

use harness_core::{LanguageModel, Request};
use harness_engine::Limits;
use harness_tasks::{BuildOptions, FileData, PromptFormatter, Registry, Task as _};
use serde_json::json;

use super::{
    App, Failure,
    load::{Loader, Missing, Ready},
    suite::registry,
};
use crate::cli::{TasksArgs, TasksCommand};

/// Runs `harness tasks`.
///
/// # Errors
/// If a definition is wrong or unknown.
pub(super) fn tasks(app: &App, args: &TasksArgs) -> Result<(), Failure> {
    match &args.command {
        TasksCommand::List => list(app, &registry(app, &args.include_path)?),
        TasksCommand::Check { dir } => check(app, dir),
        TasksCommand::Show { task, doc, num_fewshot, model, apply_chat_template } => {
            let registry = registry(app, &args.include_path)?;
            let ready = match model {
                None => None,
                Some(name) => {
                    let resolved = app.experiment.model(name)?;
                    Some(Loader::new(app, Limits::default()).load(&resolved, Missing::Refuse)?)
                }
            };
            let options = BuildOptions {
                num_fewshot: *num_fewshot,
                apply_chat_template: *apply_chat_template,
                ..BuildOptions::default()
            };
            show(app, &registry, task, *doc, &options, ready.as_ref())
        }
    }
}

fn list(app: &App, registry: &Registry) -> Result<(), Failure> {
    let (mut rows, mut objects) = (vec![], vec![]);
    for name in registry.tasks() {
        let info = match registry.info(name) {
            Ok(info) => info,
            Err(error) => {
                app.progress().say(format!("left out: {error}"));
                continue;
            }
        };
        let shots = format!("{}-shot", info.num_fewshot);
        rows.push(format!("{:<44} {:<22} {shots:<8} {}", info.id, info.output_type.name(), info.metrics.join(" ")));
        objects.push(json!({
            "task": info.id, "alias": info.alias, "version": info.version, "output_type": info.output_type.name(),
            "num_fewshot": info.num_fewshot, "metrics": info.metrics, "dataset": info.dataset, "tags": info.tags,
        }));
    }
    for error in registry.broken() {
        app.progress().say(format!("left out: {error}"));
    }
    let groups = registry.groups();
    app.output(&json!({ "tasks": objects, "groups": groups }), || {
        format!("{}\n\ngroups: {}\n", rows.join("\n"), groups.join(", "))
    })
}

fn check(app: &App, dir: &Path) -> Result<(), Failure> {
    let mut registry = Registry::default();
    registry.add_folder(dir)?;
    let mut problems: Vec<String> = registry.broken().iter().map(|error| error.to_string()).collect();
    let names = registry.tasks();
    problems.extend(names.iter().filter_map(|name| registry.info(name).err()).map(|error| error.to_string()));
    let good = names.len() - (problems.len() - registry.broken().len());
    let object = json!({ "tasks": good, "groups": registry.groups().len(), "problems": problems });
    app.output(&object, || {
        let mut text = problems.iter().fold(String::new(), |mut text, problem| {
            let _ = writeln!(text, "{problem}");
            text
        });
        let _ = writeln!(text, "{good} tasks, {} groups, {} problems", registry.groups().len(), problems.len());
        text
    })?;
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure::usage(format!("{} definitions in {} cannot be used", problems.len(), dir.display())).after_output())
}

fn show(
    app: &App,
    registry: &Registry,
    task: &str,
    doc: usize,
    options: &BuildOptions,
    ready: Option<&Ready>,
) -> Result<(), Failure> {
    let task = registry.load_by_name(task, Arc::new(FileData::new(app.locator())))?;
    let model: Option<&dyn LanguageModel> = ready.map(|ready| &ready.model as &dyn LanguageModel);
    let formatter = model.as_ref().map(|model| model as &dyn PromptFormatter);
    let view = task.show(doc, options, formatter)?;
    let tokens = |text: &str| -> Option<Vec<String>> {
        Some(model?.tokenize(text)?.into_iter().map(|(_, token)| token).collect())
    };
    let object = json!({
        "task": task.id(),
        "document": view.item.doc,
        "pieces": view.pieces,
        "requests": view.item.requests,
        "target": view.item.target,
        "gold": view.item.gold,
        "choices": view.item.choices,
        "tokens": view.item.requests.iter().map(|request| tokens(&whole(request))).collect::<Vec<_>>(),
    });
    app.output(&object, || {
        let mut text = String::new();
        for (number, request) in view.item.requests.iter().enumerate() {
            if let (0, Request::LogLikelihood { context, .. }) = (number, request) {
                let _ = writeln!(text, "--- context\n{context}\n--- continuations");
            }
            let _ = match request {
                Request::LogLikelihood { continuation, .. } => writeln!(text, "{number}: {continuation:?}"),
                Request::RollingLogLikelihood { text: whole } => writeln!(text, "--- text\n{whole}"),
                Request::Generate { prompt, stop, sampling } => writeln!(
                    text,
                    "--- prompt\n{prompt}\n--- up to {} new tokens, temperature {}, stop at {stop:?}",
                    sampling.max_new_tokens, sampling.temperature
                ),
            };
        }
        let _ = writeln!(text, "--- target\n{}", view.item.target);
        if let Some(tokens) = view.item.requests.first().and_then(|request| tokens(&whole(request))) {
            let _ = writeln!(text, "--- {} tokens of the first request\n{}", tokens.len(), tokens.join("|"));
        }
        text
    })
}

/// Context and continuation as one text.
fn whole(request: &Request) -> String {
    match request {
        Request::LogLikelihood { context, continuation } => format!("{context}{continuation}"),
        Request::RollingLogLikelihood { text } => text.clone(),
        Request::Generate { prompt, .. } => prompt.clone(),
    }
}
