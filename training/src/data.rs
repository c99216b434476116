//! From a data set to batches of tokens: read, format, filter, split, tokenise, pack, shuffle.

mod batch;
mod kept;
mod packing;
mod prepare;
mod sample;
mod samples;
mod set;
mod source;
mod template;
mod tokenize;
mod turns;

pub use batch::{Batch, Cursor};
pub use kept::KeptSet;
pub use packing::{lengths, one_a_row, pack};
pub use prepare::{Prepared, PreparedRow, RowCounts, prepare, split};
pub use sample::Sample;
pub use samples::Samples;
pub use set::PreparedSet;
pub use source::{BatchSource, in_order};
pub use template::{Formatted, Template};
pub use tokenize::{TokenCounts, Tokenize, tokenize, tokenize_pairs};
pub use turns::Turns;

#[cfg(test)]
mod tests;
