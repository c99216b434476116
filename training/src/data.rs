//! From a data set to batches of tokens: read, format, filter, split, tokenise, pack, shuffle.

mod batch;
mod cell;
mod conversation;
mod formatted;
mod kept;
mod message;
mod options;
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
pub use formatted::Formatted;
pub use kept::KeptSet;
pub use options::{DataOptions, Loss, Padding, SplitFractions, UnusableRows};
pub use packing::{lengths, one_a_row, pack};
pub use prepare::{Prepared, PreparedRow, RowCounts, RowPlace, prepare, split};
pub use problem::RowProblem;
pub use sample::Sample;
pub use samples::Samples;
pub use set::PreparedSet;
pub use source::{BatchSource, in_order};
pub use template::Template;
pub use tokenize::{TokenCounts, Tokenize, tokenize, tokenize_pairs};
pub use turns::Turns;

#[cfg(test)]
mod tests;
