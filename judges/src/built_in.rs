//! Files that come with the program, by name, and the user's own, by path.

use std::path::Path;

use crate::{JudgesError, Result, error::nearest};

/// Name and text of the files that come with the program.
pub(crate) type BuiltIn = [(&'static str, &'static str)];

/// What a name stands for: a file that comes with the program, or, if the name is a path (ends in `.toml` or has a slash),
/// a file of the user. `parse` is given the text and what errors call the file.
///
/// # Errors
/// If there is none of this name, or the file cannot be read or is wrong. `what` is what was looked for.
pub(crate) fn load<T>(
    what: &'static str,
    built_in: &BuiltIn,
    name: &str,
    parse: impl FnOnce(&str, &Path) -> Result<T>,
) -> Result<T> {
    if let Some((_, text)) = built_in.iter().find(|(known, _)| *known == name) {
        return parse(text, Path::new(&format!("{what} {name}")));
    }
    if name.ends_with(".toml") || name.contains('/') {
        let path = Path::new(name);
        let read = harness_core::read_text(path);
        let text = read.map_err(|source| JudgesError::Io { action: "read", path: path.to_owned(), source })?;
        return parse(&text, path);
    }
    let names = || built_in.iter().map(|(known, _)| *known);
    Err(JudgesError::Unknown {
        what,
        found: name.to_owned(),
        expected: names().collect::<Vec<_>>().join(", "),
        nearest: nearest(name, names()),
    })
}
