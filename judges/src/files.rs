//! The files of other tools: alpaca_eval's and FastChat's.

pub mod alpaca_eval;
pub mod fastchat;

use std::path::Path;

use harness_store::{Row, read_rows};
use serde::Serialize;
use serde_json::Value;

use crate::{JudgesError, Location, Result};

/// The rows of a JSON, JSON Lines, CSV or Parquet file, each with its number from 1.
fn rows(path: &Path) -> Result<Vec<(usize, Row)>> {
    let rows = read_rows(&[path.to_owned()], None).map_err(|error| JudgesError::Syntax {
        at: Location::new(path.display().to_string(), None),
        // The store's messages begin with the path.
        message: error
            .to_string()
            .trim_start_matches(&format!("{}", path.display()))
            .trim_start_matches([':', ',', ' '])
            .to_owned(),
    })?;
    Ok(rows.into_iter().enumerate().map(|(i, row)| (i + 1, row)).collect())
}

/// An error about one row.
fn bad_row(path: &Path, row: usize, found: impl Into<String>, expected: &str) -> JudgesError {
    let at = Location::new(format!("{}, row {row}", path.display()), None);
    JudgesError::Row { at, found: found.into(), expected: expected.into() }
}

/// What a value is, in a few words.
fn kind_of(value: Option<&Value>) -> &'static str {
    match value {
        None => "nothing",
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "true or false",
        Some(Value::Number(_)) => "a number",
        Some(Value::String(_)) => "a text",
        Some(Value::Array(_)) => "a list",
        Some(Value::Object(_)) => "an object",
    }
}

/// A text column.
fn text<'a>(path: &Path, number: usize, row: &'a Row, column: &str) -> Result<&'a str> {
    row.get(column).and_then(Value::as_str).ok_or_else(|| {
        bad_row(path, number, format!("{} in `{column}`", kind_of(row.get(column))), &format!("a text `{column}`"))
    })
}

/// A column of texts; a single text is a list of one.
fn texts(path: &Path, number: usize, row: &Row, column: &str) -> Result<Vec<String>> {
    let wrong = || {
        let found = format!("{} in `{column}`", kind_of(row.get(column)));
        bad_row(path, number, found, &format!("a list of texts `{column}`"))
    };
    match row.get(column) {
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(Value::Array(list)) => {
            list.iter().map(|value| value.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        _ => Err(wrong()),
    }
}

/// [`harness_core::atomic_write`] with the path in its error.
fn write(path: &Path, content: &str) -> Result<()> {
    let failed = |source| JudgesError::Io { action: "write", path: path.to_owned(), source };
    harness_core::atomic_write(path, content).map_err(failed)
}

/// Values as JSON Lines.
fn json_lines<T: Serialize>(values: &[T]) -> String {
    values.iter().map(|value| format!("{}\n", serde_json::json!(value))).collect()
}
