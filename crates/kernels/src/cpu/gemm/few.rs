//! Products of few rows, as when tokens are generated: the right operand is read once, panel by panel, and multiplied as it
//! is stored, without a widened copy. Chains are those of all other products, so no bits change.

use half::{bf16, f16};
use rayon::prelude::*;

use super::{
    KC, PackedData, PackedMatrix,
    codes::{CodePanel, GROUPS, Scratch},
    kernel::{NR, multiply_add},
    lanes::Lanes,
    pack::PackedRows,
};
use crate::{
    cpu::{
        MatMut,
        isa::{Isa, isa},
    },
    gguf::GROUP,
};

/// Rows of the left operand for which this is faster.
pub(in crate::cpu) const FEW: usize = 8;

/// Whether [`multiply`] can multiply so many rows with a matrix.
pub(super) fn few(rows: usize, b: &PackedMatrix) -> bool {
    let stored = match b.data() {
        PackedData::Codes(codes) => codes.is_plain() && b.rows().is_multiple_of(4),
        PackedData::F32(_) => rows <= 4,
        PackedData::Bf16(_) | PackedData::F16(_) => true,
        PackedData::Nf4(_) => false,
    };
    stored && rows <= FEW && b.rows() > 0 && strides()
}

/// `C (+)= A·B` where [`few`] says so; `add` keeps what is in C.
pub(super) fn multiply(a: &PackedRows, b: &PackedMatrix, add: bool, c: MatMut<'_>, parallel: bool) {
    assert!(few(a.rows(), b) && c.rows == a.rows() && c.cols == b.cols(), "a product of few rows");
    let panels = b.cols().div_ceil(NR);
    let product = Product { a: a.panel(0, 0).0, rows: a.rows(), b, add, c: c.data.as_mut_ptr(), stride: c.row_stride };
    if !parallel {
        return product.run(0..panels);
    }
    let block = panels.div_ceil(4 * rayon::current_num_threads());
    (0..panels.div_ceil(block)).into_par_iter().with_max_len(1).for_each(|task| {
        product.run(task * block..panels.min((task + 1) * block));
    });
}

struct Product<'a> {
    a: &'a [f32],
    rows: usize,
    b: &'a PackedMatrix,
    add: bool,
    c: *mut f32,
    stride: usize,
}

// SAFETY: every panel is a run of columns of C, which one task alone writes.
unsafe impl Sync for Product<'_> {}

impl Product<'_> {
    fn run(&self, panels: std::ops::Range<usize>) {
        let (mut scratch, mut edge) = (None, [0f32; FEW * NR]);
        for panel in panels {
            let cols = NR.min(self.b.cols() - panel * NR);
            // SAFETY: the panel's columns lie inside of C, whose shape was checked, and no other task has them.
            unsafe {
                let c = self.c.add(panel * NR);
                if cols == NR {
                    self.panel(panel, c, self.stride, &mut scratch);
                    continue;
                }
                if self.add {
                    super::copy(c, self.stride, edge.as_mut_ptr(), NR, self.rows, cols);
                }
                self.panel(panel, edge.as_mut_ptr(), NR, &mut scratch);
                super::copy(edge.as_ptr(), NR, c, self.stride, self.rows, cols);
            }
        }
    }

    /// One panel, all steps.
    ///
    /// # Safety
    /// C must be writable for all rows of 32 columns.
    unsafe fn panel(&self, panel: usize, c: *mut f32, stride: usize, scratch: &mut Option<Box<Scratch>>) {
        let depth = self.b.rows();
        for from in (0..depth).step_by(KC) {
            let steps = KC.min(depth - from);
            let a = &self.a[from * self.rows..(from + steps) * self.rows];
            let to = Tile { rows: self.rows, steps, a: a.as_ptr(), c, stride, add: self.add || from > 0 };
            let range = (panel * depth + from) * NR..(panel * depth + from + steps) * NR;
            // SAFETY: A and B have so many steps, and C is as the caller promises.
            unsafe {
                match self.b.data() {
                    PackedData::F32(data) => to.floats(&data[range], NR, NR),
                    PackedData::Bf16(data) => to.floats(&data[range], NR, NR),
                    PackedData::F16(data) => to.floats(&data[range], NR, NR),
                    PackedData::Codes(data) => {
                        let Some((codes, at)) = data.codes(panel, from, steps, scratch) else { return };
                        if codes.tiny {
                            let mut wide = vec![0.0; steps * NR];
                            codes.widen(at, &mut wide);
                            to.floats(&wide, NR, NR);
                        } else {
                            to.codes(codes, at);
                        }
                    }
                    PackedData::Nf4(_) => {}
                }
            }
        }
    }
}

/// `C (+)= A·B` of at most [`FEW`] rows on the calling thread, B `[k, cols]` where it lies, its rows `stride` apart. A holds
/// `k` steps of all rows.
///
/// # Panics
/// If an operand is shorter than that.
pub(in crate::cpu) fn multiply_strided(
    (rows, a): (usize, &[f32]),
    (b, stride, cols): (&[f32], usize, usize),
    add: bool,
    c: &mut MatMut<'_>,
) {
    let steps = a.len() / rows;
    assert!(rows <= FEW && (c.rows, c.cols) == (rows, cols) && a.len() == steps * rows, "a product of few rows");
    if steps == 0 || cols == 0 {
        return;
    }
    assert!(b.len() > (steps - 1) * stride + cols - 1, "a right operand of {steps} steps");
    if strides() {
        let to = Tile { rows, steps, a: a.as_ptr(), c: c.data.as_mut_ptr(), stride: c.row_stride, add };
        // SAFETY: the shapes were checked.
        return unsafe { to.floats(b, stride, cols) };
    }
    for row in 0..rows {
        for col in 0..cols {
            let sum = &mut c.data[row * c.row_stride + col];
            let start = if add { *sum } else { 0.0 };
            *sum = (0..steps).fold(start, |sum, step| multiply_add(a[step * rows + row], b[step * stride + col], sum));
        }
    }
}

/// Whether there are kernels for this processor.
fn strides() -> bool {
    isa() != Isa::Portable
}

/// A tile of C and the steps that are added to it.
#[derive(Clone, Copy)]
struct Tile {
    rows: usize,
    steps: usize,
    a: *const f32,
    c: *mut f32,
    stride: usize,
    add: bool,
}

/// Calls a kernel for a number of rows, with as many registers of lanes to a row as keep all sums in registers and enough
/// chains in flight.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! by_rows {
    ($rows:expr, $kernel:ident, [$($generic:tt),*], $($arg:expr),*) => {{
        // NEON has twice as many registers, half as wide.
        const W: usize = if cfg!(target_arch = "aarch64") { 2 } else { 1 };
        match $rows {
            1 => $kernel::<$($generic,)* 1, { 4 * W }>($($arg),*),
            2 => $kernel::<$($generic,)* 2, { 4 * W }>($($arg),*),
            3 => $kernel::<$($generic,)* 3, { 2 * W }>($($arg),*),
            4 => $kernel::<$($generic,)* 4, { 2 * W }>($($arg),*),
            5 => $kernel::<$($generic,)* 5, W>($($arg),*),
            6 => $kernel::<$($generic,)* 6, W>($($arg),*),
            7 => $kernel::<$($generic,)* 7, W>($($arg),*),
            _ => $kernel::<$($generic,)* FEW, W>($($arg),*),
        }
    }};
}

impl Tile {
    /// Steps of `cols` elements, `stride` apart.
    ///
    /// # Safety
    /// A must have so many steps of all rows, and C be writable.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    unsafe fn floats<S: Stored>(self, b: &[S], stride: usize, cols: usize) {
        assert!(self.steps > 0 && b.len() >= (self.steps - 1) * stride + cols && self.rows <= FEW, "steps of B");
        let b = Steps { first: b.as_ptr(), stride, cols };
        // SAFETY: the processor has the instructions (see `few`), and B has the steps.
        unsafe { by_rows!(self.rows, run_floats, [S], self, b) }
    }

    /// # Safety
    /// As [`Self::floats`].
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    unsafe fn codes(self, panel: &CodePanel, start: usize) {
        let whole = self.steps.is_multiple_of(4) && start.is_multiple_of(GROUP) && start + self.steps <= KC;
        assert!(whole && self.rows <= FEW, "steps of a panel");
        // SAFETY: the processor has the instructions (see `few`), and the panel has the steps.
        unsafe {
            match panel.has_minima {
                true => by_rows!(self.rows, run_codes, [true], self, panel, start),
                false => by_rows!(self.rows, run_codes, [false], self, panel, start),
            }
        }
    }

    /// Never called: [`few`] says no.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    unsafe fn floats<S: Stored>(self, _: &[S], _: usize, _: usize) {}

    /// Never called: [`few`] says no.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    unsafe fn codes(self, _: &CodePanel, _: usize) {}

    /// The sums of a strip of lanes from `lane` on, as they begin.
    ///
    /// # Safety
    /// As for the whole tile.
    #[inline(always)]
    unsafe fn begin<L: Lanes, const ROWS: usize, const WIDE: usize>(self, lane: usize) -> [[L; WIDE]; ROWS] {
        // SAFETY: as the caller promises.
        unsafe {
            let mut sums = [[L::splat(0.0); WIDE]; ROWS];
            if self.add {
                for (i, row) in sums.iter_mut().enumerate() {
                    for (j, sum) in row.iter_mut().enumerate() {
                        *sum = L::load(self.c.add(i * self.stride + lane + j * L::WIDTH));
                    }
                }
            }
            sums
        }
    }

    /// Writes the sums of a strip.
    ///
    /// # Safety
    /// As for the whole tile.
    #[inline(always)]
    unsafe fn end<L: Lanes, const ROWS: usize, const WIDE: usize>(self, lane: usize, sums: [[L; WIDE]; ROWS]) {
        for (i, row) in sums.iter().enumerate() {
            for (j, &sum) in row.iter().enumerate() {
                // SAFETY: as the caller promises.
                unsafe { sum.store(self.c.add(i * self.stride + lane + j * L::WIDTH)) };
            }
        }
    }
}

/// A type that weights are stored in.
trait Stored: Copy {
    /// # Safety
    /// There must be as many elements as lanes, and the instruction set.
    unsafe fn load<L: Lanes>(from: *const Self) -> L;

    /// The first elements of a register, zeros beyond.
    ///
    /// # Safety
    /// There must be so many elements, fewer than lanes, and the instruction set.
    unsafe fn load_first<L: Lanes>(from: *const Self, count: usize) -> L;
}

impl Stored for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L {
        // SAFETY: as the caller promises.
        unsafe { L::load(from) }
    }

    #[inline(always)]
    unsafe fn load_first<L: Lanes>(from: *const Self, count: usize) -> L {
        // SAFETY: as the caller promises.
        unsafe { L::load_first(from, count) }
    }
}

impl Stored for bf16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L {
        // SAFETY: as the caller promises.
        unsafe { L::load_bf16(from) }
    }

    #[inline(always)]
    unsafe fn load_first<L: Lanes>(from: *const Self, count: usize) -> L {
        let mut whole = [bf16::ZERO; NR];
        // SAFETY: as the caller promises; no register is wider than a panel.
        unsafe {
            std::ptr::copy_nonoverlapping(from, whole.as_mut_ptr(), count);
            L::load_bf16(whole.as_ptr())
        }
    }
}

impl Stored for f16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L {
        // SAFETY: as the caller promises.
        unsafe { L::load_f16(from) }
    }

    #[inline(always)]
    unsafe fn load_first<L: Lanes>(from: *const Self, count: usize) -> L {
        let mut whole = [f16::ZERO; NR];
        // SAFETY: as the caller promises; no register is wider than a panel.
        unsafe {
            std::ptr::copy_nonoverlapping(from, whole.as_mut_ptr(), count);
            L::load_f16(whole.as_ptr())
        }
    }
}

#[cfg(target_arch = "x86_64")]
type Best = std::arch::x86_64::__m256;
#[cfg(target_arch = "aarch64")]
type Best = std::arch::aarch64::float32x4_t;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c"))]
unsafe fn run_floats<S: Stored, const ROWS: usize, const WIDE: usize>(tile: Tile, b: Steps<S>) {
    // SAFETY: as the caller promises.
    unsafe { floats::<Best, S, ROWS, WIDE>(tile, b) }
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c"))]
unsafe fn run_codes<const MINIMA: bool, const ROWS: usize, const WIDE: usize>(
    tile: Tile,
    panel: &CodePanel,
    start: usize,
) {
    // SAFETY: as the caller promises.
    unsafe { codes::<Best, MINIMA, ROWS, WIDE>(tile, panel, start) }
}

/// The right operand in f32 or halves: `cols` elements a step.
#[derive(Clone, Copy)]
struct Steps<S> {
    first: *const S,
    stride: usize,
    cols: usize,
}

/// In strips of `WIDE` registers of lanes, whose sums stay in registers; what is narrower is done register by register.
///
/// # Safety
/// The processor must have the instruction set; A, B and C must be as large as the tile says.
#[inline(always)]
unsafe fn floats<L: Lanes, S: Stored, const ROWS: usize, const WIDE: usize>(tile: Tile, b: Steps<S>) {
    let mut lane = 0;
    // SAFETY: strips lie inside of the columns, and all pointers stay inside of what the caller vouches for.
    unsafe {
        while lane + WIDE * L::WIDTH <= b.cols {
            strip::<L, S, ROWS, WIDE>(tile, b, lane);
            lane += WIDE * L::WIDTH;
        }
        while lane + L::WIDTH <= b.cols {
            strip::<L, S, ROWS, 1>(tile, b, lane);
            lane += L::WIDTH;
        }
        if lane < b.cols {
            edge::<L, S, ROWS>(tile, b, lane);
        }
    }
}

/// # Safety
/// As [`floats`].
#[inline(always)]
unsafe fn strip<L: Lanes, S: Stored, const ROWS: usize, const WIDE: usize>(tile: Tile, b: Steps<S>, lane: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut sums = tile.begin::<L, ROWS, WIDE>(lane);
        let (mut a, mut from) = (tile.a, b.first.add(lane));
        for _ in 0..tile.steps {
            for j in 0..WIDE {
                let weight = S::load::<L>(from.add(j * L::WIDTH));
                for (i, row) in sums.iter_mut().enumerate() {
                    row[j] = row[j].plus_product(L::splat(*a.add(i)), weight);
                }
            }
            a = a.add(ROWS);
            from = from.wrapping_add(b.stride);
        }
        tile.end(lane, sums);
    }
}

/// The columns that are no whole register.
///
/// # Safety
/// As [`floats`].
#[inline(always)]
unsafe fn edge<L: Lanes, S: Stored, const ROWS: usize>(tile: Tile, b: Steps<S>, lane: usize) {
    let cols = b.cols - lane;
    // SAFETY: as the caller promises; nothing beyond the columns is read or written.
    unsafe {
        let mut sums = [L::splat(0.0); ROWS];
        if tile.add {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = L::load_first(tile.c.add(i * tile.stride + lane), cols);
            }
        }
        let (mut a, mut from) = (tile.a, b.first.add(lane));
        for _ in 0..tile.steps {
            let weight = S::load_first::<L>(from, cols);
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = sum.plus_product(L::splat(*a.add(i)), weight);
            }
            a = a.add(ROWS);
            from = from.wrapping_add(b.stride);
        }
        for (i, &sum) in sums.iter().enumerate() {
            sum.store_first(tile.c.add(i * tile.stride + lane), cols);
        }
    }
}

/// As [`floats`], of codes from step `start` of their panel.
///
/// # Safety
/// As [`floats`]; steps and their start are multiples of 4.
#[inline(always)]
unsafe fn codes<L: Lanes, const MINIMA: bool, const ROWS: usize, const WIDE: usize>(
    tile: Tile,
    panel: &CodePanel,
    start: usize,
) {
    for lane in (0..NR).step_by(WIDE * L::WIDTH) {
        // SAFETY: strips are whole, and all pointers stay inside of what the caller vouches for.
        unsafe {
            let mut sums = tile.begin::<L, ROWS, WIDE>(lane);
            let mut a = tile.a;
            let mut step = start;
            while step < start + tile.steps {
                let factors = panel.factors.as_ptr().add(step / GROUP * NR + lane);
                let minima = factors.add(GROUPS * NR);
                let mut scales = [L::splat(0.0); WIDE];
                for (j, scale) in scales.iter_mut().enumerate() {
                    *scale = L::load(factors.add(j * L::WIDTH));
                }
                let end = (step + GROUP).min(start + tile.steps);
                while step < end {
                    let words = panel.words.as_ptr().add(step / 4 * NR + lane);
                    macro_rules! one {
                        ($byte:literal) => {
                            for j in 0..WIDE {
                                let code = L::byte::<$byte>(L::load_words(words.add(j * L::WIDTH)));
                                let mut weight = code.times(scales[j]);
                                if MINIMA {
                                    weight = weight.less(L::load(minima.add(j * L::WIDTH)));
                                }
                                for (i, row) in sums.iter_mut().enumerate() {
                                    row[j] = row[j].plus_product(L::splat(*a.add(i)), weight);
                                }
                            }
                            a = a.add(ROWS);
                        };
                    }
                    one!(0);
                    one!(1);
                    one!(2);
                    one!(3);
                    step += 4;
                }
            }
            tile.end(lane, sums);
        }
    }
}
