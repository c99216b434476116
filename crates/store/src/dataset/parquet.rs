//! Apache Parquet.

mod checked;
mod header;

use std::path::{Path, PathBuf};

use checked::CheckedFile;
use harness_core::guarded;
use parquet::{
    errors::ParquetError,
    record::{Field, reader::RowIter},
};
use serde_json::{Number, Value};

use super::Row;
use crate::StoreError;

/// Rows of a Parquet file: lists become arrays, structs and maps become objects.
pub(super) struct ParquetRows {
    path: PathBuf,
    rows: RowIter<'static>,
    row: usize,
    failed: bool,
}

impl ParquetRows {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let file = harness_core::open_file(path).map_err(StoreError::io("open", path))?;
        let rows = whole(guarded(|| Ok(RowIter::from_file_into(Box::new(CheckedFile::new(file)?)))));
        let rows = rows.map_err(|reason| {
            StoreError::bad_file(path, format!("no readable Parquet ({reason})"), "a whole Parquet file")
        })?;
        Ok(Self { path: path.to_owned(), rows, row: 0, failed: false })
    }
}

impl Iterator for ParquetRows {
    type Item = Result<Row, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        self.row += 1;
        Some(match whole(guarded(|| self.rows.next().transpose())).transpose()? {
            Ok(row) => Ok(object(row.into_columns())),
            Err(reason) => {
                self.failed = true;
                let found = format!("unreadable data ({reason})");
                Err(StoreError::bad_row(&self.path, format!("row {}", self.row), found, "a whole Parquet file"))
            }
        })
    }
}

/// What was read, or why not: an error, or a panic, which pages that are broken lead to.
fn whole<T>(read: Result<Result<T, ParquetError>, String>) -> Result<T, String> {
    read?.map_err(|error| error.to_string())
}

fn object(columns: Vec<(String, Field)>) -> Row {
    columns.into_iter().map(|(name, field)| (name, value(field))).collect()
}

/// A field as JSON. 32-bit floats become the shortest decimal that reads back to them, not their widening; numbers
/// that are not finite are null; bytes that are UTF-8 are text (older writers leave the annotation away).
fn value(field: Field) -> Value {
    match field {
        Field::Str(text) => text.into(),
        Field::Float(x) => x.to_string().parse().ok().and_then(Number::from_f64).map_or(Value::Null, Value::Number),
        Field::Group(row) => object(row.into_columns()).into(),
        Field::ListInternal(list) => list.elements().iter().cloned().map(value).collect(),
        Field::MapInternal(map) => map
            .entries()
            .iter()
            .map(|(key, field)| {
                let key = match value(key.clone()) {
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                (key, value(field.clone()))
            })
            .collect::<Row>()
            .into(),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.into(),
            Err(_) => Field::Bytes(bytes).to_json_value(),
        },
        other => other.to_json_value(),
    }
}
