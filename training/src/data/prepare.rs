//! Rows to texts: strip, filter, split, format; and the three parts as files.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    ops::Range,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use harness_core::{Seed, Split, atomic_write_with, split_80_10_10};
use harness_store::DataFiles;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Chat, DataOptions, Formatted, RowProblem, SplitFractions, Template, UnusableRows, message};
use crate::TrainingError;

/// Reasons that an error lists at most.
const REASONS: usize = 3;

/// Where a row, by its number from 0, lies.
pub trait RowPlace {
    /// The file, and the line or row in it.
    fn place(&self, row: usize) -> (PathBuf, String);
}

impl RowPlace for Path {
    fn place(&self, row: usize) -> (PathBuf, String) {
        (self.to_owned(), format!("row {}", row + 1))
    }
}

impl RowPlace for DataFiles {
    fn place(&self, row: usize) -> (PathBuf, String) {
        // The file has been read once; should it be gone by now, the number says enough.
        self.place_of(row).unwrap_or_else(|_| self.files.first().map_or(Path::new("data"), PathBuf::as_path).place(row))
    }
}

/// A row ready for the tokenizer.
#[derive(Clone, Debug, PartialEq)]
pub struct PreparedRow {
    /// Its number in the source, from 0.
    pub number: usize,
    /// What the model is given.
    pub prompt: String,
    /// What it is to answer.
    pub completion: String,
    /// Bytes of the completion that the loss does not count.
    pub masked: Vec<Range<usize>>,
    /// What it is to answer less readily.
    pub rejected: Option<String>,
    /// Whether a chat template has written the texts, so that the tokenizer adds nothing of its own.
    pub rendered: bool,
    /// The columns of the source, stripped where the recipe says so.
    pub fields: Map<String, Value>,
}

/// What became of the rows of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowCounts {
    /// Rows of the source.
    pub source: usize,
    /// Rows dropped because a column of `drop_empty` is empty.
    pub dropped_empty: usize,
    /// Training rows beyond `max_samples`.
    pub beyond_max_samples: usize,
    /// Rows to train on.
    pub train: usize,
    /// Rows to choose a checkpoint with.
    pub validation: usize,
    /// Rows held out.
    pub test: usize,
    /// Rows left out because no sample can be made of them, by reason.
    #[serde(default)]
    pub unusable: BTreeMap<String, usize>,
    /// Rows used that have something which is not in the text, or looks like a mistake, by what it is.
    #[serde(default)]
    pub remarks: BTreeMap<String, usize>,
    /// Rows used that a chat template has rendered.
    #[serde(default)]
    pub rendered: usize,
}

/// A data set as texts, in its three parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// Rows to train on, in shuffled order.
    pub train: Vec<PreparedRow>,
    /// Rows to choose a checkpoint with.
    pub validation: Vec<PreparedRow>,
    /// Rows held out.
    pub test: Vec<PreparedRow>,
    /// What became of the rows.
    pub counts: RowCounts,
}

/// Cuts the rows `0..n`, shuffled with the seed, into three parts; 80/10/10 is [`split_80_10_10`], which tasks use to
/// find the held-out rows, and other fractions cut the same order elsewhere.
pub fn split(n: usize, fractions: SplitFractions, seed: Seed) -> Split {
    if fractions == SplitFractions::default() {
        return split_80_10_10(n, seed);
    }
    // The addend takes care of fractions such as 0.29, whose product with 100 is just below 29.
    let part = |fraction: f64| ((n as f64 * fraction + 1e-6).floor() as usize).min(n);
    let mut rows: Vec<usize> = (0..n).collect();
    seed.stream("split", 0).shuffle(&mut rows);
    let validation_from = if fractions.validation + fractions.test == 0.0 { n } else { part(fractions.train) };
    let test_from = if fractions.test == 0.0 { n } else { (validation_from + part(fractions.validation)).min(n) };
    let test = rows.split_off(test_from);
    let validation = rows.split_off(validation_from);
    Split { train: rows, validation, test }
}

/// Prepares the rows of a source: strip, drop empty rows and, if the recipe says so, unusable ones, split what is left,
/// format.
///
/// # Errors
/// [`TrainingError::Data`], naming the place of the row, if a column is missing or is no text, if the template fails; if no
/// training row is left.
pub fn prepare(
    mut rows: Vec<Map<String, Value>>,
    template: &Template,
    options: &DataOptions,
    source: &(impl RowPlace + ?Sized),
    chat: Option<&Chat<'_>>,
) -> Result<Prepared, TrainingError> {
    if options.strip {
        rows.par_iter_mut().for_each(strip);
    }
    let mut kept = Vec::with_capacity(rows.len());
    for (number, fields) in rows.iter().enumerate() {
        let empty = is_empty(fields, &options.drop_empty).map_err(|message| {
            let (path, place) = source.place(number);
            TrainingError::Data { path, message: format!("{place}: {message}") }
        })?;
        if !empty {
            kept.push(number);
        }
    }
    let mut counts = RowCounts { source: rows.len(), dropped_empty: rows.len() - kept.len(), ..RowCounts::default() };
    let mut used = template.used_columns();
    used.extend(options.drop_empty.iter().cloned());
    // A template that passes a limit takes its time, and there are many rows: the first one ends the work.
    let over = AtomicBool::new(false);
    let format = |number: usize| -> Result<(PreparedRow, Vec<String>), RowProblem> {
        if over.load(Ordering::Relaxed) {
            return Err(RowProblem::from(String::new()));
        }
        let fields = rows[number].clone();
        let formatted = template.format(&fields, chat).inspect_err(|problem| {
            over.fetch_or(problem.passes_limit(), Ordering::Relaxed);
        })?;
        let mut remarks = formatted.remarks;
        let unused = fields.iter().filter(|(name, value)| !used.contains(*name) && !message::is_empty(value));
        remarks.extend(unused.map(|(name, _)| format!("column {name:?} is not used")));
        let Formatted { prompt, completion, masked, rejected, rendered, .. } = formatted;
        Ok((PreparedRow { number, prompt, completion, masked, rejected, rendered, fields }, remarks))
    };
    // The split is one of the rows that are left, so those that are left out have to be known before it.
    let mut known: BTreeMap<usize, Result<(PreparedRow, Vec<String>), RowProblem>> = BTreeMap::new();
    if options.unusable_rows == UnusableRows::Drop {
        known = kept.par_iter().map(|&number| (number, format(number))).collect();
        refuse_limit(&known, source)?;
        kept.retain(|number| match known.get(number) {
            Some(Err(problem)) => {
                *counts.unusable.entry(problem.reason.clone()).or_default() += 1;
                false
            }
            _ => true,
        });
    }
    let Split { mut train, validation, test } = split(kept.len(), options.split, Seed(options.shuffle_seed));
    counts.beyond_max_samples = train.len().saturating_sub(options.max_samples.unwrap_or(usize::MAX));
    train.truncate(train.len() - counts.beyond_max_samples);
    (counts.train, counts.validation, counts.test) = (train.len(), validation.len(), test.len());
    if train.is_empty() {
        let (path, _) = source.place(0);
        let unusable: usize = counts.unusable.values().sum();
        let reasons = match unusable {
            0 => String::new(),
            _ => format!(" and {unusable} as unusable ({})", reasons(&counts.unusable)),
        };
        let message = format!(
            "of {} rows, {} of them dropped as empty{reasons}, none is left to train on; check data.drop_empty and data.split",
            counts.source, counts.dropped_empty
        );
        return Err(TrainingError::Data { path, message });
    }
    let numbers: Vec<usize> = [&train, &validation, &test].into_iter().flatten().map(|&place| kept[place]).collect();
    let formatted: Vec<Result<(PreparedRow, Vec<String>), RowProblem>> = match known.is_empty() {
        true => numbers.par_iter().map(|&number| format(number)).collect(),
        false => numbers.iter().filter_map(|number| known.remove(number)).collect(),
    };
    refuse_limit(numbers.iter().zip(&formatted), source)?;
    let problems = numbers.iter().zip(&formatted).filter_map(|(&number, row)| Some((number, row.as_ref().err()?)));
    refuse(problems.collect(), numbers.len(), source)?;
    let mut done = Vec::with_capacity(formatted.len());
    for (row, remarks) in formatted.into_iter().flatten() {
        counts.rendered += usize::from(row.rendered);
        for remark in remarks.into_iter().collect::<BTreeSet<_>>() {
            *counts.remarks.entry(remark).or_default() += 1;
        }
        done.push(row);
    }
    let test = done.split_off(counts.train + counts.validation);
    let validation = done.split_off(counts.train);
    Ok(Prepared { train: done, validation, test, counts })
}

/// Fails if a template passed a limit in one of the rows.
fn refuse_limit<'a, T: 'a>(
    rows: impl IntoIterator<Item = (&'a usize, &'a Result<T, RowProblem>)>,
    source: &(impl RowPlace + ?Sized),
) -> Result<(), TrainingError> {
    let mut problems = rows.into_iter().filter_map(|(&number, row)| Some((number, row.as_ref().err()?)));
    let Some((number, problem)) = problems.find(|(_, problem)| problem.passes_limit()) else { return Ok(()) };
    let (path, place) = source.place(number);
    Err(TrainingError::Data { path, message: format!("{place}: {problem}") })
}

/// Fails at the first of the rows of which no sample can be made, and says how many there are, by reason.
fn refuse(
    mut problems: Vec<(usize, &RowProblem)>,
    rows: usize,
    source: &(impl RowPlace + ?Sized),
) -> Result<(), TrainingError> {
    problems.sort_by_key(|(number, _)| *number);
    let Some(&(first, problem)) = problems.first() else { return Ok(()) };
    let (path, place) = source.place(first);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (_, problem) in &problems {
        *counts.entry(problem.reason.clone()).or_default() += 1;
    }
    let mut message = format!("{place}: {problem}");
    if rows > 1 {
        message +=
            &format!("; {} of {rows} rows {} unusable", problems.len(), if problems.len() == 1 { "is" } else { "are" });
    }
    if counts.len() > 1 {
        message += &format!(" ({})", reasons(&counts));
    }
    message += match problems.len() < rows {
        true => "; fix them, or leave them out with data.unusable_rows = \"drop\"",
        false => "; choose another template, or data with what it needs",
    };
    Err(TrainingError::Data { path, message })
}

/// The most frequent reasons with their numbers of rows.
fn reasons(counts: &BTreeMap<String, usize>) -> String {
    let mut sorted: Vec<(&String, &usize)> = counts.iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let mut told: Vec<String> =
        sorted.iter().take(REASONS).map(|(reason, count)| format!("{count}: {reason}")).collect();
    told.extend((sorted.len() > REASONS).then(|| format!("{} other reasons", sorted.len() - REASONS)));
    told.join("; ")
}

/// Whether one of the columns is null, without items or nothing but white space; a missing column is an error.
fn is_empty(row: &Map<String, Value>, columns: &[String]) -> Result<bool, String> {
    for column in columns {
        match row.get(column) {
            None => {
                let known: Vec<&str> = row.keys().map(String::as_str).collect();
                return Err(format!("no column {column:?} (data.drop_empty); the columns are {}", known.join(", ")));
            }
            Some(value) if message::is_empty(value) => return Ok(true),
            Some(_) => {}
        }
    }
    Ok(false)
}

/// Removes white space at both ends of every text column.
fn strip(row: &mut Map<String, Value>) {
    for value in row.values_mut() {
        if let Value::String(text) = value {
            let stripped = text.trim();
            if stripped.len() < text.len() {
                *value = Value::String(stripped.to_owned());
            }
        }
    }
}

impl PreparedRow {
    /// The whole text of the sample.
    pub fn text(&self) -> String {
        format!("{}{}", self.prompt, self.completion)
    }

    /// The row as it is written: a column `text`, then the columns of the source.
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        object.insert("text".into(), Value::String(self.text()));
        object.extend(self.fields.iter().filter(|(name, _)| *name != "text").map(|(k, v)| (k.clone(), v.clone())));
        Value::Object(object)
    }
}

impl Prepared {
    /// Writes `train.jsonl`, `validation.jsonl` and `test.jsonl` into an existing folder, each line with a column
    /// `text` and the columns of the source.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), TrainingError> {
        for (name, rows) in [("train", &self.train), ("validation", &self.validation), ("test", &self.test)] {
            let path = folder.join(format!("{name}.jsonl"));
            let failed = |error| TrainingError::io("write", &path)(error);
            atomic_write_with(&path, failed, |file| {
                rows.iter().try_for_each(|row| writeln!(file, "{}", row.to_json()).map_err(failed))
            })?;
        }
        Ok(())
    }
}
