//! Where in the text of a recipe or a template something is wrong, and what was probably meant.

use std::path::Path;

use harness_core::nearest;
use toml::de::{DeTable, DeValue};

use crate::TrainingError;

/// The error of the TOML reader, with the nearest known key where a key is unknown.
pub(crate) fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> TrainingError {
    let mut message = in_words(error.message());
    if message.starts_with("unknown field") || message.starts_with("unknown variant") {
        let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        if let Some((found, known)) = names.split_first()
            && let Some(nearest) = nearest(found, known.iter().copied())
        {
            message = format!("{message}; did you mean `{nearest}`?");
        }
    }
    at(path, text, error.span().map_or(0, |span| span.start), message)
}

/// The reader's message with the names of types as a user knows them.
fn in_words(message: &str) -> String {
    let Some((found, expected)) = message.split_once(", expected ") else { return message.to_owned() };
    let expected = match expected {
        "f64" => "a number",
        "u64" | "usize" => "a whole number",
        structure if structure.starts_with("struct ") => "a table",
        other => other,
    };
    format!("{found}, expected {expected}")
}

/// What is wrong with a value; it is looked up by its dotted key, or the table that should have it.
pub(crate) fn setting(path: &Path, text: &str, key: &str, message: &str) -> TrainingError {
    at(path, text, find(text, key).unwrap_or(0), format!("{key}: {message}"))
}

/// An error at a byte offset of a text.
pub(crate) fn at(path: &Path, text: &str, offset: usize, message: String) -> TrainingError {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    TrainingError::File { path: path.to_owned(), line, column, message }
}

/// Byte offset of the key at a dotted path, or of the deepest table on the way to it.
fn find(text: &str, key: &str) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let mut table = root.get_ref();
    let mut offset = None;
    for part in key.split('.') {
        let Some((name, value)) = table.iter().find(|(name, _)| name.get_ref() == part) else { break };
        offset = Some(name.span().start);
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    offset
}

/// Byte offset of a line (from 1) of the text that the value of a top-level key holds.
pub(crate) fn content(text: &str, key: &str, line: usize) -> usize {
    let Some(start) = DeTable::parse(text)
        .ok()
        .and_then(|root| root.get_ref().iter().find(|(name, _)| name.get_ref() == key).map(|(_, v)| v.span().start))
    else {
        return 0;
    };
    // A newline right after the opening quotes of a multi-line string does not belong to its content.
    let begin =
        ["\"\"\"\n", "'''\n"].iter().find(|q| text[start..].starts_with(**q)).map_or(start, |q| start + q.len());
    text[begin..].split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum::<usize>() + begin
}
