//! Reading the rows of files, by their format.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{
    DataFormat, Row, Rows, csv::CsvRows, json, jsonl::JsonlRows, parquet::ParquetRows, read_row::ReadRow, text,
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

/// Where a row of several files lies, by its number from 0 among those that the filter selects: the file, and the line or
/// row in it. `None` if there is no such row.
///
/// # Errors
/// As [`read_rows`].
pub(super) fn place_of(files: &[PathBuf], filter: Option<&RowFilter>, row: usize) -> Result<Option<(PathBuf, String)>> {
    let selected = |row: &Row| filter.is_none_or(|filter| filter.matches(row) == Some(true));
    let mut before = 0;
    for path in files {
        let (format, compression) = DataFormat::require(path)?;
        let found = match format {
            DataFormat::Jsonl => find(JsonlRows::open(path, compression)?, &selected, row - before)?,
            DataFormat::Csv => find(CsvRows::open(path, compression, b',')?, &selected, row - before)?,
            DataFormat::Tsv => find(CsvRows::open(path, compression, b'\t')?, &selected, row - before)?,
            DataFormat::Parquet | DataFormat::Json | DataFormat::Text => {
                let mut seen = 0;
                let mut place = None;
                for (number, item) in open_rows(path)?.enumerate() {
                    seen += usize::from(selected(&item?));
                    if seen > row - before {
                        place = Some(format!("row {}", number + 1));
                        break;
                    }
                }
                place.ok_or(seen)
            }
        };
        match found {
            Ok(place) => return Ok(Some((path.clone(), place))),
            Err(rows) => before += rows,
        }
    }
    Ok(None)
}

/// The place of a selected row of a file, else how many the file has.
fn find(
    mut file: impl ReadRow,
    selected: &dyn Fn(&Row) -> bool,
    wanted: usize,
) -> Result<std::result::Result<String, usize>> {
    let mut seen = 0;
    while let Some(row) = file.read()? {
        seen += usize::from(selected(&row));
        if seen > wanted {
            return Ok(Ok(file.place()));
        }
    }
    Ok(Err(seen))
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
