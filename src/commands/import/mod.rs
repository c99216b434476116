//! `harness import`: results of other tools, compared and audited as a model's own.

mod judgments;
mod lm_eval;
mod record;
mod rows;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use harness_store::{DataEntry, hash_file, open_rows};
use serde_json::{Map, Value, json};

use super::{App, Failure};
use crate::cli::{ImportArgs, ImportFormat};
pub(in crate::commands) use record::ImportRecord;
use rows::{ColumnMap, RowOptions};

/// Runs `harness import`.
///
/// # Errors
/// If the file is wrong, or the name is taken.
pub(super) fn import(app: &App, args: &ImportArgs) -> Result<(), Failure> {
    check_name(app, args)?;
    let (record, missing) = match args.format {
        ImportFormat::Csv | ImportFormat::Jsonl => from_rows(args)?,
        ImportFormat::LmEval => lm_eval::read(args)?,
        ImportFormat::AlpacaEval | ImportFormat::Fastchat => from_judgments(args)?,
    };
    let path = record.write(&app.home)?;
    let tasks: BTreeMap<&str, Value> = record
        .tasks
        .iter()
        .map(|task| {
            let metrics: Vec<String> = task.metrics.iter().map(|metric| metric.key.to_string()).collect();
            let aggregate = task.metrics.iter().any(|metric| metric.aggregate.is_some());
            (task.id.as_str(), json!({"documents": task.labels.len(), "metrics": metrics, "aggregate": aggregate}))
        })
        .collect();
    let object = json!({"name": record.name, "file": path, "tasks": tasks, "missing_scores": missing});
    app.output(&object, || {
        let mut text = format!("{}: imported as {}\n", args.path.display(), record.name);
        for task in &record.tasks {
            let metrics: Vec<String> = task.metrics.iter().map(|metric| metric.key.to_string()).collect();
            let what = if task.labels.is_empty() {
                "means alone, compared unpaired".to_owned()
            } else {
                format!("{} documents", task.labels.len())
            };
            text.push_str(&format!("  {}: {what}; {}\n", task.id, metrics.join(", ")));
        }
        if missing > 0 {
            text.push_str(&format!("  {missing} scores are empty: those documents count as missing\n"));
        }
        text
    })
}

/// The name is free: no model of the experiment, no earlier import.
fn check_name(app: &App, args: &ImportArgs) -> Result<(), Failure> {
    let name = &args.name;
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
        return Err(Failure::usage(format!("--name {name:?}: expected a plain name, without slashes")));
    }
    if app.experiment.models.contains_key(name) {
        return Err(Failure::usage(format!("--name {name}: the experiment has a model of this name; choose another")));
    }
    if !args.force && ImportRecord::path(&app.home, name).exists() {
        return Err(Failure::usage(format!("--name {name}: results of this name are there; --force replaces them")));
    }
    Ok(())
}

/// All rows of a file.
fn rows_of(path: &Path) -> Result<Vec<Map<String, Value>>, Failure> {
    Ok(open_rows(path)?.collect::<Result<_, _>>()?)
}

/// An error in the content of the file.
fn of_file(path: &Path) -> impl FnOnce(Failure) -> Failure {
    let place = path.display().to_string();
    move |error| Failure::usage(format!("{place}: {}", error.message()))
}

fn from_judgments(args: &ImportArgs) -> Result<(ImportRecord, usize), Failure> {
    let rows = rows_of(&args.path)?;
    let read = match args.format {
        ImportFormat::AlpacaEval => judgments::alpaca_eval(&rows, args.model.as_deref()),
        _ => judgments::fastchat(&rows, args.model.as_deref()),
    };
    let (mut task, missing) = read.map_err(of_file(&args.path))?;
    if let Some(name) = &args.task {
        task.id.clone_from(name);
    }
    let mut record = ImportRecord::new(&args.name, args.format.name(), files(std::slice::from_ref(&args.path))?);
    record.model = args.model.clone();
    record.tasks.push(task);
    Ok((record, missing))
}

fn from_rows(args: &ImportArgs) -> Result<(ImportRecord, usize), Failure> {
    let map = ColumnMap::parse(&args.map)?;
    let rows = rows_of(&args.path)?;
    let options =
        RowOptions { task: args.task.as_deref(), model: args.model.as_deref(), lower_is_better: &args.lower_is_better };
    let read = rows::read(&rows, &map, &options).map_err(of_file(&args.path))?;
    let mut record = ImportRecord::new(&args.name, args.format.name(), files(std::slice::from_ref(&args.path))?);
    record.model = args.model.clone();
    record.tasks = read.tasks;
    Ok((record, read.missing))
}

/// Files with their hashes.
fn files(paths: &[PathBuf]) -> Result<Vec<DataEntry>, Failure> {
    let entry = |path: &PathBuf| -> Result<DataEntry, Failure> {
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| Path::new(path).to_owned());
        Ok(DataEntry { hash: hash_file(&path)?, path })
    };
    paths.iter().map(entry).collect()
}
