//! Transposition of small tiles, for products with a packed matrix the other way round.

use super::kernel::NR;
#[cfg(target_arch = "x86_64")]
use crate::cpu::isa::{Isa, isa};

/// Elements of a tile of 32 x 32.
pub(super) const TILE: usize = NR * NR;

/// `to[j][i] = from[i][j]`, both 32 x 32, row-major; the rows of `from` are `stride` elements apart.
pub(super) fn transpose(from: &[f32], stride: usize, to: &mut [f32]) {
    assert!(from.len() >= (NR - 1) * stride + NR && to.len() >= TILE, "two tiles");
    #[cfg(target_arch = "x86_64")]
    if isa() != Isa::Portable {
        // SAFETY: the processor has AVX2, and both tiles are whole.
        return unsafe { avx(from.as_ptr(), stride, to.as_mut_ptr()) };
    }
    for i in 0..NR {
        for j in 0..NR {
            to[j * NR + i] = from[i * stride + j];
        }
    }
}

/// As [`transpose`] of words of four bytes: 32 rows of 128 bytes, `stride` apart.
pub(super) fn transpose_bytes(from: &[i8], stride: usize, to: &mut [u32]) {
    assert!(from.len() >= (NR - 1) * stride + 4 * NR && stride.is_multiple_of(4) && to.len() >= TILE, "two tiles");
    #[cfg(target_arch = "x86_64")]
    if isa() != Isa::Portable {
        // SAFETY: the processor has AVX2, both tiles are whole, and words are moved unaligned and whatever their bits.
        return unsafe { avx(from.as_ptr().cast(), stride / 4, to.as_mut_ptr().cast()) };
    }
    for (i, row) in from.chunks(stride).take(NR).enumerate() {
        for (j, word) in row.as_chunks::<4>().0.iter().take(NR).enumerate() {
            to[j * NR + i] = u32::from_le_bytes(word.map(i8::cast_unsigned));
        }
    }
}

/// Both are 32 x 32 elements of 32 bits; the rows of `from` are `stride` elements apart.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx(from: *const f32, stride: usize, to: *mut f32) {
    use std::arch::x86_64::*;
    // SAFETY: the caller gives two such tiles, and i and j stay below 32.
    unsafe {
        for i in (0..NR).step_by(8) {
            for j in (0..NR).step_by(8) {
                let row = |k: usize| _mm256_loadu_ps(from.add((i + k) * stride + j));
                let (r0, r1, r2, r3) = (row(0), row(1), row(2), row(3));
                let (r4, r5, r6, r7) = (row(4), row(5), row(6), row(7));
                let (a0, a1) = (_mm256_unpacklo_ps(r0, r1), _mm256_unpackhi_ps(r0, r1));
                let (a2, a3) = (_mm256_unpacklo_ps(r2, r3), _mm256_unpackhi_ps(r2, r3));
                let (a4, a5) = (_mm256_unpacklo_ps(r4, r5), _mm256_unpackhi_ps(r4, r5));
                let (a6, a7) = (_mm256_unpacklo_ps(r6, r7), _mm256_unpackhi_ps(r6, r7));
                let (b0, b1) = (_mm256_shuffle_ps::<0x44>(a0, a2), _mm256_shuffle_ps::<0xee>(a0, a2));
                let (b2, b3) = (_mm256_shuffle_ps::<0x44>(a1, a3), _mm256_shuffle_ps::<0xee>(a1, a3));
                let (b4, b5) = (_mm256_shuffle_ps::<0x44>(a4, a6), _mm256_shuffle_ps::<0xee>(a4, a6));
                let (b6, b7) = (_mm256_shuffle_ps::<0x44>(a5, a7), _mm256_shuffle_ps::<0xee>(a5, a7));
                let out = |k: usize, row: __m256| _mm256_storeu_ps(to.add((j + k) * NR + i), row);
                out(0, _mm256_permute2f128_ps::<0x20>(b0, b4));
                out(1, _mm256_permute2f128_ps::<0x20>(b1, b5));
                out(2, _mm256_permute2f128_ps::<0x20>(b2, b6));
                out(3, _mm256_permute2f128_ps::<0x20>(b3, b7));
                out(4, _mm256_permute2f128_ps::<0x31>(b0, b4));
                out(5, _mm256_permute2f128_ps::<0x31>(b1, b5));
                out(6, _mm256_permute2f128_ps::<0x31>(b2, b6));
                out(7, _mm256_permute2f128_ps::<0x31>(b3, b7));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        let from: Vec<f32> = (0..TILE).map(|i| i as f32).collect();
        let mut to = vec![0.0; TILE];
        transpose(&from, NR, &mut to);
        for i in 0..NR {
            for j in 0..NR {
                assert_eq!(to[j * NR + i], from[i * NR + j]);
            }
        }
    }

    #[test]
    fn words_of_rows_become_columns() {
        let stride = 4 * NR + 8;
        let from: Vec<i8> = (0..NR * stride).map(|i| (i * 7 % 251) as u8 as i8).collect();
        let mut to = vec![0; TILE];
        transpose_bytes(&from, stride, &mut to);
        for i in 0..NR {
            for j in 0..NR {
                let bytes: [u8; 4] = std::array::from_fn(|b| from[i * stride + 4 * j + b] as u8);
                assert_eq!(to[j * NR + i], u32::from_le_bytes(bytes));
            }
        }
    }
}
