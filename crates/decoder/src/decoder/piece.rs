//! Runs of tokens that are computed together.

use std::ops::Range;

use super::KvBlock;

/// A run of tokens of one sequence, computed together with other pieces.
#[derive(Debug)]
pub struct Piece<'a> {
    /// The tokens.
    pub tokens: &'a [u32],
    /// Keys and values of everything before, in order.
    pub path: Vec<&'a KvBlock>,
    /// Comes after `path`; the new positions are appended to it. `None` if nobody will need them.
    pub tail: Option<KvBlock>,
    /// Rows whose last hidden state is wanted, ascending.
    pub wanted: Vec<usize>,
    /// Tokens of the whole input that these are of, which some rotary embeddings depend on.
    pub length: usize,
}

impl Piece<'_> {
    pub(crate) fn position(&self) -> usize {
        self.path.iter().map(|block| block.len()).sum::<usize>() + self.tail.as_ref().map_or(0, KvBlock::len)
    }
}

/// Ascending numbers as runs of consecutive ones.
pub(crate) fn consecutive(rows: &[usize]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = vec![];
    for &row in rows {
        match runs.last_mut() {
            Some(run) if run.end == row => run.end += 1,
            _ => runs.push(row..row + 1),
        }
    }
    runs
}
