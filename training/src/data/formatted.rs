//! A row as text, and what is remarked about it.

use std::ops::Range;

use super::RowProblem;

/// Remarks about conversations, and about pairs.
pub(super) const TRAILING: &str = "turns after the assistant's last one are left out";
pub(super) const EMPTY: &str = "a turn of the assistant is empty";
pub(super) const SAME: &str = "both answers are the same";

/// A row as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Formatted {
    /// What the model is given.
    pub prompt: String,
    /// What it is to answer.
    pub completion: String,
    /// Bytes of the completion that the loss does not count: what others than the assistant say.
    pub masked: Vec<Range<usize>>,
    /// What it is to answer less readily.
    pub rejected: Option<String>,
    /// Whether a chat template has written the text, with all special tokens that belong to it.
    pub rendered: bool,
    /// What of the row is not in the text, or looks like a mistake.
    pub remarks: Vec<String>,
}

impl Formatted {
    /// The text of a conversation of which the loss counts these bytes, in order; what follows them is cut off.
    pub(super) fn of_spans(
        column: &str,
        mut text: String,
        counted: &[Range<usize>],
        remarks: Vec<String>,
    ) -> Result<Self, RowProblem> {
        let (Some(first), Some(last)) = (counted.first(), counted.last()) else {
            return Err(format!("column {column:?}: the assistant says nothing that the loss counts").into());
        };
        let (start, end) = (first.start, last.end);
        let masked = counted.windows(2).map(|pair| pair[0].end - start..pair[1].start - start).collect();
        let completion = text[start..end].to_owned();
        text.truncate(start);
        Ok(Self { prompt: text, completion, masked, remarks, ..Self::default() })
    }

    /// The same, written by a chat template.
    pub(super) fn rendered(self) -> Self {
        Self { rendered: true, ..self }
    }
}
