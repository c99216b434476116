//! From a data set to batches of tokens: read, format, filter, split, tokenise, pack, shuffle.

mod batch;
mod packing;
mod sample;
mod source;

pub use batch::{Batch, Cursor};
pub use packing::{one_a_row, pack};
pub use sample::Sample;
pub use source::{BatchSource, in_order};
