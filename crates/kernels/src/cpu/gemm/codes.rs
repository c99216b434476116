//! A panel of weights in codes of eight bits, with scales and minima for groups of steps: what products widen.

use super::{
    KC,
    kernel::{NR, Start},
    transpose::{TILE, transpose, transpose_bytes},
};
use crate::{
    cpu::isa::{Isa, isa, multiversion},
    gguf::{Factors, GROUP, LARGE},
};

/// Words of a group of steps.
const WORDS: usize = GROUP / 4 * NR;
/// Groups of a panel.
const GROUPS: usize = KC / GROUP;
const _: () = assert!(KC == LARGE && 2 * GROUPS == NR, "the factors of a panel are a tile");

/// Up to [`KC`] steps of a panel. Element `(step, lane)` is `code · scale − minimum` of its group.
pub(super) struct CodePanel {
    /// Codes of four steps a word, the first in the lowest byte: `[KC / 4, NR]`.
    words: [u32; KC / 4 * NR],
    /// Scales of all groups, then their minima: `[2 * GROUPS, NR]`.
    factors: [f32; TILE],
    has_minima: bool,
}

impl Default for CodePanel {
    fn default() -> Self {
        Self { words: [0; KC / 4 * NR], factors: [0.0; TILE], has_minima: false }
    }
}

/// What panels are made in; kept from one to the next.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) lanes: Lanes,
    pub(super) panel: CodePanel,
    /// Widened weights by lane, `[NR, KC]`; empty until it is needed.
    pub(super) rows: Vec<f32>,
}

/// A panel by lane, as weights are stored: what a panel is made from.
pub(super) struct Lanes {
    pub(super) codes: [[i8; KC]; NR],
    pub(super) factors: [Factors; NR],
}

impl Default for Lanes {
    fn default() -> Self {
        Self { codes: [[0; KC]; NR], factors: [[0.0; NR]; NR] }
    }
}

impl CodePanel {
    /// Takes all steps of all lanes.
    pub(super) fn fill(&mut self, lanes: &Lanes, has_minima: bool) {
        self.has_minima = has_minima;
        for (at, words) in self.words.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
            transpose_bytes(&lanes.codes.as_flattened()[at * 4 * NR..], KC, words);
        }
        transpose(lanes.factors.as_flattened(), NR, &mut self.factors);
    }

    /// Steps from `start`, a multiple of a group, in f32: `[steps, NR]`, as many as `out` has.
    pub(super) fn widen(&self, start: usize, out: &mut [f32]) {
        let scales = &self.factors[start / GROUP * NR..];
        let minima = self.has_minima.then(|| &scales[GROUPS * NR..]);
        widen(&self.words[start / 4 * NR..], scales, minima, out);
    }

    /// `C[rows, 32] (+)= A[rows, k] · panel[k, 32]` from step `start`, a multiple of a group, as the kernel for widened
    /// panels computes it.
    ///
    /// # Safety
    /// [`few`] must say that it can, and `c` must be writable for `rows` rows of 32 columns at stride `ldc`.
    #[cfg(target_arch = "x86_64")]
    pub(super) unsafe fn multiply(
        &self,
        (rows, start, k): (usize, usize, usize),
        a: &[f32],
        (c, ldc): (*mut f32, usize),
        how: Start,
    ) {
        assert!(a.len() >= k * rows && start + k <= KC && start.is_multiple_of(GROUP), "steps of a panel");
        let run = match (rows, self.has_minima) {
            (1, false) => avx2::<1, 4, false>,
            (1, true) => avx2::<1, 4, true>,
            (2, false) => avx2::<2, 4, false>,
            (2, true) => avx2::<2, 4, true>,
            (3, false) => avx2::<3, 2, false>,
            (3, true) => avx2::<3, 2, true>,
            (_, false) => avx2::<FEW, 2, false>,
            (_, true) => avx2::<FEW, 2, true>,
        };
        // SAFETY: the processor has AVX2, A and the panel hold k steps from the start, and C is as the caller promises.
        unsafe { run(self, (start, k), a.as_ptr(), c, ldc, how) }
    }

    /// Never called: [`few`] says no.
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) unsafe fn multiply(&self, _: (usize, usize, usize), _: &[f32], _: (*mut f32, usize), _: Start) {}
}

/// Rows of the left operand up to which codes are multiplied without a widened panel between.
const FEW: usize = 4;

/// Whether [`CodePanel::multiply`] can multiply so many rows and steps.
pub(super) fn few(rows: usize, k: usize) -> bool {
    rows <= FEW && k.is_multiple_of(4) && cfg!(target_arch = "x86_64") && isa() != Isa::Portable
}

multiversion! {
    fn widen(words: &[u32], scales: &[f32], minima: Option<&[f32]>, out: &mut [f32]) {
        for (group, (words, out)) in words.chunks(WORDS).zip(out.chunks_mut(GROUP * NR)).enumerate() {
            let lanes = group * NR..(group + 1) * NR;
            let scales = &scales[lanes.clone()];
            for (words, out) in words.as_chunks::<NR>().0.iter().zip(out.chunks_mut(4 * NR)) {
                for (at, out) in out.as_chunks_mut::<NR>().0.iter_mut().enumerate() {
                    for ((y, word), scale) in out.iter_mut().zip(words).zip(scales) {
                        let code = word.cast_signed() << (24 - 8 * at) >> 24;
                        *y = code as f32 * scale;
                    }
                    if let Some(minima) = minima {
                        for (y, minimum) in out.iter_mut().zip(&minima[lanes.clone()]) {
                            *y -= minimum;
                        }
                    }
                }
            }
        }
    }
}

/// In strips of `WIDE` registers of lanes, whose sums stay in registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const ROWS: usize, const WIDE: usize, const MINIMA: bool>(
    panel: &CodePanel,
    (start, k): (usize, usize),
    a: *const f32,
    c: *mut f32,
    ldc: usize,
    how: Start,
) {
    use std::arch::x86_64::*;
    for lane in (0..NR).step_by(WIDE * 8) {
        // SAFETY: lanes from `lane` are whole strips, steps lie inside of the panel, and A and C are as the caller promises.
        unsafe {
            let (mut a, c) = (a, c.add(lane));
            let mut acc = [[_mm256_setzero_ps(); WIDE]; ROWS];
            if how == Start::Loaded {
                for (i, row) in acc.iter_mut().enumerate() {
                    for (j, sum) in row.iter_mut().enumerate() {
                        *sum = _mm256_loadu_ps(c.add(i * ldc + 8 * j));
                    }
                }
            }
            let mut step = start;
            while step < start + k {
                let scales = panel.factors.as_ptr().add(step / GROUP * NR + lane);
                let minima = scales.add(GROUPS * NR);
                let end = (step + GROUP).min(start + k);
                while step < end {
                    let words = panel.words.as_ptr().add(step / 4 * NR + lane);
                    // Four steps: the byte of each goes to the top and down again with its sign.
                    macro_rules! one {
                        ($left:literal) => {
                            for j in 0..WIDE {
                                let word = _mm256_loadu_si256(words.add(8 * j).cast());
                                let code = _mm256_srai_epi32::<24>(_mm256_slli_epi32::<$left>(word));
                                let scale = _mm256_loadu_ps(scales.add(8 * j));
                                let mut value = _mm256_mul_ps(_mm256_cvtepi32_ps(code), scale);
                                if MINIMA {
                                    value = _mm256_sub_ps(value, _mm256_loadu_ps(minima.add(8 * j)));
                                }
                                for (i, row) in acc.iter_mut().enumerate() {
                                    row[j] = _mm256_fmadd_ps(_mm256_set1_ps(*a.add(i)), value, row[j]);
                                }
                            }
                            a = a.add(ROWS);
                        };
                    }
                    one!(24);
                    one!(16);
                    one!(8);
                    one!(0);
                    step += 4;
                }
            }
            for (i, row) in acc.iter().enumerate() {
                for (j, &sum) in row.iter().enumerate() {
                    let to = c.add(i * ldc + 8 * j);
                    let sum = if how == Start::Added { _mm256_add_ps(_mm256_loadu_ps(to), sum) } else { sum };
                    _mm256_storeu_ps(to, sum);
                }
            }
        }
    }
}
