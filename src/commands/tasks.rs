//! `harness tasks`.

use std::{fmt::Write as _, path::Path, sync::Arc};

use harness_core::{LanguageModel, Request};
use harness_evaluation::{
    models::{Loader, Missing, Ready},
    suite::registry,
    training::ensure_trained,
};
use harness_metrics::comparison::counted;
use harness_tasks::{BuildOptions, FileData, PromptFormatter, Registry, Task as _};
use serde_json::json;

use super::{App, Failure};
use crate::{
    cli::{TasksArgs, TasksCommand},
    options,
};

/// Runs `harness tasks`.
///
/// # Errors
/// If a definition is wrong or unknown.
pub(super) fn tasks(app: &App, args: &TasksArgs) -> Result<(), Failure> {
    match &args.command {
        TasksCommand::List => list(app, &registry(app, &args.include_path)?),
        TasksCommand::Check { dir } => check(app, dir),
        TasksCommand::Show { task, doc, num_fewshot, model, apply_chat_template, texts } => {
            let registry = registry(app, &args.include_path)?;
            let ready = match model {
                None => None,
                Some(name) => {
                    let resolved = app.experiment.model(name)?.asked(&options::prompts(texts)?);
                    Some(
                        Loader::new(app, app.device.limits(), ensure_trained)
                            .for_a_look()
                            .load(&resolved, Missing::Refuse)?,
                    )
                }
            };
            let options = BuildOptions {
                num_fewshot: *num_fewshot,
                apply_chat_template: *apply_chat_template,
                think_end_token: ready.as_ref().and_then(|ready| ready.think_end_token.clone()),
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
                app.note(format!("left out: {error}"));
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
        app.note(format!("left out: {error}"));
    }
    let groups = registry.groups();
    app.output(&json!({ "tasks": objects, "groups": groups }), || {
        format!("{}\n\ngroups: {}\n", rows.join("\n"), groups.join(", "))
    })
}

fn check(app: &App, dir: &Path) -> Result<(), Failure> {
    let bar = app.stage(&format!("check {}", dir.display()), 1);
    let mut registry = Registry::default();
    registry.add_folder(dir)?;
    let report = registry.check();
    bar.finish(&format!("{} files", report.files));
    app.output(&report, || {
        let mut text = String::new();
        for problem in report.template_errors.iter().chain(&report.problems) {
            let _ = writeln!(text, "{problem}");
        }
        for note in &report.notes {
            let _ = writeln!(text, "note: {note}");
        }
        if !report.needs_python.is_empty() {
            let tasks = counted(report.needing_python, "task");
            let _ = writeln!(text, "Python functions that are not built in, needed by {tasks}:");
            for need in &report.needs_python {
                let names = match need.tasks.as_slice() {
                    [one] => one.clone(),
                    [one, two] => format!("{one}, {two}"),
                    [one, two, rest @ ..] => format!("{one}, {two} and {} more", rest.len()),
                    [] => String::new(),
                };
                let _ = writeln!(text, "{:>6}  {}: {} ({names})", need.tasks.len(), need.key, need.function);
            }
        }
        let _ = writeln!(
            text,
            "{}, {} valid; {}: {} runnable ({} of them with built-in functions), {} needing Python, {} with template \
             errors; {}; {}",
            counted(report.files, "file"),
            report.parsed,
            counted(report.tasks, "task"),
            report.runnable,
            report.native,
            report.needing_python,
            report.template_errors.len(),
            counted(report.groups, "group"),
            counted(report.problems.len(), "problem")
        );
        text
    })?;
    let hindered = report.problems.len() + report.template_errors.len();
    if hindered == 0 {
        return Ok(());
    }
    Err(Failure::usage(format!("{} in {} cannot be used", counted(hindered, "definition"), dir.display()))
        .after_output())
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
    let model: Option<&dyn LanguageModel> = ready.map(|ready| &*ready.model);
    let formatter = model.as_ref().map(|model| model as &dyn PromptFormatter);
    let view = task.show(doc, options, formatter)?;
    let tokens = |request: &Request| -> Option<RequestTokens> { RequestTokens::of(model?, request) };
    let all: Vec<Option<RequestTokens>> = view.item.requests.iter().map(tokens).collect();
    let shifted = all.iter().flatten().filter(|tokens| tokens.shifted).count();
    let object = json!({
        "task": task.id(),
        "document": view.item.doc,
        "pieces": view.pieces,
        "requests": view.item.requests,
        "target": view.item.target,
        "gold": view.item.gold,
        "choices": view.item.choices,
        "tokens": all.iter().map(|t| t.as_ref().map(|t| &t.texts)).collect::<Vec<_>>(),
        "context_tokens": all.iter().map(|t| t.as_ref().and_then(|t| t.context)).collect::<Vec<_>>(),
        "crossed_joins": shifted,
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
                    "--- prompt\n{prompt}\n--- up to {} new tokens, temperature {}, stop at {stop:?}{}",
                    sampling.max_new_tokens,
                    sampling.temperature,
                    sampling.think_end.as_ref().map_or(String::new(), |mark| format!(" after {mark:?}"))
                ),
            };
        }
        let _ = writeln!(text, "--- target\n{}", view.item.target);
        if let Some(Some(tokens)) = all.first() {
            let _ = writeln!(text, "--- {} tokens of the first request", tokens.texts.len());
            let _ = writeln!(text, "{}", tokens.show());
        }
        if shifted > 0 {
            let _ = writeln!(
                text,
                "--- a token crosses the boundary of context and continuation in {shifted} of {} requests: scoring \
                 does not start exactly at the continuation (lm-eval shifts it in the same way)",
                all.len()
            );
        }
        text
    })
}

/// The tokens of a request.
struct RequestTokens {
    texts: Vec<String>,
    /// How many are context, where a continuation follows.
    context: Option<usize>,
    /// Whether a merge crosses the join.
    shifted: bool,
}

impl RequestTokens {
    fn of(model: &dyn LanguageModel, request: &Request) -> Option<Self> {
        let texts = |tokens: Vec<(u32, String)>| tokens.into_iter().map(|(_, token)| token).collect();
        match request {
            Request::LogLikelihood { context, continuation } => {
                let pair = model.tokenize_pair(context, continuation)?;
                Some(Self { texts: texts(pair.tokens), context: Some(pair.context), shifted: pair.shifted })
            }
            Request::RollingLogLikelihood { text } | Request::Generate { prompt: text, .. } => {
                Some(Self { texts: texts(model.tokenize(text)?), context: None, shifted: false })
            }
        }
    }

    /// Tokens parted by `|`; `‖` stands where the scored ones begin.
    fn show(&self) -> String {
        match self.context {
            Some(at) => format!("{}‖{}", self.texts[..at].join("|"), self.texts[at..].join("|")),
            None => self.texts.join("|"),
        }
    }
}
