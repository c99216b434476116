//! Quantised weights, ggml's and others', which stay where they lie and are widened a panel at a time.

use super::{
    KC,
    codes::{CodePanel, Scratch},
    kernel::NR,
    transpose::{TILE, transpose},
    unpack::{can_unpack, unpack},
};
use crate::{
    Buffer, CodedTensor, HostData,
    gguf::{BlockType, Factors, GROUP, LARGE, decode, has_minima, widen_into},
};

/// Weights `[out, in]` stacked by output.
#[derive(Clone, Debug)]
pub struct StackedCodes {
    parts: Vec<Part>,
    inp: usize,
    /// Steps of the largest block of a part.
    largest: usize,
    /// Whether all elements are small integers times scales, less minima.
    plain: bool,
}

/// One of them.
#[derive(Clone, Debug)]
struct Part {
    /// Its first output.
    first: usize,
    rows: usize,
    stored: Stored,
}

#[derive(Clone, Debug)]
enum Stored {
    /// ggml's, so many bytes a row.
    Blocks {
        kind: BlockType,
        bytes: Buffer<u8>,
        row: usize,
    },
    Coded(CodedTensor),
}

impl StackedCodes {
    /// `None` if not all are such weights.
    pub(super) fn new(weights: &[&HostData], inp: usize) -> Option<Self> {
        let (mut parts, mut first) = (vec![], 0);
        for weight in weights {
            let stored = match weight {
                HostData::Blocks(data) => {
                    Stored::Blocks { kind: data.kind, bytes: data.bytes.clone(), row: data.bytes_of(inp) }
                }
                HostData::Coded(data) => Stored::Coded(data.clone()),
                _ => return None,
            };
            let rows = weight.len() / inp.max(1);
            parts.push(Part { first, rows, stored });
            first += rows;
        }
        let largest = parts.iter().map(|part| part.stored.block()).max()?;
        let plain = parts.iter().all(|part| part.stored.is_plain());
        Some(Self { parts, inp, largest, plain })
    }

    /// Whether [`Self::codes`] has panels of codes.
    pub(super) fn is_plain(&self) -> bool {
        self.plain
    }

    pub(super) fn outputs(&self) -> usize {
        self.parts.last().map_or(0, |part| part.first + part.rows)
    }

    pub(super) fn bytes(&self) -> usize {
        let bytes = |part: &Part| match &part.stored {
            Stored::Blocks { bytes, .. } => bytes.len(),
            Stored::Coded(data) => data.bytes(),
        };
        self.parts.iter().map(bytes).sum()
    }

    /// Elements of the row of an output from `start` on, as many as `out` has; zeros beyond the last output.
    pub(super) fn row(&self, output: usize, start: usize, out: &mut [f32]) {
        match self.part(output) {
            Some((part, row)) => part.stored.row(row, start, out),
            None => out.fill(0.0),
        }
    }

    /// `k` steps of a panel from step `start`, both as for [`Self::codes`].
    pub(super) fn panel(
        &self,
        panel: usize,
        start: usize,
        k: usize,
        scratch: &mut Option<Box<Scratch>>,
        out: &mut [f32],
    ) {
        if let Some((codes, at)) = self.codes(panel, start, k, scratch) {
            return codes.widen(at, out);
        }
        let rows = &mut scratch.get_or_insert_default().rows;
        rows.resize(NR * KC, 0.0);
        for (lane, row) in rows.as_chunks_mut::<KC>().0.iter_mut().enumerate() {
            self.row(panel * NR + lane, start, &mut row[..k]);
        }
        let mut turned = [0f32; TILE];
        for (at, out) in out[..k * NR].chunks_mut(TILE).enumerate() {
            transpose(&rows[at * NR..], KC, &mut turned);
            out.copy_from_slice(&turned[..out.len()]);
        }
    }

    /// `k` steps of a panel from step `start`, which is a multiple of 32, and where in the panel of codes they begin; `None`
    /// if the weights are not such codes.
    pub(super) fn codes<'a>(
        &self,
        panel: usize,
        start: usize,
        k: usize,
        scratch: &'a mut Option<Box<Scratch>>,
    ) -> Option<(&'a CodePanel, usize)> {
        // From the first step of a block on.
        let at = start % self.largest;
        assert!(start + k <= self.inp && start.is_multiple_of(NR) && at + k <= LARGE, "steps of a panel");
        if !self.plain {
            return None;
        }
        let (scratch, mut minima) = (scratch.get_or_insert_default(), false);
        if let Some((part, row)) = self.part(panel * NR)
            && row + NR <= part.rows
            && part.stored.unpack(row, (start - at, at + k), &mut scratch.panel)
        {
            return Some((&scratch.panel, at));
        }
        let lanes = scratch.lanes.codes.iter_mut().zip(&mut scratch.lanes.factors);
        for (lane, (codes, factors)) in lanes.enumerate() {
            match self.part(panel * NR + lane) {
                Some((part, row)) => minima |= part.stored.decode(row, (start - at, at + k), codes, factors),
                None => factors.fill(0.0),
            }
        }
        scratch.panel.fill(&scratch.lanes, minima);
        Some((&scratch.panel, at))
    }

    /// The part of an output, and which of its rows that is; `None` beyond the last.
    fn part(&self, output: usize) -> Option<(&Part, usize)> {
        let at = self.parts.partition_point(|part| part.first <= output);
        let part = at.checked_sub(1).map(|at| &self.parts[at])?;
        (output - part.first < part.rows).then_some((part, output - part.first))
    }
}

impl Stored {
    /// Steps of a block that is decoded as a whole.
    fn block(&self) -> usize {
        match self {
            Self::Blocks { kind, .. } => kind.elements(),
            Self::Coded(_) => 1,
        }
    }

    fn is_plain(&self) -> bool {
        match self {
            Self::Blocks { .. } => true,
            Self::Coded(data) => data.is_plain(),
        }
    }

    /// `len` steps of 32 rows from step `from`, the first of a block; nothing and false if this is not how the type is decoded.
    fn unpack(&self, row: usize, (from, len): (usize, usize), panel: &mut CodePanel) -> bool {
        let Self::Blocks { kind, bytes, row: stride } = self else { return false };
        if !can_unpack(*kind) {
            return false;
        }
        let first = row * stride + from / kind.elements() * kind.bytes();
        let blocks = len.div_ceil(kind.elements()) * kind.bytes();
        for row in NR..2 * NR {
            // The next panel is not where the processor would look by itself.
            prefetch(bytes, first + row * stride, blocks);
        }
        unpack(*kind, &bytes[first..], *stride, len, panel);
        true
    }

    /// `len` steps of a row from step `from`, the first of a block. Whether there are minima; else those in `factors` are 0,
    /// as other rows of a panel may have some.
    fn decode(&self, row: usize, (from, len): (usize, usize), codes: &mut [i8; LARGE], factors: &mut Factors) -> bool {
        match self {
            Self::Blocks { kind, bytes, row: stride } => {
                let (elements, size) = (kind.elements(), kind.bytes());
                let blocks =
                    row * stride + from / elements * size..row * stride + (from + len).div_ceil(elements) * size;
                // The next panel is a panel's rows further; it is not where the processor would look by itself.
                prefetch(bytes, blocks.start + NR * stride, blocks.len());
                if !has_minima(*kind) {
                    factors[LARGE / GROUP..].fill(0.0);
                }
                decode(*kind, &bytes[blocks], codes, factors);
                has_minima(*kind)
            }
            Self::Coded(data) => {
                factors[LARGE / GROUP..].fill(0.0);
                data.decode(row, from, len, codes, factors);
                false
            }
        }
    }

    /// Elements of a row from `start` on.
    fn row(&self, row: usize, start: usize, out: &mut [f32]) {
        let (kind, row) = match self {
            Self::Coded(data) => return data.widen_row(row, start, out),
            Self::Blocks { kind, bytes, row: stride } => (*kind, &bytes[row * stride..(row + 1) * stride]),
        };
        let (elements, bytes) = (kind.elements(), kind.bytes());
        let (mut from, mut rest) = (start, out);
        let mut whole = [0f32; LARGE];
        while !rest.is_empty() {
            let (block, offset) = (from / elements, from % elements);
            // Whole blocks go straight to their place, parts of one by way of the whole.
            let blocks = if offset == 0 { rest.len() / elements } else { 0 };
            let run = if blocks > 0 {
                widen_into(kind, &row[block * bytes..(block + blocks) * bytes], &mut rest[..blocks * elements]);
                blocks * elements
            } else {
                widen_into(kind, &row[block * bytes..(block + 1) * bytes], &mut whole[..elements]);
                let run = (elements - offset).min(rest.len());
                rest[..run].copy_from_slice(&whole[offset..offset + run]);
                run
            };
            (from, rest) = (from + run, &mut rest[run..]);
        }
    }
}

/// Asks for bytes that are read soon.
fn prefetch(bytes: &[u8], from: usize, len: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(bytes) = bytes.get(from..from + len) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        for line in bytes.chunks(64) {
            // SAFETY: a hint, on memory that is there.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, from, len);
}
