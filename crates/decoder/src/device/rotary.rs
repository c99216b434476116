//! Rotary tables on a GPU.

use harness_kernels::{
    KernelError,
    cuda::{Device, DeviceBuffer, Rotation, View},
};

use super::linear::Done;
use crate::{DecoderConfig, Piece, Positions, Rope, rotary_table};

/// The table of one rotation, for all positions that inputs may have.
#[derive(Debug)]
pub(super) struct DeviceRotary {
    table: DeviceBuffer,
    dims: usize,
    pairs: bool,
    /// Inputs longer than so many tokens have their positions behind those of the others.
    longest_short: usize,
    max_length: usize,
}

impl DeviceRotary {
    /// Uploads the table of a rotation for inputs of at most `max_length` tokens.
    pub(super) fn new(
        device: &Device,
        config: &DecoderConfig,
        rope: &Rope,
        max_length: usize,
    ) -> Result<Self, KernelError> {
        let (table, longest) = rotary_table(config, rope, max_length);
        let longest_short = longest.unwrap_or(usize::MAX);
        let pairs = config.block.positions == Positions::Pairs;
        Ok(Self { table: device.floats(&table)?, dims: config.rotary_dims(), pairs, longest_short, max_length })
    }

    /// Where in the table the rows of pieces stand; the pieces' first positions are given.
    pub(super) fn places(
        &self,
        device: &Device,
        pieces: &[Piece<'_>],
        firsts: &[usize],
    ) -> Result<DeviceBuffer, KernelError> {
        let places = pieces.iter().zip(firsts).flat_map(|(piece, &first)| {
            let from = first + if piece.length > self.longest_short { self.max_length } else { 0 };
            (from..from + piece.tokens.len()).map(|place| place as u32)
        });
        device.bytes(&places.collect::<Vec<u32>>())
    }

    /// Whether the positions of an input do not depend on its length.
    pub(super) fn is_plain(&self) -> bool {
        self.longest_short == usize::MAX
    }

    /// The rotation, for kernels.
    pub(super) fn rotation(&self) -> Rotation<'_> {
        Rotation { table: &self.table, dims: self.dims, pairs: self.pairs }
    }

    /// Rotates all heads of rows at these places.
    pub(super) fn rotate(&self, device: &Device, x: View<'_>, heads: usize, places: &DeviceBuffer) -> Done {
        device.rotate(x, heads, self.dims, self.pairs, places, &self.table, false)
    }
}
