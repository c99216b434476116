//! JSON Lines.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use harness_core::{limit_name, limits};
use serde_json::Value;

use super::{
    Row,
    format::{Compression, not_utf8, open},
    kind,
    read_row::ReadRow,
};
use crate::{Result, StoreError};

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
            let read = self.reader.read_until(b'\n', &mut self.buffer);
            if read.map_err(StoreError::io("read", &self.path))? == 0 {
                return Ok(None);
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
    const EXPECTED: &str = "one JSON object per line";
    let place = || format!("line {line}");
    let text = std::str::from_utf8(bytes)
        .map_err(|error| StoreError::bad_row(path, place(), not_utf8(bytes, error.valid_up_to()), "text in UTF-8"))?;
    let most = limits().line_values;
    // No line has more values than bytes.
    if bytes.len() > most && values(bytes) > most {
        let found = format!("more than {most} values {}", limit_name("line_values"));
        return Err(StoreError::bad_row(path, place(), found, EXPECTED));
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(row)) => Ok(row),
        Ok(other) => Err(StoreError::bad_row(path, place(), kind(&other), EXPECTED)),
        Err(error) => {
            let found = format!("bad JSON at column {} ({})", error.column(), without_position(&error));
            Err(StoreError::bad_row(path, place(), found, EXPECTED))
        }
    }
}

/// About how many values a line of JSON has: its commas and opening brackets outside of strings.
fn values(line: &[u8]) -> usize {
    let (mut count, mut string, mut escaped) = (0, false, false);
    for &byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = string,
            b'"' => string = !string,
            b',' | b'[' | b'{' if !string => count += 1,
            _ => {}
        }
    }
    count
}

/// The message of a JSON error without its line and column, which are stated apart.
pub(super) fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_very_many_values_is_refused() {
        let parse = |line: &str| parse_line(Path::new("rows.jsonl"), 7, line.as_bytes());
        let many = |n: usize| format!("{{\"a\": [{}0]}}", "0,".repeat(n));
        assert!(parse(&many(600_000)).is_ok());
        let error = parse(&many(1_000_000)).unwrap_err().to_string();
        assert!(error.contains("line 7") && error.contains("(limits.line_values in harness.toml)"), "{error}");
        // A text has as many commas as it likes.
        assert!(parse(&format!("{{\"a\": \"{}\"}}", ",\\\"[".repeat(500_000))).is_ok());
    }
}
