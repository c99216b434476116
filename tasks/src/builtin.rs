//! The definitions that are part of the program, and their rows.

use std::path::{Component, Path, PathBuf};

use harness_store::Row;

include!(concat!(env!("OUT_DIR"), "/definitions.rs"));

/// Folder under which built-in files appear in messages.
pub(crate) const PREFIX: &str = "built-in:";

/// The text of a built-in file, by its path with the prefix.
pub(crate) fn text(path: &Path) -> Option<&'static str> {
    let path = normal(path);
    let name = path.to_str()?.strip_prefix(PREFIX)?.trim_start_matches('/').to_owned();
    FILES.iter().find(|(file, _)| *file == name).map(|(_, text)| *text)
}

/// Rows of built-in JSON Lines files; `None` where the files are no built-in ones.
pub(crate) fn rows(files: &[PathBuf]) -> Option<Result<Vec<Row>, String>> {
    if !files.first()?.to_str()?.starts_with(PREFIX) {
        return None;
    }
    let read = |path: &PathBuf| -> Result<Vec<Row>, String> {
        let text = text(path).ok_or_else(|| format!("there is no file {}", path.display()))?;
        text.lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(i, line)| serde_json::from_str(line).map_err(|e| format!("{}:{}: {e}", path.display(), i + 1)))
            .collect()
    };
    let rows: Result<Vec<Vec<Row>>, String> = files.iter().map(read).collect();
    Some(rows.map(|rows| rows.concat()))
}

/// The path without `.` and `..`.
pub(crate) fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if out.file_name().is_some() => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}
