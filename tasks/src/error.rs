//! What can go wrong between a task's file and its scores.

use std::{fmt, path::PathBuf, sync::Arc};

use harness_core::ModelError;

/// A place in a definition file; lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Path of the file, or the name under which it is built in.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// A definition file says something that cannot be used.
    #[error("{at}: {message}")]
    Definition {
        /// Where.
        at: Place,
        /// What was found, what was expected, and what to do.
        message: String,
    },
    /// A template of a definition is not valid Jinja.
    #[error("{at}: template error: {message}")]
    Template {
        /// Where.
        at: Place,
        /// What the compiler said.
        message: String,
    },
    /// A definition needs Python code, which is not run here.
    #[error(
        "{at}: {key} needs the Python function {function}, which this program does not run; replace it by a Jinja \
         template or a filter"
    )]
    NeedsPython {
        /// Where.
        at: Place,
        /// The key.
        key: String,
        /// Name of the function or class.
        function: String,
    },
    /// A name that is no task, group or tag.
    #[error("no task, group or tag is named {name:?}{}{}", suggest(nearest), unusable_files(unusable))]
    UnknownTask {
        /// What was asked for.
        name: String,
        /// The nearest names there are.
        nearest: Vec<String>,
        /// Why files that may define it cannot be used.
        unusable: Vec<String>,
    },
    /// Two files define the same name.
    #[error("{second}: the name {name:?} is already defined at {first}; rename one of them")]
    DuplicateName {
        /// The name.
        name: String,
        /// The first definition.
        first: Place,
        /// The second one.
        second: Place,
    },
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of lm-eval cannot be read or written.
    #[error("{}: {message}", path.display())]
    LmEvalFile {
        /// The file or folder.
        path: PathBuf,
        /// What was found and what was expected.
        message: String,
    },
    /// A data set cannot be found or read.
    #[error("task {task}: {message}")]
    Data {
        /// The task.
        task: String,
        /// What is missing and how to get it.
        message: String,
    },
    /// A task has nothing to evaluate.
    #[error("task {task}: the split {split:?} has no documents")]
    NoDocuments {
        /// The task.
        task: String,
        /// The split.
        split: String,
    },
    /// A document does not fit the task's templates.
    #[error("task {task}, {split} document {index}: {key}: {message}")]
    Document {
        /// The task.
        task: String,
        /// The split of the document.
        split: String,
        /// Position of the document in its split, from 0.
        index: usize,
        /// The key of the definition that failed.
        key: String,
        /// Why.
        message: String,
    },
    /// The options of a run do not fit the task.
    #[error("task {task}: {message}")]
    Options {
        /// The task.
        task: String,
        /// What was asked, and what is possible.
        message: String,
    },
    /// Responses that do not belong to the requests.
    #[error("task {task}, document {index}: {message}")]
    Responses {
        /// The task.
        task: String,
        /// Position of the document.
        index: usize,
        /// What was expected and what was found.
        message: String,
    },
    /// The chat template failed.
    #[error("task {task}: {source}")]
    Chat {
        /// The task.
        task: String,
        /// The model's complaint.
        source: ModelError,
    },
}

/// What is said of columns that the data lack.
pub(crate) fn no_column<'a>(missing: &[&str], columns: impl IntoIterator<Item = &'a str>) -> String {
    let columns: Vec<&str> = columns.into_iter().collect();
    let nearest = missing.first().map(|first| harness_core::nearest_few(first, columns.iter().copied()));
    let (missing, suggestion) = (missing.join(", "), suggest(&nearest.unwrap_or_default()));
    format!("the data has no column {missing}; its columns are {}{suggestion}", columns.join(", "))
}

/// The first files that cannot be used, and how many more there are.
fn unusable_files(reasons: &[String]) -> String {
    const SHOWN: usize = 3;
    let more = reasons.len().saturating_sub(SHOWN);
    let shown = reasons.iter().take(SHOWN).map(|reason| format!("\n  {reason}")).collect::<String>();
    match (reasons.len(), more) {
        (0, _) => String::new(),
        (_, 0) => format!("; these definition files cannot be used:{shown}"),
        _ => format!("; these definition files cannot be used:{shown}\n  and {more} more"),
    }
}

/// `; did you mean …?` for the nearest names, or nothing.
pub(crate) fn suggest(nearest: &[String]) -> String {
    match nearest {
        [] => String::new(),
        [one] => format!("; did you mean {one}?"),
        [most @ .., last] => format!("; did you mean {} or {last}?", most.join(", ")),
    }
}
