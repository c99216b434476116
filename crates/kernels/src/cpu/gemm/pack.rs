//! Packing: operands laid out in the order in which the kernel reads them.

use half::{bf16, f16};
use rayon::prelude::*;

use super::{
    KC,
    blocks::StackedCodes,
    codes::Scratch,
    kernel::{MR, NR},
    nf4::PackedNf4,
    transpose::{TILE, transpose},
};
use crate::cpu::{MatRef, isa::multiversion};
use crate::{HostData, Nf4Tensor};

/// The elements of a packed matrix, in the type they are stored in; products widen them to f32.
#[derive(Clone, Debug)]
pub enum PackedData {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// bfloat16: half the memory traffic of f32.
    Bf16(Vec<bf16>),
    /// IEEE half precision.
    F16(Vec<f16>),
    /// 4-bit codes with scales.
    Nf4(PackedNf4),
    /// ggml's blocks and other codes, as they are stored.
    Codes(StackedCodes),
}

/// The right operand `[k, n]` of a product in panels of 32 columns: element `(i, 32·p + j)` is at `(p·k + i)·32 + j`.
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    data: PackedData,
    rows: usize,
    cols: usize,
}

impl PackedMatrix {
    /// Packs a matrix `[k, n]` in f32.
    pub(crate) fn pack_f32(b: MatRef<'_>, parallel: bool) -> Self {
        Self::pack_into(vec![], b, parallel)
    }

    /// As [`PackedMatrix::pack_f32`] for one product, after which [`PackedMatrix::recycle`] gives the buffer back.
    pub(super) fn pack_once(b: MatRef<'_>, parallel: bool) -> Self {
        Self::pack_into(scratch::take(), b, parallel)
    }

    /// Gives the buffer back.
    pub(super) fn recycle(self) {
        if let PackedData::F32(data) = self.data {
            scratch::give(data);
        }
    }

    fn pack_into(mut data: Vec<f32>, b: MatRef<'_>, parallel: bool) -> Self {
        let panels = b.cols.div_ceil(NR);
        data.resize(panels * b.rows * NR, 0.0);
        let size = (b.rows * NR).max(1);
        if parallel {
            data.par_chunks_exact_mut(size).enumerate().for_each(|(p, out)| pack_panel(b, p * NR, out));
        } else {
            data.chunks_exact_mut(size).enumerate().for_each(|(p, out)| pack_panel(b, p * NR, out));
        }
        Self { data: PackedData::F32(data), rows: b.rows, cols: b.cols }
    }

    /// Packs a weight `[out, in]`, row-major, so that products compute `x · Wᵀ`.
    pub fn weight_f32(weight: &[f32], out: usize, inp: usize) -> Self {
        Self::pack_f32(MatRef::new(weight, out, inp).t(), true)
    }

    /// As [`PackedMatrix::weight_f32`], kept in bfloat16.
    pub fn weight_bf16(weight: &[bf16], out: usize, inp: usize) -> Self {
        Self { data: PackedData::Bf16(pack_transposed(weight, out, inp)), rows: inp, cols: out }
    }

    /// As [`PackedMatrix::weight_f32`], kept in half precision.
    pub fn weight_f16(weight: &[f16], out: usize, inp: usize) -> Self {
        Self { data: PackedData::F16(pack_transposed(weight, out, inp)), rows: inp, cols: out }
    }

    /// As [`PackedMatrix::weight_f32`] for weights stacked by output, kept in 4-bit codes.
    pub fn weight_nf4(weights: &[&Nf4Tensor], inp: usize) -> Self {
        let cols = weights.iter().map(|weight| weight.len / inp.max(1)).sum();
        Self { data: PackedData::Nf4(PackedNf4::new(weights, inp)), rows: inp, cols }
    }

    /// As [`PackedMatrix::weight_f32`] for weights stacked by output, kept in ggml's blocks or other codes where they lie;
    /// `None` if one of them is neither.
    pub fn weight_codes(weights: &[&HostData], inp: usize) -> Option<Self> {
        let data = StackedCodes::new(weights, inp)?;
        Some(Self { cols: data.outputs(), data: PackedData::Codes(data), rows: inp })
    }

    pub(super) fn data(&self) -> &PackedData {
        &self.data
    }

    /// Inner dimension k.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns n of the product.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match &self.data {
            PackedData::F32(data) => data.len() * 4,
            PackedData::Bf16(data) => data.len() * 2,
            PackedData::F16(data) => data.len() * 2,
            PackedData::Nf4(data) => data.bytes(),
            PackedData::Codes(data) => data.bytes(),
        }
    }

    /// `k` steps of a panel from step `start`, as f32; what is stored otherwise is widened into `buffer`.
    pub(super) fn panel<'a>(
        &'a self,
        panel: usize,
        start: usize,
        k: usize,
        buffer: &'a mut [f32],
        scratch: &mut Option<Box<Scratch>>,
    ) -> &'a [f32] {
        let range = (panel * self.rows + start) * NR..(panel * self.rows + start + k) * NR;
        let out = &mut buffer[..k * NR];
        match &self.data {
            PackedData::F32(data) => return &data[range],
            PackedData::Bf16(data) => widen_bf16(&data[range], out),
            PackedData::F16(data) => widen_f16(&data[range], out),
            PackedData::Nf4(data) => data.panel(panel, start, k, out),
            PackedData::Codes(data) => data.panel(panel, start, k, scratch, out),
        }
        out
    }

    /// As [`PackedMatrix::panel`] of the transpose: its rows are the columns of this matrix. `start` is a multiple of 32.
    pub(super) fn panel_transposed<'a>(
        &self,
        panel: usize,
        start: usize,
        k: usize,
        buffer: &'a mut [f32; KC * NR],
        scratch: &mut Option<Box<Scratch>>,
    ) -> &'a [f32] {
        let first = panel * NR;
        let steps = NR.min(self.rows - first);
        let mut tile = [0f32; TILE];
        for (i, to) in buffer.chunks_exact_mut(TILE).enumerate().take(k.div_ceil(NR)) {
            let source = start / NR + i;
            match &self.data {
                PackedData::F32(data) if steps == NR => {
                    transpose(&data[(source * self.rows + first) * NR..][..TILE], NR, to);
                }
                PackedData::F32(data) => {
                    tile[..steps * NR].copy_from_slice(&data[(source * self.rows + first) * NR..][..steps * NR]);
                    transpose(&tile, NR, to);
                }
                _ => {
                    self.panel(source, first, steps, &mut tile, scratch);
                    transpose(&tile, NR, to);
                }
            }
        }
        &buffer[..k * NR]
    }

    /// Row `row` of the weight this was packed from (column `row` of the packed matrix), widened to f32.
    pub fn weight_row(&self, row: usize, out: &mut [f32]) {
        if let PackedData::Codes(data) = &self.data {
            return data.row(row, 0, &mut out[..self.rows]);
        }
        let (base, offset) = (row / NR * self.rows * NR, row % NR);
        for (i, x) in out.iter_mut().enumerate().take(self.rows) {
            let at = base + i * NR + offset;
            *x = match &self.data {
                PackedData::F32(data) => data[at],
                PackedData::Bf16(data) => data[at].to_f32(),
                PackedData::F16(data) => data[at].to_f32(),
                PackedData::Nf4(data) => data.at(row, i),
                PackedData::Codes(_) => 0.0,
            };
        }
    }
}

multiversion! {
    fn widen_bf16(from: &[bf16], to: &mut [f32]) {
        for (x, y) in from.iter().zip(to) {
            *y = f32::from_bits(u32::from(x.to_bits()) << 16);
        }
    }
}

fn widen_f16(from: &[f16], to: &mut [f32]) {
    use half::slice::HalfFloatSliceExt;
    from.convert_to_f32_slice(to);
}

fn pack_transposed<T: Copy + Default + Send + Sync>(weight: &[T], out: usize, inp: usize) -> Vec<T> {
    assert_eq!(weight.len(), out * inp, "elements of a {out}x{inp} weight");
    let mut data = vec![T::default(); out.div_ceil(NR) * inp * NR];
    data.par_chunks_exact_mut((inp * NR).max(1)).enumerate().for_each(|(panel, to)| {
        let width = NR.min(out - panel * NR);
        for (j, row) in weight[panel * NR * inp..].chunks_exact(inp).take(width).enumerate() {
            for (i, &x) in row.iter().enumerate() {
                to[i * NR + j] = x;
            }
        }
    });
    data
}

/// Packs 32 columns of B from column `col`; columns beyond the matrix become zeros.
pub(super) fn pack_panel(b: MatRef<'_>, col: usize, out: &mut [f32]) {
    let width = NR.min(b.cols - col);
    if width < NR {
        out.fill(0.0);
    }
    if b.col_stride == 1 {
        for (i, to) in out.chunks_exact_mut(NR).enumerate().take(b.rows) {
            let from = i * b.row_stride + col;
            to[..width].copy_from_slice(&b.data[from..from + width]);
        }
    } else if b.row_stride == 1 {
        // The source runs along the inner dimension: go through it in blocks that fit the cache.
        for block in (0..b.rows).step_by(16) {
            let end = (block + 16).min(b.rows);
            for j in 0..width {
                let from = (col + j) * b.col_stride;
                for (i, &x) in b.data[from + block..from + end].iter().enumerate() {
                    out[(block + i) * NR + j] = x;
                }
            }
        }
    } else {
        for i in 0..b.rows {
            for j in 0..width {
                out[i * NR + j] = b.at(i, col + j);
            }
        }
    }
}

/// Buffers kept between products: a new one costs a page fault for every 4 KiB.
mod scratch {
    use std::cell::RefCell;

    /// Buffers kept by a thread.
    const KEPT: usize = 4;

    thread_local! {
        static BUFFERS: RefCell<Vec<Vec<f32>>> = const { RefCell::new(vec![]) };
    }

    /// A buffer of any length and content.
    pub(super) fn take() -> Vec<f32> {
        BUFFERS.with_borrow_mut(|buffers| buffers.pop().unwrap_or_default())
    }

    /// Keeps a buffer for later.
    pub(super) fn give(buffer: Vec<f32>) {
        BUFFERS.with_borrow_mut(|buffers| {
            if buffers.len() < KEPT {
                buffers.push(buffer);
            }
        });
    }
}

/// The left operand in panels of [`MR`] rows: element `(p·MR + i, k)` is at `p·MR·depth + k·height + i`, where the last
/// panel's height is what is left.
pub(super) struct PackedRows {
    data: Vec<f32>,
    rows: usize,
    depth: usize,
}

impl PackedRows {
    pub(super) fn pack(alpha: f32, a: MatRef<'_>, parallel: bool) -> Self {
        let mut data = scratch::take();
        data.resize(a.rows * a.cols, 0.0);
        let size = (MR * a.cols).max(1);
        let pack = |(panel, out): (usize, &mut [f32])| {
            let rows = MR.min(a.rows - panel * MR);
            pack_rows(alpha, a, panel * MR, rows, a.cols, out);
        };
        if parallel {
            data.par_chunks_mut(size).enumerate().for_each(pack);
        } else {
            data.chunks_mut(size).enumerate().for_each(pack);
        }
        Self { data, rows: a.rows, depth: a.cols }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn panels(&self) -> usize {
        self.rows.div_ceil(MR)
    }

    /// Gives the buffer back.
    pub(super) fn recycle(self) {
        scratch::give(self.data);
    }

    /// The panel from step `start`, and its number of rows.
    pub(super) fn panel(&self, panel: usize, start: usize) -> (&[f32], usize) {
        let rows = MR.min(self.rows - panel * MR);
        (&self.data[panel * MR * self.depth + start * rows..], rows)
    }
}

/// Packs `rows` rows of A from `first`, the first `depth` elements of each.
fn pack_rows(alpha: f32, a: MatRef<'_>, first: usize, rows: usize, depth: usize, out: &mut [f32]) {
    if a.row_stride == 1 && a.col_stride != 1 {
        // A transposed operand: the rows of a panel lie side by side, as in a weight's gradient.
        for (k, to) in out.chunks_exact_mut(rows).enumerate().take(depth) {
            let from = k * a.col_stride + first;
            for (y, &x) in to.iter_mut().zip(&a.data[from..from + rows]) {
                *y = alpha * x;
            }
        }
        return;
    }
    for i in 0..rows {
        let base = (first + i) * a.row_stride;
        if a.col_stride == 1 {
            for (k, &x) in a.data[base..base + depth].iter().enumerate() {
                out[k * rows + i] = alpha * x;
            }
        } else {
            for k in 0..depth {
                out[k * rows + i] = alpha * a.data[base + k * a.col_stride];
            }
        }
    }
}

/// As [`pack_rows`], into a buffer that grows as needed.
pub(super) fn pack_rows_into(alpha: f32, a: MatRef<'_>, first: usize, rows: usize, depth: usize, out: &mut Vec<f32>) {
    out.resize(rows * depth, 0.0);
    pack_rows(alpha, a, first, rows, depth, out);
}
