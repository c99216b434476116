//! JSON files: an array of objects, an object with one array of objects, or lines in spite of the name.

use std::path::Path;

use serde_json::Value;

use super::{
    Row,
    format::{Compression, read_text},
    jsonl::{JsonlRows, without_position},
    kind,
    read_row::ReadRow as _,
};
use crate::{Result, StoreError};

const EXPECTED: &str = "an array of objects, or an object with one array of objects";

/// All rows of a JSON file. JSON Lines under the name `.json`, common on the hub, are understood too.
pub(super) fn read(path: &Path, compression: Compression) -> Result<Vec<Row>> {
    let text = read_text(path, compression)?;
    let value = match serde_json::from_str(&text) {
        Ok(value) => value,
        Err(error) => {
            let first = text.trim_start().lines().next().unwrap_or_default();
            if serde_json::from_str::<Row>(first).is_ok() {
                return JsonlRows::open(path, compression)?.rows().collect();
            }
            let found = format!("bad JSON at column {} ({})", error.column(), without_position(&error));
            return Err(StoreError::bad_row(path, format!("line {}", error.line()), found, EXPECTED));
        }
    };
    let items = match value {
        Value::Array(items) => items,
        Value::Object(object) => only_array(path, object)?,
        other => return Err(StoreError::bad_file(path, kind(&other), EXPECTED)),
    };
    items
        .into_iter()
        .enumerate()
        .map(|(i, item)| match item {
            Value::Object(row) => Ok(row),
            other => Err(StoreError::bad_row(path, format!("item {}", i + 1), kind(&other), "an object")),
        })
        .collect()
}

fn only_array(path: &Path, object: Row) -> Result<Vec<Value>> {
    let keys: Vec<String> = object.keys().cloned().collect();
    let mut arrays = object.into_iter().filter_map(|(key, value)| match value {
        Value::Array(items) if items.iter().all(Value::is_object) => Some((key, items)),
        _ => None,
    });
    match (arrays.next(), arrays.next()) {
        (Some((_, items)), None) => Ok(items),
        (Some((a, _)), Some((b, _))) => {
            Err(StoreError::bad_file(path, format!("several arrays of objects ({a}, {b}, …)"), EXPECTED))
        }
        (None, _) => {
            Err(StoreError::bad_file(path, format!("an object without one (its keys: {})", keys.join(", ")), EXPECTED))
        }
    }
}
