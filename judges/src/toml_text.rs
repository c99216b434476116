//! Where in a TOML file something is wrong.

use crate::{JudgesError, Location};

/// The line, from 1, of a position in a text.
pub(crate) fn line_of(text: &str, position: usize) -> usize {
    text.as_bytes()[..position.min(text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
}

/// An error of the TOML reader, with its line.
pub(crate) fn toml_error(file: &str, text: &str, error: &toml::de::Error) -> JudgesError {
    let line = error.span().map(|span| line_of(text, span.start));
    JudgesError::Syntax { at: Location::new(file, line), message: error.message().to_owned() }
}
