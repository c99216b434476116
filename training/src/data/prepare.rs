//! Rows to texts: strip, filter, split, format; and the three parts as files.

use std::{io::Write, ops::Range, path::Path};

use harness_core::{Seed, Split, split_80_10_10};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Formatted, Template};
use crate::{
    TrainingError,
    recipe::{DataOptions, SplitFractions},
};

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
    /// The columns of the source, stripped where the recipe says so.
    pub fields: Map<String, Value>,
}

/// What became of the rows of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// Prepares the rows of a source: strip, drop empty rows, split what is left, format.
///
/// # Errors
/// [`TrainingError::Data`], naming `source` and the row (from 1), if a column is missing or the template fails; if no
/// training row is left.
pub fn prepare(
    mut rows: Vec<Map<String, Value>>,
    template: &Template,
    options: &DataOptions,
    source: &Path,
) -> Result<Prepared, TrainingError> {
    let error = |number: usize, message: String| TrainingError::Data {
        path: source.to_owned(),
        message: format!("row {}: {message}", number + 1),
    };
    if options.strip {
        rows.par_iter_mut().for_each(strip);
    }
    let mut kept = Vec::with_capacity(rows.len());
    for (number, fields) in rows.iter().enumerate() {
        if !is_empty(fields, &options.drop_empty).map_err(|message| error(number, message))? {
            kept.push(number);
        }
    }
    let Split { mut train, validation, test } = split(kept.len(), options.split, Seed(options.shuffle_seed));
    let beyond_max_samples = train.len().saturating_sub(options.max_samples.unwrap_or(usize::MAX));
    train.truncate(train.len() - beyond_max_samples);
    let counts = RowCounts {
        source: rows.len(),
        dropped_empty: rows.len() - kept.len(),
        beyond_max_samples,
        train: train.len(),
        validation: validation.len(),
        test: test.len(),
    };
    if train.is_empty() {
        return Err(TrainingError::Data {
            path: source.to_owned(),
            message: format!(
                "of {} rows, {} of them dropped as empty, none is left to train on; check data.drop_empty and \
                 data.split",
                counts.source, counts.dropped_empty
            ),
        });
    }
    let format = |places: Vec<usize>| -> Result<Vec<PreparedRow>, TrainingError> {
        places
            .into_par_iter()
            .map(|place| {
                let number = kept[place];
                let fields = rows[number].clone();
                let Formatted { prompt, completion, masked, rejected } =
                    template.format(&fields).map_err(|message| error(number, message))?;
                Ok(PreparedRow { number, prompt, completion, masked, rejected, fields })
            })
            .collect()
    };
    Ok(Prepared { train: format(train)?, validation: format(validation)?, test: format(test)?, counts })
}

/// Whether one of the columns is null or nothing but white space; a missing column is an error.
fn is_empty(row: &Map<String, Value>, columns: &[String]) -> Result<bool, String> {
    for column in columns {
        match row.get(column) {
            None => {
                let known: Vec<&str> = row.keys().map(String::as_str).collect();
                return Err(format!("no column {column:?} (data.drop_empty); the columns are {}", known.join(", ")));
            }
            Some(Value::Null) => return Ok(true),
            Some(Value::String(text)) if text.trim().is_empty() => return Ok(true),
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
            let write = || -> std::io::Result<()> {
                let mut file = std::io::BufWriter::new(std::fs::File::create(&path)?);
                for row in rows {
                    serde_json::to_writer(&mut file, &row.to_json())?;
                    file.write_all(b"\n")?;
                }
                file.flush()
            };
            write().map_err(TrainingError::io("write", &path))?;
        }
        Ok(())
    }
}
