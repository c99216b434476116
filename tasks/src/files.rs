//! Definition files as trees, each read and parsed once.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use harness_core::{limit_name, limits};

use crate::{
    Place, TaskError, builtin,
    config::overlay,
    keys::text,
    yaml::{self, Entry, Node, Yaml},
};

/// A parsed file, or why it could not be parsed.
type Parsed = Result<Arc<Node>, (Place, String)>;

/// Parsed files by path.
#[derive(Debug, Default)]
pub(crate) struct Files {
    parsed: Mutex<BTreeMap<PathBuf, Parsed>>,
    notes: Mutex<Vec<String>>,
    /// Files with what they include.
    resolved: Mutex<BTreeMap<PathBuf, Arc<Node>>>,
}

impl Files {
    /// Parses a text as the content of a path, in place of what the path holds.
    pub(crate) fn insert(&self, path: &Path, text: &str) {
        let parsed = self.parse(path, text);
        self.resolved.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.parsed.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), parsed);
    }

    /// What is allowed in the files that were read but probably a mistake.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        notes.sort();
        notes
    }

    fn parse(&self, path: &Path, text: &str) -> Parsed {
        match yaml::parse_with_notes(&path.display().to_string(), text) {
            Ok((node, notes)) => {
                if !notes.is_empty() {
                    self.notes.lock().unwrap_or_else(PoisonError::into_inner).extend(notes);
                }
                Ok(Arc::new(node))
            }
            Err(TaskError::Definition { at, message }) => Err((at, message)),
            Err(other) => Err((start(path), other.to_string())),
        }
    }

    /// The tree of a file; `from` is where it is asked for, if it cannot be read.
    pub(crate) fn tree(&self, path: &Path, from: &Place) -> Result<Arc<Node>, TaskError> {
        let known = self.parsed.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
        let parsed = match known {
            Some(parsed) => parsed,
            None => {
                let parsed = match builtin::text(path) {
                    Some(text) => self.parse(path, text),
                    None => match harness_core::read_file(path) {
                        Ok(bytes) => match utf8(path, bytes) {
                            Ok(text) => self.parse(path, &text),
                            Err(error) => Err(error),
                        },
                        Err(error) => {
                            let message = format!("cannot include {}: {error}", path.display());
                            return Err(TaskError::Definition { at: from.clone(), message });
                        }
                    },
                };
                let mut files = self.parsed.lock().unwrap_or_else(PoisonError::into_inner);
                files.entry(path.to_owned()).or_insert(parsed).clone()
            }
        };
        parsed.map_err(|(at, message)| TaskError::Definition { at, message })
    }

    /// The mapping of a file with everything it includes; local keys win, then those of later includes (as in lm-eval
    /// since 0.4.10). A `task_list` is not inherited.
    pub(crate) fn resolve(&self, path: &Path) -> Result<Node, TaskError> {
        self.resolve_from(path, &start(path), &mut Vec::new()).map(|node| (*node).clone())
    }

    /// As [`Self::resolve`], each file once.
    fn resolve_from(&self, path: &Path, from: &Place, stack: &mut Vec<PathBuf>) -> Result<Arc<Node>, TaskError> {
        if let Some(known) = self.resolved.lock().unwrap_or_else(PoisonError::into_inner).get(path) {
            return Ok(Arc::clone(known));
        }
        let node = self.merge_includes(path, from, stack)?;
        self.resolved.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), Arc::clone(&node));
        Ok(node)
    }

    fn merge_includes(&self, path: &Path, from: &Place, stack: &mut Vec<PathBuf>) -> Result<Arc<Node>, TaskError> {
        if stack.iter().any(|other| other == path) {
            let chain: Vec<String> = stack.iter().map(|path| path.display().to_string()).collect();
            let message = format!("the includes form a cycle: {} -> {}", chain.join(" -> "), path.display());
            return Err(TaskError::Definition { at: from.clone(), message });
        }
        let deepest = limits().depth;
        if stack.len() >= deepest {
            let message = format!("includes are nested more than {deepest} deep {}", limit_name("depth"));
            return Err(TaskError::Definition { at: from.clone(), message });
        }
        let node = self.tree(path, from)?;
        let Yaml::Map(local) = &node.value else { return Ok(node) };
        let Some(include) = node.get("include") else { return Ok(node) };
        stack.push(path.to_owned());
        let names: Vec<&Node> = match &include.value {
            Yaml::List(items) => items.iter().collect(),
            _ => vec![include],
        };
        let mut merged: Vec<Entry> = Vec::new();
        for name in names {
            let target = builtin::normal(&path.parent().unwrap_or(Path::new("")).join(text("include", name)?));
            let base = self.resolve_from(&target, &name.at, stack)?;
            let Yaml::Map(entries) = &base.value else {
                return name.error(format!("{} holds {}, not a mapping", target.display(), base.kind()));
            };
            let mut entries = entries.clone();
            entries.retain(|entry| entry.key != "task_list");
            overlay(&mut merged, &entries);
        }
        stack.pop();
        overlay(&mut merged, local);
        merged.retain(|entry| entry.key != "include");
        let (at, tag) = (node.at.clone(), node.tag.clone());
        Ok(Arc::new(Node { value: Yaml::Map(merged), at, tag, raw: None }))
    }
}

/// The beginning of a file.
pub(crate) fn start(path: &Path) -> Place {
    Place { file: path.display().to_string().as_str().into(), line: 1, column: 1 }
}

/// Bytes as text; the error names the place of the first byte that is not UTF-8.
pub(crate) fn utf8(path: &Path, bytes: Vec<u8>) -> Result<String, (Place, String)> {
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let before = String::from_utf8_lossy(&bytes[..valid]);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let at = Place { line, column, ..start(path) };
        (at, format!("the byte 0x{:02X} is not UTF-8; save the file as UTF-8", bytes.get(valid).copied().unwrap_or(0)))
    })
}

/// All `.yaml` and `.yml` files of a folder and the folders in it, in byte order of their paths; Python's and Jupyter's
/// caches are left out, and a folder that is reached twice through links is read once.
///
/// # Errors
/// If a folder cannot be read.
pub(crate) fn definition_files(folder: &Path) -> Result<Vec<PathBuf>, TaskError> {
    let mut found = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let failed = |source| TaskError::Read { path: folder.clone(), source };
        if !seen.insert(folder.canonicalize().map_err(failed)?) {
            continue;
        }
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                if name != "__pycache__" && name != ".ipynb_checkpoints" {
                    open.push(path);
                }
            } else if path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml") {
                found.push(path);
            }
        }
    }
    found.sort_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
    Ok(found)
}
