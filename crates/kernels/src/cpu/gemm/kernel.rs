//! The register-tiled inner kernel: a tile of at most [`MR`] x [`NR`] elements of C.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::lanes::Lanes;
use crate::cpu::isa::{Isa, isa};

/// Rows of a tile: with two 16-lane registers a row, 28 of the 32 registers of AVX-512 hold the tile.
pub(super) const MR: usize = 14;
/// Columns of a tile.
pub(in crate::cpu) const NR: usize = 32;

/// What becomes of what is in a tile of C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// Nothing: it is overwritten.
    Zero,
    /// The chain of every element begins with it.
    Loaded,
    /// The chain begins with 0, and its end is added to it.
    Added,
}

/// Arguments: steps, packed A, packed B, C, stride of C, what becomes of what is in C.
type Kernel = unsafe fn(usize, *const f32, *const f32, *mut f32, usize, Start);

/// One kernel for each number of rows, for one instruction set.
#[derive(Clone, Copy)]
pub(super) struct Microkernel {
    by_rows: &'static [Kernel; MR],
}

macro_rules! by_rows {
    ($kernel:ident) => {
        [
            $kernel::<1>,
            $kernel::<2>,
            $kernel::<3>,
            $kernel::<4>,
            $kernel::<5>,
            $kernel::<6>,
            $kernel::<7>,
            $kernel::<8>,
            $kernel::<9>,
            $kernel::<10>,
            $kernel::<11>,
            $kernel::<12>,
            $kernel::<13>,
            $kernel::<14>,
        ]
    };
}

impl Microkernel {
    /// The kernel for this processor.
    pub(super) fn best() -> Self {
        Self::of(isa())
    }

    /// The kernel for an instruction set that this processor must have.
    pub(super) fn of(isa: Isa) -> Self {
        static PORTABLE: [Kernel; MR] = by_rows!(portable);
        #[cfg(target_arch = "x86_64")]
        {
            static AVX512: [Kernel; MR] = by_rows!(avx512);
            static AVX2: [Kernel; MR] = by_rows!(avx2);
            match isa {
                Isa::Avx512 => return Self { by_rows: &AVX512 },
                Isa::Avx2 => return Self { by_rows: &AVX2 },
                Isa::Portable => {}
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            static NEON: [Kernel; MR] = by_rows!(neon);
            if isa == Isa::Neon {
                return Self { by_rows: &NEON };
            }
        }
        let _ = isa;
        Self { by_rows: &PORTABLE }
    }

    /// `C[rows, 32] (+)= A[rows, k] · B[k, 32]`.
    ///
    /// # Safety
    /// `a` must hold `k` steps of `rows` elements, `b` `k` steps of 32, and `c` must be writable for `rows` rows of 32
    /// columns at stride `ldc`. The processor must have the instruction set.
    #[allow(clippy::too_many_arguments, reason = "the innermost call takes everything in registers")]
    #[inline]
    pub(super) unsafe fn run(
        self,
        rows: usize,
        k: usize,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
        ldc: usize,
        start: Start,
    ) {
        // SAFETY: as the caller promises.
        unsafe { self.by_rows[rows - 1](k, a, b, c, ldc, start) }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const ROWS: usize>(k: usize, a: *const f32, b: *const f32, c: *mut f32, ldc: usize, start: Start) {
    use std::arch::x86_64::*;
    // SAFETY: all pointers stay inside of what the caller vouches for.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); 2]; ROWS];
        if start == Start::Loaded {
            for (i, row) in acc.iter_mut().enumerate() {
                *row = [_mm512_loadu_ps(c.add(i * ldc)), _mm512_loadu_ps(c.add(i * ldc + 16))];
            }
        }
        let (mut a, mut b) = (a, b);
        for _ in 0..k {
            let (b0, b1) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
            for (i, row) in acc.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*a.add(i));
                row[0] = _mm512_fmadd_ps(x, b0, row[0]);
                row[1] = _mm512_fmadd_ps(x, b1, row[1]);
            }
            a = a.add(ROWS);
            b = b.add(NR);
        }
        if start == Start::Added {
            for (i, row) in acc.iter_mut().enumerate() {
                row[0] = _mm512_add_ps(_mm512_loadu_ps(c.add(i * ldc)), row[0]);
                row[1] = _mm512_add_ps(_mm512_loadu_ps(c.add(i * ldc + 16)), row[1]);
            }
        }
        for (i, row) in acc.iter().enumerate() {
            _mm512_storeu_ps(c.add(i * ldc), row[0]);
            _mm512_storeu_ps(c.add(i * ldc + 16), row[1]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<const ROWS: usize>(k: usize, a: *const f32, b: *const f32, c: *mut f32, ldc: usize, start: Start) {
    // SAFETY: as the caller promises.
    unsafe { tile::<std::arch::x86_64::__m256, ROWS, 2>(k, a, b, c, ldc, start) }
}

#[cfg(target_arch = "aarch64")]
unsafe fn neon<const ROWS: usize>(k: usize, a: *const f32, b: *const f32, c: *mut f32, ldc: usize, start: Start) {
    // SAFETY: as the caller promises.
    unsafe { tile::<std::arch::aarch64::float32x4_t, ROWS, 4>(k, a, b, c, ldc, start) }
}

/// In strips of 6 rows and `WIDE` registers, 16 columns: with 16 registers of 8 lanes, or 32 of 4, the sums of a strip stay
/// in them.
///
/// # Safety
/// As [`Microkernel::run`].
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
unsafe fn tile<L: Lanes, const ROWS: usize, const WIDE: usize>(
    k: usize,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    ldc: usize,
    start: Start,
) {
    // SAFETY: each strip lies inside of the tile.
    unsafe {
        for col in (0..NR).step_by(WIDE * L::WIDTH) {
            let mut row = 0;
            while row < ROWS {
                let (a, b, c) = (a.add(row), b.add(col), c.add(row * ldc + col));
                match ROWS - row {
                    1 => strip::<L, 1, WIDE>(k, (a, ROWS), b, (c, ldc), start),
                    2 => strip::<L, 2, WIDE>(k, (a, ROWS), b, (c, ldc), start),
                    3 => strip::<L, 3, WIDE>(k, (a, ROWS), b, (c, ldc), start),
                    4 => strip::<L, 4, WIDE>(k, (a, ROWS), b, (c, ldc), start),
                    5 => strip::<L, 5, WIDE>(k, (a, ROWS), b, (c, ldc), start),
                    _ => strip::<L, 6, WIDE>(k, (a, ROWS), b, (c, ldc), start),
                }
                row += 6;
            }
        }
    }
}

/// # Safety
/// As for the whole tile.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
unsafe fn strip<L: Lanes, const ROWS: usize, const WIDE: usize>(
    k: usize,
    (a, a_stride): (*const f32, usize),
    b: *const f32,
    (c, ldc): (*mut f32, usize),
    start: Start,
) {
    // SAFETY: as for the whole tile.
    unsafe {
        let mut acc = [[L::splat(0.0); WIDE]; ROWS];
        if start == Start::Loaded {
            for (i, row) in acc.iter_mut().enumerate() {
                for (j, sum) in row.iter_mut().enumerate() {
                    *sum = L::load(c.add(i * ldc + j * L::WIDTH));
                }
            }
        }
        let (mut a, mut b) = (a, b);
        for _ in 0..k {
            let mut step = [L::splat(0.0); WIDE];
            for (j, y) in step.iter_mut().enumerate() {
                *y = L::load(b.add(j * L::WIDTH));
            }
            for (i, row) in acc.iter_mut().enumerate() {
                let x = L::splat(*a.add(i));
                for (sum, &y) in row.iter_mut().zip(&step) {
                    *sum = sum.plus_product(x, y);
                }
            }
            a = a.add(a_stride);
            b = b.add(NR);
        }
        for (i, row) in acc.iter().enumerate() {
            for (j, &sum) in row.iter().enumerate() {
                let to = c.add(i * ldc + j * L::WIDTH);
                let sum = if start == Start::Added { L::load(to).plus(sum) } else { sum };
                sum.store(to);
            }
        }
    }
}

/// Fused where the target always has it; a library call for each element would be far too slow elsewhere.
#[inline(always)]
pub(super) fn multiply_add(x: f32, y: f32, z: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) { x.mul_add(y, z) } else { x * y + z }
}

unsafe fn portable<const ROWS: usize>(k: usize, a: *const f32, b: *const f32, c: *mut f32, ldc: usize, start: Start) {
    // SAFETY: all pointers stay inside of what the caller vouches for.
    unsafe {
        for i in 0..ROWS {
            let mut acc = [0f32; NR];
            let row = c.add(i * ldc);
            if start == Start::Loaded {
                std::ptr::copy_nonoverlapping(row, acc.as_mut_ptr(), NR);
            }
            for step in 0..k {
                let x = *a.add(step * ROWS + i);
                for (j, y) in acc.iter_mut().enumerate() {
                    *y = multiply_add(x, *b.add(step * NR + j), *y);
                }
            }
            if start == Start::Added {
                for (j, y) in acc.iter_mut().enumerate() {
                    *y += *row.add(j);
                }
            }
            std::ptr::copy_nonoverlapping(acc.as_ptr(), row, NR);
        }
    }
}
