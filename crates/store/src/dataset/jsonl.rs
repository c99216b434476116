//! JSON Lines.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    Row,
    format::{Compression, not_utf8, open},
    kind,
    read_row::ReadRow,
};
use crate::{Result, StoreError};

const EXPECTED: &str = "one JSON object per line";
/// Bytes of the longest line.
const LONGEST: u64 = 256 << 20;

/// Rows of a JSON Lines file; empty lines are passed over.
pub(super) struct JsonlRows {
    path: PathBuf,
    reader: BufReader<Box<dyn Read + Send>>,
    buffer: Vec<u8>,
    line: usize,
}

impl JsonlRows {
    pub(super) fn open(path: &Path, compression: Compression) -> Result<Self> {
        let reader = BufReader::with_capacity(1 << 16, open(path, compression)?);
        Ok(Self { path: path.to_owned(), reader, buffer: Vec::new(), line: 0 })
    }
}

impl ReadRow for JsonlRows {
    fn read(&mut self) -> Result<Option<Row>> {
        loop {
            self.buffer.clear();
            self.line += 1;
            let read = self.reader.by_ref().take(LONGEST + 1).read_until(b'\n', &mut self.buffer);
            let read = read.map_err(StoreError::io("read", &self.path))? as u64;
            if read == 0 {
                return Ok(None);
            }
            if read > LONGEST {
                let found = format!("a line of more than {} MiB", LONGEST >> 20);
                return Err(StoreError::bad_row(&self.path, self.place(), found, EXPECTED));
            }
            if self.buffer.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            return parse_line(&self.path, self.line, &self.buffer).map(Some);
        }
    }

    fn place(&self) -> String {
        format!("line {}", self.line)
    }
}

/// One line as a row.
fn parse_line(path: &Path, line: usize, bytes: &[u8]) -> Result<Row> {
    let place = || format!("line {line}");
    let text = std::str::from_utf8(bytes)
        .map_err(|error| StoreError::bad_row(path, place(), not_utf8(bytes, error.valid_up_to()), "text in UTF-8"))?;
    match serde_json::from_str(text) {
        Ok(Value::Object(row)) => Ok(row),
        Ok(other) => Err(StoreError::bad_row(path, place(), kind(&other), EXPECTED)),
        Err(error) => {
            let found = format!("bad JSON at column {} ({})", error.column(), without_position(&error));
            Err(StoreError::bad_row(path, place(), found, EXPECTED))
        }
    }
}

/// The message of a JSON error without its line and column, which are stated apart.
pub(super) fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
