//! Where in the text of an experiment something is wrong, and what was probably meant.

use std::path::Path;

use harness_store::nearest;
use toml::de::{DeTable, DeValue};

use crate::EvaluationError;

/// The error of the TOML reader, with the nearest known name where one is unknown.
pub fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> EvaluationError {
    let mut message = error.message().to_owned();
    if message.starts_with("unknown field") || message.starts_with("unknown variant") {
        let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        if let Some((found, known)) = names.split_first()
            && let Some(near) = nearest(found, known.iter().copied())
        {
            message = format!("{message}; did you mean `{near}`?");
        }
    }
    at(path, text, error.span().map_or(0, |span| span.start), &message)
}

/// Something wrong at the key of this path, or at the deepest table on the way to it.
pub(super) fn key(path: &Path, text: &str, keys: &[&str], message: &str) -> EvaluationError {
    at(path, text, find(text, keys).unwrap_or(0), message)
}

/// Something wrong at a byte offset of a text.
fn at(path: &Path, text: &str, offset: usize, message: &str) -> EvaluationError {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    EvaluationError::usage(format!("{}:{line}:{column}: {message}", path.display()))
}

fn find(text: &str, keys: &[&str]) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let mut table = root.get_ref();
    let mut offset = None;
    for key in keys {
        let Some((name, value)) = table.iter().find(|(name, _)| name.get_ref() == key) else { break };
        offset = Some(name.span().start);
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    offset
}
