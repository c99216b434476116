//! Comma- and tab-separated values (RFC 4180: quoted cells may hold separators, quotes and line ends).

use std::{
    collections::HashSet,
    io::Read,
    path::{Path, PathBuf},
};

use csv::{ByteRecord, Reader, ReaderBuilder};
use harness_core::{limit_name, limits};
use serde_json::Value;

use super::{
    Row,
    format::{Compression, not_utf8, open},
    read_row::ReadRow,
};
use crate::{Result, StoreError};

/// Type of a column, found by reading the whole file once before rows are given out.
///
/// A column is of whole numbers or of numbers if every filled cell is written as JSON would write one (`007` and
/// `1.` are text, so nothing is lost); its empty cells are null. In any other column cells are strings, empty ones too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ColumnType {
    /// No filled cell so far.
    Empty,
    Integer,
    Number,
    Text,
}

/// Rows of a delimited file with a header line.
pub(super) struct CsvRows {
    path: PathBuf,
    columns: Vec<(String, ColumnType)>,
    reader: Reader<Box<dyn Read + Send>>,
    record: ByteRecord,
    row: usize,
}

impl CsvRows {
    pub(super) fn open(path: &Path, compression: Compression, delimiter: u8) -> Result<Self> {
        let mut rows = Self::start(path, compression, delimiter)?;
        let mut types = vec![ColumnType::Empty; rows.columns.len()];
        while rows.advance()? {
            for (column, cell) in types.iter_mut().zip(&rows.record) {
                *column = widen(*column, cell);
            }
        }
        let mut rows = Self::start(path, compression, delimiter)?;
        for ((_, column), found) in rows.columns.iter_mut().zip(types) {
            *column = if found == ColumnType::Empty { ColumnType::Text } else { found };
        }
        Ok(rows)
    }

    fn start(path: &Path, compression: Compression, delimiter: u8) -> Result<Self> {
        let mut reader = ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(open(path, compression)?);
        let header = reader.byte_headers().map_err(|error| read_error(path, error))?;
        if header.len() > limits().columns {
            let (most, name) = (limits().columns, limit_name("columns"));
            let expected = format!("at most {most} {name}");
            return Err(StoreError::bad_row(path, "header", format!("{} columns", header.len()), expected));
        }
        let mut columns: Vec<(String, ColumnType)> = Vec::with_capacity(header.len());
        let mut names = HashSet::new();
        for name in header {
            let name = std::str::from_utf8(name).map_err(|error| {
                StoreError::bad_row(path, "header", not_utf8(name, error.valid_up_to()), "text in UTF-8")
            })?;
            if !names.insert(name) {
                return Err(StoreError::bad_row(path, "header", format!("column {name:?} twice"), "distinct columns"));
            }
            columns.push((name.to_owned(), ColumnType::Text));
        }
        if columns.is_empty() {
            return Err(StoreError::bad_file(path, "no header line", "a first line with the columns' names"));
        }
        Ok(Self { path: path.to_owned(), columns, reader, record: ByteRecord::new(), row: 0 })
    }

    /// Reads the next record and checks its number of cells.
    fn advance(&mut self) -> Result<bool> {
        let more = self.reader.read_byte_record(&mut self.record).map_err(|error| read_error(&self.path, error))?;
        if !more {
            return Ok(false);
        }
        self.row += 1;
        if self.record.len() != self.columns.len() {
            return Err(StoreError::bad_row(
                &self.path,
                self.place(),
                format!("{} cells", self.record.len()),
                format!("{} as in the header (an open quote or an unquoted separator?)", self.columns.len()),
            ));
        }
        Ok(true)
    }
}

impl ReadRow for CsvRows {
    fn read(&mut self) -> Result<Option<Row>> {
        if !self.advance()? {
            return Ok(None);
        }
        let mut row = Row::with_capacity(self.columns.len());
        for ((name, column), cell) in self.columns.iter().zip(&self.record) {
            let text = std::str::from_utf8(cell).map_err(|error| {
                let found = format!("in column {name:?} {}", not_utf8(cell, error.valid_up_to()));
                StoreError::bad_row(&self.path, self.place(), found, "text in UTF-8")
            })?;
            let value = match column {
                ColumnType::Integer | ColumnType::Number if text.is_empty() => Value::Null,
                ColumnType::Integer | ColumnType::Number => number(text).map_or_else(|| text.into(), Value::Number),
                ColumnType::Empty | ColumnType::Text => text.into(),
            };
            row.insert(name.clone(), value);
        }
        Ok(Some(row))
    }

    fn place(&self) -> String {
        match self.record.position() {
            Some(position) => format!("row {} (line {})", self.row, position.line()),
            None => format!("row {}", self.row),
        }
    }
}

/// The cell as a number, if it is written as JSON would write one.
fn number(text: &str) -> Option<serde_json::Number> {
    let first = text.as_bytes().first()?;
    (first.is_ascii_digit() || *first == b'-').then(|| serde_json::from_str(text).ok()).flatten()
}

fn widen(column: ColumnType, cell: &[u8]) -> ColumnType {
    if cell.is_empty() || column == ColumnType::Text {
        return column;
    }
    match std::str::from_utf8(cell).ok().and_then(number) {
        None => ColumnType::Text,
        Some(number) if number.is_f64() || column == ColumnType::Number => ColumnType::Number,
        Some(_) => ColumnType::Integer,
    }
}

fn read_error(path: &Path, error: csv::Error) -> StoreError {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => StoreError::io("read", path)(error),
        other => StoreError::bad_file(path, format!("{other:?}"), "comma- or tab-separated values"),
    }
}
