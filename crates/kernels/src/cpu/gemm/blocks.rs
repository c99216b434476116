//! Weights in ggml's blocks, which stay where they lie and are widened a panel at a time.

use super::{
    kernel::NR,
    transpose::{TILE, transpose},
};
use crate::{
    Buffer,
    gguf::{BlockTensor, BlockType, widen_into},
};

/// Elements of the largest block.
const LARGEST: usize = 256;

/// Weights `[out, in]` stacked by output.
#[derive(Clone, Debug)]
pub struct StackedBlocks {
    parts: Vec<Part>,
    inp: usize,
}

/// One of them.
#[derive(Clone, Debug)]
struct Part {
    /// Its first output.
    first: usize,
    kind: BlockType,
    bytes: Buffer<u8>,
    /// Bytes of a row.
    row: usize,
}

impl StackedBlocks {
    pub(super) fn new(weights: &[&BlockTensor], inp: usize) -> Self {
        let mut first = 0;
        let part = |weight: &&BlockTensor| {
            let row = weight.bytes_of(inp);
            let part = Part { first, kind: weight.kind, bytes: weight.bytes.clone(), row };
            first += weight.len / inp.max(1);
            part
        };
        Self { parts: weights.iter().map(part).collect(), inp }
    }

    pub(super) fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.bytes.len()).sum()
    }

    /// Elements of the row of an output from `start` on, as many as `out` has.
    pub(super) fn row(&self, output: usize, start: usize, out: &mut [f32]) {
        let at = self.parts.partition_point(|part| part.first <= output);
        let Some(part) = at.checked_sub(1).map(|at| &self.parts[at]) else { return };
        let row = (output - part.first) * part.row;
        let Some(row) = part.bytes.get(row..row + part.row) else { return };
        let (elements, bytes) = (part.kind.elements(), part.kind.bytes());
        let (mut from, mut rest) = (start, out);
        let mut whole = [0f32; LARGEST];
        while !rest.is_empty() {
            let (block, offset) = (from / elements, from % elements);
            // Whole blocks go straight to their place, parts of one by way of the whole.
            let blocks = if offset == 0 { rest.len() / elements } else { 0 };
            let run = if blocks > 0 {
                widen_into(part.kind, &row[block * bytes..(block + blocks) * bytes], &mut rest[..blocks * elements]);
                blocks * elements
            } else {
                widen_into(part.kind, &row[block * bytes..(block + 1) * bytes], &mut whole[..elements]);
                let run = (elements - offset).min(rest.len());
                rest[..run].copy_from_slice(&whole[offset..offset + run]);
                run
            };
            (from, rest) = (from + run, &mut rest[run..]);
        }
    }

    /// `k` steps of a panel from step `start`.
    pub(super) fn panel(&self, panel: usize, start: usize, k: usize, out: &mut [f32]) {
        debug_assert!(start + k <= self.inp, "steps of a panel");
        let (mut rows, mut tile, mut turned) = ([0f32; NR * LARGEST], [0f32; TILE], [0f32; TILE]);
        for from in (0..k).step_by(LARGEST) {
            let steps = LARGEST.min(k - from);
            for lane in 0..NR {
                let row = &mut rows[lane * LARGEST..][..steps];
                if !self.row_if_there(panel * NR + lane, start + from, row) {
                    row.fill(0.0);
                }
            }
            for (at, to) in out[from * NR..(from + steps) * NR].chunks_mut(TILE).enumerate() {
                let width = to.len() / NR;
                for (lane, tile) in tile.chunks_exact_mut(NR).enumerate() {
                    tile[..width].copy_from_slice(&rows[lane * LARGEST + at * NR..][..width]);
                }
                transpose(&tile, &mut turned);
                to.copy_from_slice(&turned[..to.len()]);
            }
        }
    }

    /// [`Self::row`], if there is such an output; whether there is.
    fn row_if_there(&self, output: usize, start: usize, out: &mut [f32]) -> bool {
        let there = output < self.parts.last().map_or(0, |part| part.first + part.bytes.len() / part.row.max(1));
        if there {
            self.row(output, start, out);
        }
        there
    }
}
