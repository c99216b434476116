//! From a data set to batches of tokens: read, format, filter, split, tokenise, pack, shuffle.

mod batch;
mod cell;
mod conversation;
mod kept;
mod message;
mod packing;
mod prepare;
mod problem;
mod sample;
mod samples;
mod set;
mod source;
mod template;
mod tokenize;
mod turns;

pub use batch::{Batch, Cursor};
pub use conversation::{Chat, Conversation};
pub use kept::KeptSet;
pub use packing::{lengths, one_a_row, pack};
pub use prepare::{Prepared, PreparedRow, RowCounts, RowPlace, prepare, split};
pub use problem::RowProblem;
pub use sample::Sample;
pub use samples::Samples;
pub use set::PreparedSet;
pub use source::{BatchSource, in_order};
pub use template::{Formatted, Template};
pub use tokenize::{TokenCounts, Tokenize, tokenize, tokenize_pairs};
pub use turns::Turns;

/// Remarks about conversations, and about pairs.
const TRAILING: &str = "turns after the assistant's last one are left out";
const EMPTY: &str = "a turn of the assistant is empty";
const SAME: &str = "both answers are the same";

#[cfg(test)]
mod tests;
