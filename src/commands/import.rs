//! `harness import`: results of other tools, compared and audited as a model's own.

mod facts;
mod judgments;
mod lm_eval;
mod pairs;
mod record;
mod rows;
mod tables;
mod values;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use harness_metrics::comparison::{Caveat, Comparison, Settings, counted};
use harness_store::{DataEntry, hash_file, open_rows};
use serde_json::{Map, Value, json};

use super::{App, Failure};
use crate::cli::{ImportArgs, ImportFormat};
pub(in crate::commands) use record::ImportRecord;
use record::{ImportedMetric, ImportedTask};
use rows::{ColumnMap, RowOptions};
pub(in crate::commands) use tables::{imported_tables, not_shared, require, require_of_suite};

/// Runs `harness import`.
///
/// # Errors
/// If the file is wrong, or the name is taken.
pub(super) fn import(app: &App, args: &ImportArgs) -> Result<(), Failure> {
    check_name(app, args)?;
    check_options(args)?;
    let mut imported = match args.format {
        ImportFormat::Csv | ImportFormat::Jsonl => from_rows(args)?,
        ImportFormat::LmEval => {
            let (record, missing) = lm_eval::read(args)?;
            Imported { record, missing, unread: vec![] }
        }
        ImportFormat::AlpacaEval | ImportFormat::Fastchat => from_judgments(args)?,
    };
    if let Some(path) = &args.facts {
        imported.record.training = facts::read(path)?;
    }
    let Imported { record, missing, unread } = imported;
    let caveats = own_caveats(&record)?;
    let path = record.write(&app.home)?;
    let tasks: BTreeMap<&str, Value> = record
        .tasks
        .iter()
        .map(|task| {
            let metrics: Vec<String> = task.metrics.iter().map(|metric| metric.key.to_string()).collect();
            let aggregate = task.metrics.iter().any(|metric| metric.aggregate.is_some());
            let documents = task.metrics.iter().map(ImportedMetric::n).max().flatten();
            (
                task.id.as_str(),
                json!({"documents": documents, "metrics": metrics, "aggregate": aggregate, "group": task.group}),
            )
        })
        .collect();
    let object = json!({
        "name": record.name, "file": path, "tasks": tasks, "missing_scores": missing,
        "unread": unread.iter().map(|(row, why)| json!({"row": row, "reason": why})).collect::<Vec<_>>(),
        "caveats": caveats.iter().map(|caveat| json!({"caveat": caveat, "text": caveat.to_string()})).collect::<Vec<_>>(),
    });
    app.output(&object, || {
        let mut text = format!("{}: imported as {}\n", args.path.display(), record.name);
        for task in &record.tasks {
            text.push_str(&format!("  {}{}\n", "  ".repeat(depth(&record, task)), line(task)));
        }
        if missing > 0 {
            text.push_str(&format!("  {missing} scores are empty or no finite numbers: they count as missing\n"));
        }
        for (row, why) in unread.iter().take(SHOWN) {
            text.push_str(&format!("  row {row}: {why}\n"));
        }
        if unread.len() > SHOWN {
            text.push_str(&format!("  and {} more rows without a verdict\n", unread.len() - SHOWN));
        }
        caveats.iter().for_each(|caveat| text.push_str(&format!("- {caveat}\n  {}\n", caveat.advice())));
        text
    })
}

/// How many rows without a verdict are named.
const SHOWN: usize = 8;

/// Results with what was left out of them.
struct Imported {
    record: ImportRecord,
    /// Scores that are empty.
    missing: usize,
    /// Rows of texts without a readable verdict, with the reason.
    unread: Vec<(usize, String)>,
}

/// A task in a line.
fn line(task: &ImportedTask) -> String {
    let metrics: Vec<String> = task.metrics.iter().map(|metric| metric.key.to_string()).collect();
    let alone = task.metrics.iter().any(|metric| metric.aggregate.is_some());
    let what = match task.metrics.iter().filter_map(ImportedMetric::n).max() {
        Some(n) if alone => format!("means alone over {}, compared unpaired", counted(n, "document")),
        Some(n) => counted(n, "document"),
        None => "means alone over an unknown number of documents, compared unpaired".to_owned(),
    };
    format!("{}: {what}; {}", task.id, metrics.join(", "))
}

/// Number of groups above a task.
fn depth(record: &ImportRecord, task: &ImportedTask) -> usize {
    let (mut depth, mut at) = (0, task);
    while let Some(above) =
        at.group.as_deref().and_then(|group| record.task(group)).filter(|_| depth < record.tasks.len())
    {
        (depth, at) = (depth + 1, above);
    }
    depth
}

/// What is wrong with the results alone.
fn own_caveats(record: &ImportRecord) -> Result<Vec<Caveat>, Failure> {
    let tables = imported_tables(&[record], &[]);
    if tables.is_empty() {
        return Err(Failure::usage(format!("{}: no task has a value", record.name)));
    }
    let comparison =
        Comparison::compute(&tables, &[record.facts()], &Settings { resamples: 100, ..Settings::default() })?;
    let shown: BTreeSet<&str> = record.tasks.iter().map(|task| task.id.as_str()).collect();
    Ok(comparison.caveats.into_iter().filter(|caveat| !caveat.is_statistical()).chain(record.judged(&shown)).collect())
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

/// Nothing was given that the format would not look at.
fn check_options(args: &ImportArgs) -> Result<(), Failure> {
    let columns = matches!(args.format, ImportFormat::Csv | ImportFormat::Jsonl);
    let given = [
        ("--map", !args.map.is_empty() && !columns),
        ("--lower-is-better", !args.lower_is_better.is_empty() && !columns),
        ("--task", args.task.is_some() && args.format == ImportFormat::LmEval),
    ];
    match given.into_iter().find(|(_, wrong)| *wrong) {
        Some((option, _)) => {
            let format = args.format.name();
            Err(Failure::usage(format!("{option}: files of {format} say this themselves")))
        }
        None => Ok(()),
    }
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

fn from_judgments(args: &ImportArgs) -> Result<Imported, Failure> {
    let rows = rows_of(&args.path)?;
    let options = options(args);
    let read = match args.format {
        ImportFormat::AlpacaEval => judgments::alpaca_eval(&rows, &options),
        _ => judgments::fastchat(&rows, &options),
    };
    let mut read = read.map_err(of_file(&args.path))?;
    if let Some(name) = &args.task {
        read.task.id.clone_from(name);
    }
    let mut record = ImportRecord::new(&args.name, args.format.name(), files(std::slice::from_ref(&args.path))?);
    record.model = read.model;
    record.tasks.push(read.task);
    Ok(Imported { record, missing: read.missing, unread: vec![] })
}

fn options(args: &ImportArgs) -> RowOptions<'_> {
    RowOptions {
        name: &args.name,
        task: args.task.as_deref(),
        model: args.model.as_deref(),
        lower_is_better: &args.lower_is_better,
    }
}

fn from_rows(args: &ImportArgs) -> Result<Imported, Failure> {
    let map = ColumnMap::parse(&args.map)?;
    let rows = rows_of(&args.path)?;
    let read = rows::read(&rows, map, &options(args)).map_err(of_file(&args.path))?;
    let mut record = ImportRecord::new(&args.name, args.format.name(), files(std::slice::from_ref(&args.path))?);
    record.model = args.model.clone();
    record.tasks = read.tasks;
    Ok(Imported { record, missing: read.missing, unread: read.unread })
}

/// Files with their hashes.
fn files(paths: &[PathBuf]) -> Result<Vec<DataEntry>, Failure> {
    let entry = |path: &PathBuf| -> Result<DataEntry, Failure> {
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| Path::new(path).to_owned());
        Ok(DataEntry { hash: hash_file(&path)?, path })
    };
    paths.iter().map(entry).collect()
}
