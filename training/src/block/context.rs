//! What a block computes with besides its weights and its input.

use harness_decoder::DecoderConfig;

use super::dropout::DropoutPlan;
use crate::backend::Backend;

/// The rows of a micro-batch on the device.
#[derive(Debug)]
pub struct Rows<B: Backend> {
    /// Number of rows (tokens).
    pub len: usize,
    /// Place of every token in the rotary table: its position in its document, unless long documents have others.
    pub positions: B::Ints,
    /// The same for the second rotary table, where there is one.
    pub local_positions: Option<B::Ints>,
    /// Factor on the queries of every token, where they have one.
    pub query_factors: Option<B::Buf>,
    /// First rows of the documents, and the number of rows.
    pub bounds: B::Ints,
}

/// What all blocks share.
#[derive(Debug)]
pub struct Shared<B: Backend> {
    /// Cosines and sines by position.
    pub rope: B::Buf,
    /// Those of the second rotation.
    pub local_rope: Option<B::Buf>,
    /// ALiBi's slopes.
    pub slopes: Option<B::Buf>,
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
    /// Tables.
    pub shared: &'a Shared<B>,
    /// Values of the trained parameters.
    pub params: &'a B::Buf,
    /// Dropout of the low-rank additions, in training.
    pub dropout: Option<DropoutPlan>,
}
