//! Why a row cannot be a sample.

use std::fmt;

use harness_core::LIMIT_MARK;

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowProblem {
    /// Where in the row, ending in `": "`; empty for the row as a whole.
    pub place: String,
    /// What was found, without anything that only this row has: rows are counted by it.
    pub reason: String,
}

impl RowProblem {
    /// Whether a template passed a limit, which no other row makes better.
    pub fn passes_limit(&self) -> bool {
        self.reason.contains(LIMIT_MARK)
    }

    /// A problem at a place.
    pub fn at(place: &str, reason: impl Into<String>) -> Self {
        Self { place: format!("{place}: "), reason: reason.into() }
    }
}

impl From<String> for RowProblem {
    fn from(reason: String) -> Self {
        Self { place: String::new(), reason }
    }
}

impl fmt::Display for RowProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.place, self.reason)
    }
}
