//! What can go wrong in this crate.

use std::{fmt, path::PathBuf};

use thiserror::Error;

/// Result of this crate's functions.
pub type Result<T, E = JudgesError> = std::result::Result<T, E>;

/// Where something was found: a file and, where known, a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The file, or the name of something built in.
    pub file: String,
    /// Line number from 1.
    pub line: Option<usize>,
}

impl Location {
    /// A place in a file.
    pub fn new(file: impl Into<String>, line: Option<usize>) -> Self {
        Self { file: file.into(), line }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}, line {line}", self.file),
            None => f.write_str(&self.file),
        }
    }
}

/// Errors of protocols, rubrics, outputs files and results. Every message says where, what was found and what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JudgesError {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// What was tried, e.g. `read`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A protocol, rubric or prompt file is not well formed.
    #[error("{at}: {message}")]
    Syntax {
        /// Where.
        at: Location,
        /// What is wrong.
        message: String,
    },
    /// A template uses a placeholder that nothing fills.
    #[error("{at}: unknown placeholder {{{found}}} in template `{template}`: expected one of {expected}{}", did_you_mean(nearest.as_deref()))]
    UnknownPlaceholder {
        /// Where.
        at: Box<Location>,
        /// Name of the template.
        template: String,
        /// The placeholder.
        found: String,
        /// The placeholders there are.
        expected: String,
        /// The one most like it.
        nearest: Option<String>,
    },
    /// A template leaves out something a judge must see.
    #[error("{at}: template `{template}` does not use {missing}: a judge must see it")]
    MissingPlaceholder {
        /// Where.
        at: Location,
        /// Name of the template.
        template: String,
        /// What is missing.
        missing: String,
    },
    /// A setting has a value that is not allowed.
    #[error("{at}: `{key}` is {found}: expected {expected}")]
    Setting {
        /// Where.
        at: Location,
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// A name stands for nothing.
    #[error("unknown {what} `{found}`: expected one of {expected}, or the path of a file{}", did_you_mean(nearest.as_deref()))]
    Unknown {
        /// What was looked for, e.g. `protocol`.
        what: &'static str,
        /// The name.
        found: String,
        /// The names there are.
        expected: String,
        /// The one most like it.
        nearest: Option<String>,
    },
    /// A row of a data file is not what it should be.
    #[error("{at}: found {found}, expected {expected}")]
    Row {
        /// Where.
        at: Location,
        /// What is there.
        found: String,
        /// What should be there.
        expected: String,
    },
    /// Outputs do not cover the instructions one to one.
    #[error("{source_name}: {problems}")]
    Coverage {
        /// The file or model the outputs are from.
        source_name: String,
        /// The instructions missing, duplicated or extra.
        problems: Coverage,
    },
    /// A plan cannot be made.
    #[error("{what}")]
    Plan {
        /// Why, and what to do.
        what: String,
    },
    /// Numbers cannot be computed from what there is.
    #[error("{what}")]
    Statistics {
        /// Why, and what to do.
        what: String,
    },
}

/// Instructions without exactly one output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Instructions without an output.
    pub missing: Vec<String>,
    /// Instructions with several outputs.
    pub duplicate: Vec<String>,
    /// Instructions that were not asked.
    pub extra: Vec<String>,
}

impl Coverage {
    /// Whether every instruction has exactly one output.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.duplicate.is_empty() && self.extra.is_empty()
    }
}

/// How many instructions a message spells out.
const NAMED: usize = 3;
/// How many characters of an instruction a message shows.
const SHOWN: usize = 60;

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = vec![];
        let kinds = [("missing", &self.missing), ("more than once", &self.duplicate), ("not asked for", &self.extra)];
        for (what, names) in kinds {
            if names.is_empty() {
                continue;
            }
            let named: Vec<String> = names.iter().take(NAMED).map(|name| format!("\"{}\"", shorten(name))).collect();
            let more = if names.len() > NAMED { format!(" and {} more", names.len() - NAMED) } else { String::new() };
            let noun = if names.len() == 1 { "instruction" } else { "instructions" };
            parts.push(format!("{} {noun} {what}: {}{more}", names.len(), named.join(", ")));
        }
        let advice = "; give exactly one output for each instruction, or keep only those that both sides have";
        write!(f, "{}{advice}", parts.join("; "))
    }
}

/// The beginning of a text on one line.
pub(crate) fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= SHOWN {
        return line;
    }
    line.chars().take(SHOWN).chain(['…']).collect()
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
}

/// The candidate that differs in the fewest letters, if it is near at all.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    candidates
        .into_iter()
        .map(|candidate| (distance(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .min()
        .filter(|&(d, candidate)| d <= candidate.len().max(name.len()) / 2)
        .map(|(_, candidate)| candidate.to_owned())
}

/// Levenshtein distance in code points.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage_names_the_instructions() {
        let problems = Coverage {
            missing: vec!["a".into(), "b\nc".into(), "d".into(), "e".into()],
            duplicate: vec![],
            extra: vec!["x ".repeat(100)],
        };
        let text = problems.to_string();
        assert!(
            text.starts_with("4 instructions missing: \"a\", \"b c\", \"d\" and 1 more; 1 instruction not asked for:")
        );
        assert!(text.contains("…\""), "{text}");
    }

    #[test]
    fn the_nearest_name_is_found() {
        assert_eq!(nearest("anwser", ["answer", "question"]), Some("answer".into()));
        assert_eq!(nearest("zzz", ["answer", "question"]), None);
    }
}
