//! The errors of this crate.

use std::path::{Path, PathBuf};

use harness_core::{Digest, RequestKey};

/// Result of this crate's functions.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// What can go wrong with what is on disk. Every message names the file and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}{}", path.display(), advice(source))]
    Io {
        /// What was tried, e.g. `read`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A row of a data file is not what it should be.
    #[error("{}, {place}: found {found}, expected {expected}", path.display())]
    BadRow {
        /// The file.
        path: PathBuf,
        /// Where: `line 7` (JSON Lines, JSON), `row 7` (CSV, Parquet; the header is not counted).
        place: String,
        /// What is there.
        found: String,
        /// What should be there.
        expected: String,
    },
    /// A file as a whole is not what it should be.
    #[error("{}: found {found}, expected {expected}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What should be there.
        expected: String,
    },
    /// A data set, or one of its splits, is nowhere.
    #[error("{0}")]
    DataNotFound(Box<DataNotFound>),
    /// A row filter names a column that the data does not have.
    #[error("{}: no column {column:?} to select rows by; the columns are {}", path.display(), list(columns))]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The column asked for.
        column: String,
        /// The columns of the first row.
        columns: Vec<String>,
    },
    /// A row filter leaves nothing.
    #[error(
        "{}: no row has {value:?} in column {column:?}{}; the values are {}",
        path.display(),
        did_you_mean(value, values),
        list(values)
    )]
    NoRows {
        /// The first file.
        path: PathBuf,
        /// The column of the filter.
        column: String,
        /// The value asked for.
        value: String,
        /// The first few values that the column has.
        values: Vec<String>,
    },
    /// A path is no model.
    #[error("{}: not a model: {reason}; found {}", path.display(), list(found))]
    NotAModel {
        /// The path.
        path: PathBuf,
        /// What is missing, and what to do.
        reason: String,
        /// Names of the files that are there.
        found: Vec<String>,
    },
    /// A model's name leads nowhere.
    #[error("no model {name:?}; looked in: {}{}", list_paths(tried), and_then_say(suggestion))]
    ModelNotFound {
        /// What was asked for.
        name: String,
        /// Every place looked in.
        tried: Vec<PathBuf>,
        /// The nearest name that exists, or what to do.
        suggestion: Option<String>,
    },
    /// A response holds a number that cannot be kept.
    #[error(
        "the response of model {} to request {} holds a log-probability that is not finite: the model's output is \
         broken (NaN weights, overflow in its dtype) and is not stored",
        model.short(), key.0.short()
    )]
    NotFinite {
        /// The model.
        model: Digest,
        /// The request.
        key: RequestKey,
    },
    /// A manifest or golden file was changed by hand or damaged.
    #[error("{}: its content has hash {found}, it says {expected}: the file was changed after it was written", path.display())]
    HashMismatch {
        /// The file.
        path: PathBuf,
        /// Hash of what is there.
        found: Digest,
        /// Hash that the file states.
        expected: Digest,
    },
    /// The hub was asked for and this program cannot reach it by construction.
    #[error("{what} is not available locally, and this program was built without feature `hub`: build with `--features \
             hub`, or put the files in {}", place.display())]
    NoHub {
        /// What should be downloaded.
        what: String,
        /// Where the files would go.
        place: PathBuf,
    },
    /// A download failed.
    #[error("{url}: {reason}")]
    Hub {
        /// What was fetched.
        url: String,
        /// Why it failed, and what to do.
        reason: String,
    },
}

/// Where a data set was looked for and what is there instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataNotFound {
    /// Names of the data set, in the order tried.
    pub names: Vec<String>,
    /// Configuration asked for.
    pub config: Option<String>,
    /// Split asked for.
    pub split: String,
    /// Every folder or file looked at; whether it exists.
    pub tried: Vec<(PathBuf, bool)>,
    /// Splits (with their configuration, `config/split`) that were found.
    pub splits: Vec<String>,
    /// What to do.
    pub advice: String,
}

impl std::fmt::Display for DataNotFound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no split {:?}", self.split)?;
        if let Some(config) = &self.config {
            write!(f, " of configuration {config:?}")?;
        }
        write!(f, " of data set {}", self.names.first().map_or("(no name)", String::as_str))?;
        for other in self.names.iter().skip(1) {
            write!(f, " or {other}")?;
        }
        if !self.splits.is_empty() {
            write!(f, "; there is {}{}", list(&self.splits), did_you_mean(&self.split, &self.splits))?;
        }
        write!(f, "; looked in: ")?;
        for (i, (path, exists)) in self.tried.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{}{}", path.display(), if *exists { "" } else { " (does not exist)" })?;
        }
        if self.tried.is_empty() {
            write!(f, "no place, because no data folder was given")?;
        }
        write!(f, "; {}", self.advice)
    }
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn bad_file(path: &Path, found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::BadFile { path: path.to_owned(), found: found.into(), expected: expected.into() }
    }

    pub(crate) fn bad_row(
        path: &Path,
        place: impl Into<String>,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self::BadRow { path: path.to_owned(), place: place.into(), found: found.into(), expected: expected.into() }
    }

    /// Whether the fault lies in what the caller named (a path, a name, a file's content), not in the machine.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                use std::io::ErrorKind::*;
                match source.kind() {
                    NotFound | IsADirectory => true,
                    // No file that is read, or with content that cannot be unpacked; the system has others of this kind.
                    InvalidInput | InvalidData | UnexpectedEof | FileTooLarge => source.raw_os_error().is_none(),
                    _ => false,
                }
            }
            Self::NotFinite { .. } | Self::Hub { .. } => false,
            _ => true,
        }
    }
}

/// What to do about an error of the operating system.
fn advice(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::*;
    match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => {
            "; free some space, or choose another place with HARNESS_HOME or the output option: what was stored before \
             is intact, and the next run continues from there"
        }
        PermissionDenied | ReadOnlyFilesystem => {
            "; make it accessible, or choose another place with HARNESS_HOME or the output option"
        }
        NotADirectory | AlreadyExists => "; a file is where a folder is needed: move it away or choose another place",
        NotFound => "; check the spelling",
        _ => "",
    }
}

fn list(items: &[String]) -> String {
    const SHOWN: usize = 20;
    match items.len() {
        0 => "nothing".to_owned(),
        n if n > SHOWN => format!("{} and {} more", items[..SHOWN].join(", "), n - SHOWN),
        _ => items.join(", "),
    }
}

fn list_paths(paths: &[PathBuf]) -> String {
    list(&paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>())
}

fn did_you_mean(wanted: &str, known: &[String]) -> String {
    crate::nearest(wanted, known.iter().map(String::as_str))
        .map(|name| format!(" (did you mean {name:?}?)"))
        .unwrap_or_default()
}

fn and_then_say(text: &Option<String>) -> String {
    text.as_ref().map(|text| format!("; {text}")).unwrap_or_default()
}
