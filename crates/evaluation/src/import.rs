//! Results of other tools, compared and audited as a model's own.

mod facts;
mod judgments;
mod lm_eval;
mod pairs;
mod record;
mod rows;
mod tables;
mod values;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use harness_metrics::comparison::{Caveat, Comparison, Settings};
use harness_store::{DataEntry, hash_file, open_rows};
use serde_json::{Map, Value};

pub use record::{ImportRecord, ImportedMetric, ImportedTask};
use rows::{ColumnMap, RowOptions};
pub use tables::{imported_tables, not_shared, require, require_of_suite};

use crate::{EvaluationError, Session};

/// What wrote the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportFormat {
    /// lm-evaluation-harness: a folder or file of results_*.json and samples_*.jsonl.
    LmEval,
    /// alpaca_eval: annotations.json.
    AlpacaEval,
    /// FastChat: a file of model_judgment, single or pairwise.
    Fastchat,
    /// One JSON object a line, or a JSON array of objects.
    Jsonl,
    /// Comma- or tab-separated values with a header line.
    Csv,
}

impl ImportFormat {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::LmEval => "lm-eval",
            Self::AlpacaEval => "alpaca-eval",
            Self::Fastchat => "fastchat",
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
        }
    }
}

/// What is imported.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// What wrote the results.
    pub format: ImportFormat,
    /// File or folder of the results.
    pub path: PathBuf,
    /// Name under which the results are compared.
    pub name: String,
    /// Which columns hold what, as `FIELD=COLUMN`, of rows.
    pub map: Vec<String>,
    /// Task of all rows, where no column says it.
    pub task: Option<String>,
    /// Model whose results are taken, where the file holds several.
    pub model: Option<String>,
    /// Metrics of which smaller values are better.
    pub lower_is_better: Vec<String>,
    /// File of what the model was trained with.
    pub facts: Option<PathBuf>,
    /// Whether results of this name are replaced.
    pub force: bool,
}

impl ImportOptions {
    /// A file or folder of this format, under a name.
    pub fn new(format: ImportFormat, path: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        Self {
            format,
            path: path.into(),
            name: name.into(),
            map: vec![],
            task: None,
            model: None,
            lower_is_better: vec![],
            facts: None,
            force: false,
        }
    }
}

/// Results that were imported.
#[derive(Clone, Debug)]
pub struct Imported {
    /// What is compared from now on.
    pub record: ImportRecord,
    /// Where it is kept.
    pub file: PathBuf,
    /// Scores that are empty or no finite numbers.
    pub missing: usize,
    /// Rows of texts without a readable verdict, with the reason.
    pub unread: Vec<(usize, String)>,
    /// What is wrong with the results alone.
    pub caveats: Vec<Caveat>,
}

/// Imports results of another tool, to be compared as a model's own.
///
/// # Errors
/// If the file is wrong, or the name is taken.
pub fn import(session: &Session, options: &ImportOptions) -> Result<Imported, EvaluationError> {
    check_name(session, options)?;
    check_options(options)?;
    let Results { mut record, missing, unread } = match options.format {
        ImportFormat::Csv | ImportFormat::Jsonl => from_rows(options)?,
        ImportFormat::LmEval => {
            let (record, missing) = lm_eval::read(options)?;
            Results { record, missing, unread: vec![] }
        }
        ImportFormat::AlpacaEval | ImportFormat::Fastchat => from_judgments(options)?,
    };
    if let Some(path) = &options.facts {
        record.training = facts::read(path)?;
    }
    let caveats = own_caveats(&record).map_err(of_file(&options.path))?;
    let file = record.write(&session.home)?;
    Ok(Imported { record, file, missing, unread, caveats })
}

/// Results with what was left out of them.
struct Results {
    record: ImportRecord,
    missing: usize,
    unread: Vec<(usize, String)>,
}

/// What is wrong with the results alone.
fn own_caveats(record: &ImportRecord) -> Result<Vec<Caveat>, EvaluationError> {
    let tables = imported_tables(&[record], &[]);
    if tables.is_empty() {
        return Err(EvaluationError::usage(format!("{}: no task has a value", record.name)));
    }
    let comparison =
        Comparison::compute(&tables, &[record.facts()], &Settings { resamples: 100, ..Settings::default() })?;
    let shown: BTreeSet<&str> = record.tasks.iter().map(|task| task.id.as_str()).collect();
    Ok(comparison.caveats.into_iter().filter(|caveat| !caveat.is_statistical()).chain(record.judged(&shown)).collect())
}

/// The name is free: no model of the experiment, no earlier import.
fn check_name(session: &Session, options: &ImportOptions) -> Result<(), EvaluationError> {
    let name = &options.name;
    if !record::is_plain(name) {
        return Err(EvaluationError::usage(format!("--name {name:?}: expected a plain name, without slashes")));
    }
    if session.experiment.models.contains_key(name) {
        return Err(EvaluationError::usage(format!(
            "--name {name}: the experiment has a model of this name; choose another"
        )));
    }
    if !options.force && ImportRecord::path(&session.home, name).exists() {
        return Err(EvaluationError::usage(format!(
            "--name {name}: results with this name exist; --force replaces them"
        )));
    }
    Ok(())
}

/// Nothing was given that the format would not look at.
fn check_options(options: &ImportOptions) -> Result<(), EvaluationError> {
    let columns = matches!(options.format, ImportFormat::Csv | ImportFormat::Jsonl);
    let given = [
        ("--map", !options.map.is_empty() && !columns),
        ("--lower-is-better", !options.lower_is_better.is_empty() && !columns),
        ("--task", options.task.is_some() && options.format == ImportFormat::LmEval),
    ];
    match given.into_iter().find(|(_, wrong)| *wrong) {
        Some((option, _)) => {
            let format = options.format.name();
            Err(EvaluationError::usage(format!("{option}: {format} files already contain this")))
        }
        None => Ok(()),
    }
}

/// All rows of a file.
fn rows_of(path: &Path) -> Result<Vec<Map<String, Value>>, EvaluationError> {
    Ok(open_rows(path)?.collect::<Result<_, _>>()?)
}

/// An error in the content of the file.
fn of_file(path: &Path) -> impl FnOnce(EvaluationError) -> EvaluationError {
    let place = path.display().to_string();
    move |error| error.within(place)
}

fn from_judgments(options: &ImportOptions) -> Result<Results, EvaluationError> {
    let rows = rows_of(&options.path)?;
    let how = row_options(options);
    let read = match options.format {
        ImportFormat::AlpacaEval => judgments::alpaca_eval(&rows, &how),
        _ => judgments::fastchat(&rows, &how),
    };
    let mut read = read.map_err(of_file(&options.path))?;
    if let Some(name) = &options.task {
        read.task.id.clone_from(name);
    }
    let mut record =
        ImportRecord::new(&options.name, options.format.name(), files(std::slice::from_ref(&options.path))?);
    record.model = read.model;
    record.tasks.push(read.task);
    Ok(Results { record, missing: read.missing, unread: vec![] })
}

fn row_options(options: &ImportOptions) -> RowOptions<'_> {
    RowOptions {
        name: &options.name,
        task: options.task.as_deref(),
        model: options.model.as_deref(),
        lower_is_better: &options.lower_is_better,
    }
}

fn from_rows(options: &ImportOptions) -> Result<Results, EvaluationError> {
    let map = ColumnMap::parse(&options.map)?;
    let rows = rows_of(&options.path)?;
    let read = rows::read(&rows, map, &row_options(options)).map_err(of_file(&options.path))?;
    let mut record =
        ImportRecord::new(&options.name, options.format.name(), files(std::slice::from_ref(&options.path))?);
    record.model = options.model.clone();
    record.tasks = read.tasks;
    Ok(Results { record, missing: read.missing, unread: read.unread })
}

/// Files with their hashes.
fn files(paths: &[PathBuf]) -> Result<Vec<DataEntry>, EvaluationError> {
    let entry = |path: &PathBuf| -> Result<DataEntry, EvaluationError> {
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| Path::new(path).to_owned());
        Ok(DataEntry { hash: hash_file(&path)?, path })
    };
    paths.iter().map(entry).collect()
}
