//! What a block computes with besides its weights and its input.

use harness_decoder::DecoderConfig;

use super::dropout::DropoutPlan;
use crate::backend::Backend;

/// The rows of a micro-batch on the device.
#[derive(Debug)]
pub struct Rows<B: Backend> {
    /// Number of rows (tokens).
    pub len: usize,
    /// Position of every token in its document.
    pub positions: B::Ints,
    /// First rows of the documents, and the number of rows.
    pub bounds: B::Ints,
}

/// What a block computes with besides its input.
pub struct BlockContext<'a, B: Backend> {
    /// The device.
    pub backend: &'a B,
    /// The decoder.
    pub config: &'a DecoderConfig,
    /// Number of the block.
    pub layer: usize,
    /// The micro-batch.
    pub rows: &'a Rows<B>,
    /// Cosines and sines by position.
    pub rope: &'a B::Buf,
    /// Values of the trained parameters.
    pub params: &'a B::Buf,
    /// Dropout of the low-rank additions, in training.
    pub dropout: Option<DropoutPlan>,
}
