//! Reading the rows of files, by their format.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{
    DataFormat, Row, Rows, csv::CsvRows, json, jsonl::JsonlRows, parquet::ParquetRows, read_row::ReadRow as _, text,
};
use crate::{Result, StoreError};

/// Selects the rows whose column has a value, where one file holds what the hub has in several configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowFilter {
    /// The column, e.g. `subject`.
    pub column: String,
    /// Its value, e.g. `abstract_algebra`; values that are no strings are compared in their JSON form.
    pub equals: String,
}

impl RowFilter {
    /// A filter on one column.
    pub fn new(column: impl Into<String>, equals: impl Into<String>) -> Self {
        Self { column: column.into(), equals: equals.into() }
    }

    fn text(value: &Value) -> String {
        value.as_str().map_or_else(|| value.to_string(), str::to_owned)
    }

    /// Whether the row is selected; `None` if it has no such column.
    pub fn matches(&self, row: &Row) -> Option<bool> {
        row.get(&self.column).map(|value| match value {
            Value::String(text) => *text == self.equals,
            other => Self::text(other) == self.equals,
        })
    }
}

/// The rows of one file, by its extension (see [`DataFormat`]); JSON Lines, CSV and Parquet are streamed.
///
/// # Errors
/// If the file cannot be opened or its extension is unknown; and, as an item, at the first bad row, naming the line.
pub fn open_rows(path: &Path) -> Result<Rows> {
    let (format, compression) = DataFormat::require(path)?;
    Ok(match format {
        DataFormat::Jsonl => Box::new(JsonlRows::open(path, compression)?.rows()),
        DataFormat::Csv => Box::new(CsvRows::open(path, compression, b',')?.rows()),
        DataFormat::Tsv => Box::new(CsvRows::open(path, compression, b'\t')?.rows()),
        DataFormat::Parquet => Box::new(ParquetRows::open(path)?),
        DataFormat::Json => Box::new(json::read(path, compression)?.into_iter().map(Ok)),
        DataFormat::Text => Box::new(std::iter::once(Ok(text::read(path, compression)?))),
    })
}

/// All rows of several files (the shards of one split), in their order, that the filter selects.
///
/// # Errors
/// See [`open_rows`]; and if the filter's column does not exist or no row has its value.
pub fn read_rows(files: &[PathBuf], filter: Option<&RowFilter>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut others: Vec<String> = Vec::new();
    for path in files {
        for row in open_rows(path)? {
            let row = row?;
            let Some(filter) = filter else {
                rows.push(row);
                continue;
            };
            match filter.matches(&row) {
                Some(true) => rows.push(row),
                Some(false) if rows.is_empty() => {
                    let value = RowFilter::text(&row[&filter.column]);
                    if others.last() != Some(&value) && others.len() < 1000 && !others.contains(&value) {
                        others.push(value);
                    }
                }
                Some(false) => {}
                None => {
                    return Err(StoreError::NoColumn {
                        path: path.clone(),
                        column: filter.column.clone(),
                        columns: row.keys().cloned().collect(),
                    });
                }
            }
        }
    }
    match filter {
        Some(filter) if rows.is_empty() && !others.is_empty() => Err(StoreError::NoRows {
            path: files[0].clone(),
            column: filter.column.clone(),
            value: filter.equals.clone(),
            values: others,
        }),
        _ => Ok(rows),
    }
}
