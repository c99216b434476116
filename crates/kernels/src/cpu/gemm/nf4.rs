//! Weights in 4-bit codes, laid out for the kernel and dequantised a panel at a time.

use rayon::prelude::*;

use super::kernel::NR;
use crate::{
    BlockScales, CODEBOOK, Nf4Tensor,
    cpu::isa::{Isa, isa},
};

/// Bytes of one step of a panel.
const STEP: usize = NR / 2;

/// Codes in panels of 32 columns; the scales in the order of the weight's own blocks. Byte `b` of a step holds the code of
/// column `b` in its low half and that of column `b + 16` in its high half.
#[derive(Clone, Debug)]
pub struct PackedNf4 {
    codes: Vec<u8>,
    parts: Vec<Part>,
    inp: usize,
}

/// The rows of one stacked weight.
#[derive(Clone, Debug)]
struct Part {
    first: usize,
    rows: usize,
    block: usize,
    scales: BlockScales,
}

/// Where the blocks of one column lie.
#[derive(Clone, Copy)]
struct Lane<'a> {
    scales: &'a BlockScales,
    block: usize,
    /// Index of the column's first element in its weight.
    base: usize,
}

impl PackedNf4 {
    /// Packs weights `[out, inp]` stacked by output.
    pub(super) fn new(weights: &[&Nf4Tensor], inp: usize) -> Self {
        let mut parts: Vec<Part> = vec![];
        let mut first = 0;
        for weight in weights {
            let rows = weight.len / inp.max(1);
            parts.push(Part { first, rows, block: weight.block, scales: weight.scales.clone() });
            first += rows;
        }
        let mut codes = vec![0u8; first.div_ceil(NR) * inp * STEP];
        codes.par_chunks_exact_mut((inp * STEP).max(1)).enumerate().for_each(|(panel, to)| {
            for lane in 0..NR.min(first - panel * NR) {
                let row = panel * NR + lane;
                let part = parts.iter().rposition(|part| part.first <= row).unwrap_or(0);
                let (weight, base) = (weights[part], (row - parts[part].first) * inp);
                let (byte, shift) = (lane % STEP, if lane < STEP { 0 } else { 4 });
                for i in 0..inp {
                    to[i * STEP + byte] |= weight.code(base + i) << shift;
                }
            }
        });
        Self { codes, parts, inp }
    }

    pub(super) fn bytes(&self) -> usize {
        self.codes.len() + self.parts.iter().map(|part| part.scales.bytes()).sum::<usize>()
    }

    fn lane(&self, column: usize) -> Option<Lane<'_>> {
        let part = self.parts.iter().find(|part| (part.first..part.first + part.rows).contains(&column))?;
        Some(Lane { scales: &part.scales, block: part.block, base: (column - part.first) * self.inp })
    }

    /// `k` steps of a panel from step `start`.
    pub(super) fn panel(&self, panel: usize, start: usize, k: usize, out: &mut [f32]) {
        let lanes: [Option<Lane<'_>>; NR] = std::array::from_fn(|lane| self.lane(panel * NR + lane));
        let mut scales = [0f32; NR];
        let mut step = start;
        while step < start + k {
            // All lanes have one scale each up to the nearest end of a block.
            let mut end = start + k;
            for (scale, lane) in scales.iter_mut().zip(&lanes) {
                let Some(lane) = lane else { continue };
                let at = lane.base + step;
                *scale = lane.scales.at(at / lane.block);
                end = end.min(step + lane.block - at % lane.block);
            }
            let codes = &self.codes[(panel * self.inp + step) * STEP..(panel * self.inp + end) * STEP];
            dequantise(codes, &scales, &mut out[(step - start) * NR..(end - start) * NR]);
            step = end;
        }
    }

    /// One element: column `column` at step `step`.
    pub(super) fn at(&self, column: usize, step: usize) -> f32 {
        let Some(lane) = self.lane(column) else { return 0.0 };
        let byte = self.codes[(column / NR * self.inp + step) * STEP + column % STEP];
        let code = if column % NR < STEP { byte & 15 } else { byte >> 4 };
        CODEBOOK[code as usize] * lane.scales.at((lane.base + step) / lane.block)
    }
}

/// Steps of a panel under one scale a column.
fn dequantise(codes: &[u8], scales: &[f32; NR], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    match isa() {
        // SAFETY: `isa` says that the processor has these instructions; the slices hold as many steps.
        Isa::Avx512 => return unsafe { avx512(codes, scales, out) },
        // SAFETY: as above.
        Isa::Avx2 => return unsafe { avx2(codes, scales, out) },
        Isa::Portable => {}
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (isa, Isa::Portable);
    portable(codes, scales, out);
}

fn portable(codes: &[u8], scales: &[f32; NR], out: &mut [f32]) {
    for (codes, out) in codes.chunks_exact(STEP).zip(out.chunks_exact_mut(NR)) {
        for (b, &code) in codes.iter().enumerate() {
            out[b] = CODEBOOK[(code & 15) as usize] * scales[b];
            out[b + STEP] = CODEBOOK[(code >> 4) as usize] * scales[b + STEP];
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512(codes: &[u8], scales: &[f32; NR], out: &mut [f32]) {
    use std::arch::x86_64::*;
    // SAFETY: every access lies inside of the slices, whose lengths the loop follows.
    unsafe {
        let table = _mm512_loadu_ps(CODEBOOK.as_ptr());
        let (low, high) = (_mm512_loadu_ps(scales.as_ptr()), _mm512_loadu_ps(scales.as_ptr().add(STEP)));
        for (codes, out) in codes.chunks_exact(STEP).zip(out.chunks_exact_mut(NR)) {
            let wide = _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.as_ptr().cast()));
            // The permutation looks at the low four bits of an index only.
            let first = _mm512_permutexvar_ps(wide, table);
            let second = _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(wide), table);
            _mm512_storeu_ps(out.as_mut_ptr(), _mm512_mul_ps(first, low));
            _mm512_storeu_ps(out.as_mut_ptr().add(STEP), _mm512_mul_ps(second, high));
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2(codes: &[u8], scales: &[f32; NR], out: &mut [f32]) {
    use std::arch::x86_64::*;
    // SAFETY: every access lies inside of the slices, whose lengths the loop follows.
    unsafe {
        let (small, large) = (_mm256_loadu_ps(CODEBOOK.as_ptr()), _mm256_loadu_ps(CODEBOOK.as_ptr().add(8)));
        // Looks up eight codes: bit 3 chooses the half of the table.
        let look = |codes: __m256i| {
            let (a, b) = (_mm256_permutevar8x32_ps(small, codes), _mm256_permutevar8x32_ps(large, codes));
            _mm256_blendv_ps(a, b, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes)))
        };
        for (codes, out) in codes.chunks_exact(STEP).zip(out.chunks_exact_mut(NR)) {
            for half in 0..2 {
                let at = half * 8;
                let wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(codes.as_ptr().add(at).cast()));
                let first = _mm256_mul_ps(look(wide), _mm256_loadu_ps(scales.as_ptr().add(at)));
                let second = look(_mm256_srli_epi32::<4>(wide));
                let second = _mm256_mul_ps(second, _mm256_loadu_ps(scales.as_ptr().add(STEP + at)));
                _mm256_storeu_ps(out.as_mut_ptr().add(at), first);
                _mm256_storeu_ps(out.as_mut_ptr().add(STEP + at), second);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn instruction_sets_agree() {
        let codes: Vec<u8> = (0..=255).collect();
        let scales: [f32; NR] = std::array::from_fn(|i| 0.3 + i as f32);
        let (mut expected, mut found) = (vec![0.0; 512], vec![0.0; 512]);
        portable(&codes, &scales, &mut expected);
        for isa in crate::cpu::isa::available() {
            match isa {
                // SAFETY: the processor has the instructions, and the slices hold as many steps.
                Isa::Avx512 => unsafe { avx512(&codes, &scales, &mut found) },
                // SAFETY: as above.
                Isa::Avx2 => unsafe { avx2(&codes, &scales, &mut found) },
                Isa::Portable => continue,
            }
            assert_eq!(found, expected, "{isa:?}");
        }
    }
}
