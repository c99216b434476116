//! Matrix products in f32 in the manner of Goto and van de Geijn (2008): operands are packed into panels, and a
//! register-tiled kernel runs over them.
//!
//! Every element of the result is one chain of fused multiply-adds over the inner dimension, in order, starting from
//! 0 or from what is there. Tile sizes and threads therefore change no bits, and neither does the number of rows
//! computed together: that is what makes answers independent of batching.
//!
//! Gradients of inputs are sums over the outputs of a layer, which at the head are a vocabulary. There one chain would
//! lose what is small against what it already holds: after the label's -1 the probabilities of a long tail, which add up
//! to much more than each of them. They are therefore sums of chains of `KC` steps each, in order.

mod blocks;
mod codes;
mod few;
mod kernel;
mod lanes;
mod nf4;
mod pack;
mod stacked;
mod transpose;
mod unpack;

use rayon::prelude::*;

use self::codes::Scratch;
pub(super) use self::few::{FEW, multiply_strided};
pub(super) use self::kernel::NR;
use self::kernel::{MR, Microkernel, Start};
use self::pack::PackedRows;
pub use self::pack::{PackedData, PackedMatrix};
pub use self::{blocks::StackedCodes, nf4::PackedNf4};
use super::{MatMut, MatRef};

/// Depth of the inner dimension that is worked on at once: a panel of B of this depth stays in the L1 cache. It is also
/// the length of the chains of a sum of chains.
const KC: usize = 256;
/// Panels of A worked on at once: they stay in the L2 cache.
const MC_PANELS: usize = 16;
/// Panels of B in one parallel task.
const NC_PANELS: usize = 8;
/// Below this many multiply-adds a product runs on the calling thread.
const SERIAL: usize = 1 << 17;

/// `C = beta·C + alpha·A·B` with A `[m, k]`, B `[k, n]`, C `[m, n]`.
///
/// # Panics
/// If the shapes do not agree.
pub fn gemm(alpha: f32, a: MatRef<'_>, b: MatRef<'_>, beta: f32, c: MatMut<'_>) {
    multiply_once(alpha, a, b, Sum::Chain, beta, c);
}

/// As [`gemm`], every element a sum of chains: for the gradients of inputs.
///
/// # Panics
/// If the shapes do not agree.
pub fn gemm_in_chains(alpha: f32, a: MatRef<'_>, b: MatRef<'_>, beta: f32, c: MatMut<'_>) {
    multiply_once(alpha, a, b, Sum::Chains, beta, c);
}

fn multiply_once(alpha: f32, a: MatRef<'_>, b: MatRef<'_>, sum: Sum, beta: f32, c: MatMut<'_>) {
    assert_eq!(a.cols, b.rows, "inner dimensions");
    let packed = PackedMatrix::pack_once(b, a.rows * b.rows * b.cols >= SERIAL);
    multiply(alpha, a, Operand { matrix: &packed, transposed: false }, sum, beta, c);
    packed.recycle();
}

/// As [`gemm`], with B packed beforehand: for weights, which are packed once.
///
/// # Panics
/// If the shapes do not agree.
pub fn gemm_packed(alpha: f32, a: MatRef<'_>, b: &PackedMatrix, beta: f32, c: MatMut<'_>) {
    multiply(alpha, a, Operand { matrix: b, transposed: false }, Sum::Chain, beta, c);
}

/// `C = beta·C + alpha·A·Bᵀ` with the same packed B `[n, k]`, every element a sum of chains: for the gradients of inputs of
/// frozen weights, which need no second packing. Panels are transposed as they are read, which changes no bits.
///
/// # Panics
/// If the shapes do not agree.
pub fn gemm_packed_transposed(alpha: f32, a: MatRef<'_>, b: &PackedMatrix, beta: f32, c: MatMut<'_>) {
    multiply(alpha, a, Operand { matrix: b, transposed: true }, Sum::Chains, beta, c);
}

/// How the terms of an element are added up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sum {
    /// One chain.
    Chain,
    /// Chains of [`KC`] terms, added up in order.
    Chains,
}

/// A packed matrix as the right operand, as it is or transposed.
#[derive(Clone, Copy)]
struct Operand<'a> {
    matrix: &'a PackedMatrix,
    transposed: bool,
}

impl<'a> Operand<'a> {
    fn rows(self) -> usize {
        if self.transposed { self.matrix.cols() } else { self.matrix.rows() }
    }

    fn cols(self) -> usize {
        if self.transposed { self.matrix.rows() } else { self.matrix.cols() }
    }

    fn panels(self) -> usize {
        self.cols().div_ceil(NR)
    }

    fn panel<'b>(
        self,
        panel: usize,
        start: usize,
        k: usize,
        buffer: &'b mut [f32; KC * NR],
        scratch: &mut Option<Box<Scratch>>,
    ) -> &'b [f32]
    where
        'a: 'b,
    {
        match self.transposed {
            true => self.matrix.panel_transposed(panel, start, k, buffer, scratch),
            false => self.matrix.panel(panel, start, k, buffer, scratch),
        }
    }
}

fn multiply(alpha: f32, a: MatRef<'_>, b: Operand<'_>, sum: Sum, beta: f32, c: MatMut<'_>) {
    assert_eq!(a.cols, b.rows(), "inner dimensions");
    assert_eq!((a.rows, b.cols()), (c.rows, c.cols), "shape of the result");
    if c.rows == 0 || c.cols == 0 {
        return;
    }
    let parallel = a.rows * a.cols * b.cols() >= SERIAL && rayon::current_num_threads() > 1;
    if !b.transposed && sum == Sum::Chain && (beta == 0.0 || beta == 1.0) && few::few(a.rows, b.matrix) {
        let rows = PackedRows::pack(alpha, a, false);
        few::multiply(&rows, b.matrix, beta == 1.0, c, parallel);
        return rows.recycle();
    }
    let kernel = Microkernel::best();
    let rows = PackedRows::pack(alpha, a, parallel);
    let tiles = Tiles { rows: &rows, b, sum, beta, c: c.data.as_mut_ptr(), ldc: c.row_stride, kernel };
    let row_blocks = rows.panels().div_ceil(MC_PANELS);
    let col_block = if parallel { columns_per_task(b.panels(), row_blocks) } else { b.panels() };
    let col_blocks = b.panels().div_ceil(col_block);
    let run = |task: usize| {
        let (col, row) = (task / row_blocks * col_block, task % row_blocks * MC_PANELS);
        // SAFETY: tasks cover disjoint tiles of C, and C is borrowed mutably for the whole call.
        unsafe { tiles.compute(row..(row + MC_PANELS).min(rows.panels()), col..(col + col_block).min(b.panels())) }
    };
    if parallel {
        (0..row_blocks * col_blocks).into_par_iter().with_max_len(1).for_each(run);
    } else {
        (0..row_blocks * col_blocks).for_each(run);
    }
    rows.recycle();
}

/// Panels of B for one task: enough tasks for the threads, and few enough for each to be worth its cost.
fn columns_per_task(panels: usize, row_blocks: usize) -> usize {
    let wanted = 4 * rayon::current_num_threads();
    (panels * row_blocks / wanted).clamp(1, NC_PANELS)
}

/// A kernel over one panel of B: rows, a panel of A, a tile of C and its stride.
type Run<'a> = dyn Fn(usize, &[f32], *mut f32, usize) + 'a;

struct Tiles<'a> {
    rows: &'a PackedRows,
    b: Operand<'a>,
    sum: Sum,
    beta: f32,
    c: *mut f32,
    ldc: usize,
    kernel: Microkernel,
}

// SAFETY: `c` is only written through `compute`, whose callers give disjoint tiles to different threads.
unsafe impl Sync for Tiles<'_> {}

impl Tiles<'_> {
    /// Computes the tile of the given panels of A and B.
    ///
    /// # Safety
    /// No other thread may touch the same tile of C.
    unsafe fn compute(&self, row_panels: std::ops::Range<usize>, col_panels: std::ops::Range<usize>) {
        let depth = self.b.rows();
        let (mut widened, mut scratch) = ([0f32; KC * NR], None);
        if depth == 0 || (self.beta != 0.0 && self.beta != 1.0) {
            // SAFETY: as the caller promises.
            unsafe { self.scale(row_panels.clone(), col_panels.clone()) };
        }
        for from in (0..depth).step_by(KC) {
            let k = KC.min(depth - from);
            let start = match self.sum {
                _ if from == 0 && self.beta == 0.0 => Start::Zero,
                Sum::Chain => Start::Loaded,
                Sum::Chains => Start::Added,
            };
            for col_panel in col_panels.clone() {
                let cols = NR.min(self.b.cols() - col_panel * NR);
                let tile = |row_panel: usize, run: &Run<'_>| {
                    let (a, rows) = self.rows.panel(row_panel, from);
                    assert!(a.len() >= k * rows, "rows of {k} steps");
                    // SAFETY: the tile lies inside of C (shapes were checked).
                    unsafe {
                        let c = self.c.add(row_panel * MR * self.ldc + col_panel * NR);
                        if cols == NR {
                            return run(rows, a, c, self.ldc);
                        }
                        let mut edge = [0f32; MR * NR];
                        copy(c, self.ldc, edge.as_mut_ptr(), NR, rows, if start == Start::Zero { 0 } else { cols });
                        run(rows, a, edge.as_mut_ptr(), NR);
                        copy(edge.as_ptr(), NR, c, self.ldc, rows, cols);
                    }
                };
                let b = self.b.panel(col_panel, from, k, &mut widened, &mut scratch);
                assert!(b.len() >= k * NR, "panels of {k} steps");
                for row_panel in row_panels.clone() {
                    let run = |rows, a: &[f32], c, ldc| {
                        // SAFETY: the tile is writable, and a and b hold k steps of a panel.
                        unsafe { self.kernel.run(rows, k, a.as_ptr(), b.as_ptr(), c, ldc, start) };
                    };
                    tile(row_panel, &run);
                }
            }
        }
    }

    /// Multiplies the tile by beta.
    ///
    /// # Safety
    /// As [`Tiles::compute`].
    unsafe fn scale(&self, row_panels: std::ops::Range<usize>, col_panels: std::ops::Range<usize>) {
        let rows = row_panels.start * MR..(row_panels.end * MR).min(self.rows.rows());
        let cols = col_panels.start * NR..(col_panels.end * NR).min(self.b.cols());
        for row in rows {
            for col in cols.clone() {
                // SAFETY: inside of C, and only this thread touches the tile.
                unsafe {
                    let c = self.c.add(row * self.ldc + col);
                    *c = if self.beta == 0.0 { 0.0 } else { *c * self.beta };
                }
            }
        }
    }
}

/// Copies a tile of `rows` x `cols`.
///
/// # Safety
/// Both tiles must be valid for their strides and must not overlap.
unsafe fn copy(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize, rows: usize, cols: usize) {
    for row in 0..rows {
        // SAFETY: as the caller promises.
        unsafe { std::ptr::copy_nonoverlapping(from.add(row * from_stride), to.add(row * to_stride), cols) };
    }
}

/// A product on the calling thread with buffers that are kept between calls: for the many small products of attention.
#[derive(Default)]
pub(crate) struct SerialGemm {
    a: Vec<f32>,
    b: Vec<f32>,
}

impl SerialGemm {
    /// The buffer of the packed right operand, which the caller fills in the layout of [`PackedMatrix`].
    pub(crate) fn b_mut(&mut self) -> &mut Vec<f32> {
        &mut self.b
    }

    /// `C = alpha·A·B` with the packed B; of a triangular product only what
    /// `depth` says is computed, rounded up to a panel.
    pub(crate) fn multiply(&mut self, alpha: f32, a: MatRef<'_>, b_cols: usize, c: MatMut<'_>, depth: Depth<'_>) {
        assert_eq!((a.rows, b_cols), (c.rows, c.cols), "shape of the result");
        let packed = b_cols.div_ceil(NR).checked_mul(a.cols).and_then(|steps| steps.checked_mul(NR));
        assert!(packed.is_some_and(|packed| packed <= self.b.len()), "the right operand is not whole");
        let kernel = Microkernel::best();
        let mut edge = [0f32; MR * NR];
        for (first, panel) in (0..a.rows).step_by(MR).enumerate() {
            let rows = MR.min(a.rows - panel);
            let (k_used, cols_used) = depth.of(first * MR + rows - 1, a.cols, b_cols);
            self.a.clear();
            self.a.reserve(rows * k_used);
            pack::pack_rows_into(alpha, a, panel, rows, k_used, &mut self.a);
            for col in (0..cols_used).step_by(NR) {
                let b = &self.b[col / NR * a.cols * NR..];
                let cols = NR.min(b_cols - col);
                // SAFETY: the tile lies inside of C by its shape, which `MatMut` checked; the panels hold k_used steps.
                unsafe {
                    let c_tile = c.data.as_mut_ptr().add(panel * c.row_stride + col);
                    if cols == NR {
                        kernel.run(rows, k_used, self.a.as_ptr(), b.as_ptr(), c_tile, c.row_stride, Start::Zero);
                    } else {
                        kernel.run(rows, k_used, self.a.as_ptr(), b.as_ptr(), edge.as_mut_ptr(), NR, Start::Zero);
                        copy(edge.as_ptr(), NR, c_tile, c.row_stride, rows, cols);
                    }
                }
            }
        }
    }
}

/// How much of a triangular product is needed, by row.
pub(crate) enum Depth<'a> {
    /// Row i needs the first `f(i)` columns of the result.
    Columns(&'a dyn Fn(usize) -> usize),
    /// Row i has zeros in A after the first `f(i)` elements.
    Inner(&'a dyn Fn(usize) -> usize),
}

impl Depth<'_> {
    /// Inner depth and columns for the row panel that ends in row `last`.
    fn of(&self, last: usize, k: usize, n: usize) -> (usize, usize) {
        match self {
            Self::Columns(f) => (k, f(last).min(n)),
            Self::Inner(f) => (f(last).min(k), n),
        }
    }
}

#[cfg(test)]
mod tests;
