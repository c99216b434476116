//! What blocks stand for (ggml-quants.c of llama.cpp): an element is `code · scale − minimum`.

use super::BlockType;
use crate::cpu::isa::multiversion;

/// Elements of a small block, and of one of the K types.
pub(super) const SMALL: usize = 32;
pub(crate) const LARGE: usize = 256;
/// Elements that share a scale and a minimum, at least.
pub(crate) const GROUP: usize = 16;

/// Groups of [`LARGE`] elements.
const GROUPS: usize = LARGE / GROUP;

/// Scales of the groups of [`LARGE`] elements, then their minima, which are written if the type has them ([`has_minima`]).
pub(crate) type Factors = [f32; 2 * GROUPS];

/// Whether anything is subtracted from the products of codes and scales.
pub(crate) fn has_minima(kind: BlockType) -> bool {
    use BlockType::{Q2K, Q4_1, Q4K, Q5_1, Q5K};
    matches!(kind, Q4_1 | Q5_1 | Q2K | Q4K | Q5K)
}

multiversion! {
    /// Codes, scales and minima of whole quantised blocks: of [`LARGE`] elements or fewer.
    pub(crate) fn decode(kind: BlockType, blocks: &[u8], codes: &mut [i8; LARGE], factors: &mut Factors) {
        macro_rules! small {
            // No closure, which might not be compiled for the instruction set.
            ($bytes:literal, |$block:ident, $to:ident| $codes:expr, $($minimum:literal)?) => {{
                let mut scales = [0; LARGE / SMALL];
                $(let mut minima = [(0, $minimum).0; LARGE / SMALL];)?
                let blocks = blocks.as_chunks::<$bytes>().0.iter().zip(codes.as_chunks_mut::<SMALL>().0);
                for (i, ($block, $to)) in blocks.enumerate().take(LARGE / SMALL) {
                    $codes;
                    scales[i] = bits($block, 0);
                    $(minima[i] = bits($block, $minimum);)?
                }
                spread(&scales, 1.0, &mut factors[..GROUPS]);
                $({ let _ = $minimum; spread(&minima, -1.0, &mut factors[GROUPS..]); })?
            }};
        }
        macro_rules! large {
            ($bytes:literal, $decode:ident) => {
                if let Some(block) = blocks.as_chunks::<$bytes>().0.first() {
                    $decode(block, codes, factors);
                }
            };
        }
        match kind {
            // They have no codes.
            BlockType::F32 | BlockType::F16 | BlockType::BF16 => {}
            BlockType::Q4_0 => small!(18, |b, y| nibbles(bytes(b, 2), 8, y),),
            BlockType::Q4_1 => small!(20, |b, y| nibbles(bytes(b, 4), 0, y), 2),
            BlockType::Q5_0 => small!(22, |b, y| fives(bytes(b, 6), bytes(b, 2), 16, y),),
            BlockType::Q5_1 => small!(24, |b, y| fives(bytes(b, 8), bytes(b, 4), 0, y), 2),
            BlockType::Q8_0 => small!(34, |b, y| signed(&b[2..], y),),
            BlockType::Q8_1 => small!(36, |b, y| signed(&b[4..], y),),
            BlockType::Q2K => large!(84, q2_k),
            BlockType::Q3K => large!(110, q3_k),
            BlockType::Q4K => large!(144, q4_k),
            BlockType::Q5K => large!(176, q5_k),
            BlockType::Q6K => large!(210, q6_k),
            BlockType::Q8K => large!(292, q8_k),
            BlockType::IQ4_NL => small!(18, |b, y| looked_up(bytes(b, 2), y),),
            BlockType::IQ4_XS => large!(136, iq4_xs),
        }
    }
}

/// The half-precision number of these bits. Without branches, and without arithmetic on subnormal numbers, which is slow on
/// some processors.
#[inline(always)]
fn widened(bits: u16) -> f32 {
    const EXPONENT: u32 = 0x7c00 << 13;
    let bits = u32::from(bits);
    let (magnitude, sign) = ((bits & 0x7fff) << 13, (bits & 0x8000) << 16);
    let exponent = magnitude & EXPONENT;
    // The bias of the exponent is 112 more in f32, and twice so for infinities.
    let normal = magnitude + (112 << 23) + if exponent == EXPONENT { 112 << 23 } else { 0 };
    let subnormal = f32::from_bits(magnitude + (113 << 23)) - f32::from_bits(113 << 23);
    f32::from_bits(if exponent == 0 { subnormal.to_bits() } else { normal } | sign)
}

#[inline(always)]
fn bits<const N: usize>(block: &[u8; N], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// The half-precision number at a byte.
#[inline(always)]
pub(super) fn half<const N: usize>(block: &[u8; N], at: usize) -> f32 {
    widened(bits(block, at))
}

/// A number of each of the small blocks, for its two groups.
#[inline(always)]
fn spread(halves: &[u16; LARGE / SMALL], sign: f32, to: &mut [f32]) {
    let mut wide = [0f32; LARGE / SMALL];
    for (wide, &half) in wide.iter_mut().zip(halves) {
        *wide = widened(half) * sign;
    }
    for (to, &wide) in to.as_chunks_mut().0.iter_mut().zip(&wide) {
        *to = [wide; SMALL / GROUP];
    }
}

/// So many bytes at a place.
#[inline(always)]
fn bytes<const N: usize, const BLOCK: usize>(b: &[u8; BLOCK], at: usize) -> &[u8; N] {
    &b[at..].as_chunks().0[0]
}

/// Bytes are codes.
#[inline(always)]
fn signed(b: &[u8], codes: &mut [i8]) {
    for (code, &b) in codes.iter_mut().zip(b) {
        *code = b.cast_signed();
    }
}

#[inline(always)]
fn q8_k(b: &[u8; 292], codes: &mut [i8; LARGE], f: &mut Factors) {
    signed(&b[4..], codes);
    f[..GROUPS].fill(f32::from_le_bytes(*bytes(b, 0)));
}

/// Two codes a byte, less `zero`: the low halves are the first elements, the high halves the second.
#[inline(always)]
fn nibbles(b: &[u8; SMALL / 2], zero: i8, codes: &mut [i8; SMALL]) {
    let (low, high) = codes.split_at_mut(SMALL / 2);
    for ((low, high), b) in low.iter_mut().zip(high).zip(b) {
        (*low, *high) = ((b & 15) as i8 - zero, (b >> 4) as i8 - zero);
    }
}

/// As [`nibbles`], with the fifth bits of the elements.
#[inline(always)]
fn fives(b: &[u8; SMALL / 2], fifths: &[u8; 4], zero: i8, codes: &mut [i8; SMALL]) {
    nibbles(b, 0, codes);
    for (code, fifth) in codes.iter_mut().zip(spread_bits(fifths)) {
        *code |= fifth & 16;
    }
    for code in codes {
        *code -= zero;
    }
}

/// All bits of a byte where the bit of an element is set.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn spread_bits(bits: &[u8; 4]) -> [i8; SMALL] {
    use std::arch::x86_64::*;
    let mut to = [0; SMALL];
    // SAFETY: every processor of this architecture has SSE2, and 32 bytes are stored to 32.
    unsafe {
        let bits = _mm_cvtsi32_si128(i32::from_le_bytes(*bits));
        let twice = _mm_unpacklo_epi8(bits, bits);
        let four_times = _mm_unpacklo_epi16(twice, twice);
        let each = _mm_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
        for (to, eight_times) in to
            .as_chunks_mut::<16>()
            .0
            .iter_mut()
            .zip([_mm_shuffle_epi32::<0b01_01_00_00>(four_times), _mm_shuffle_epi32::<0b11_11_10_10>(four_times)])
        {
            let set = _mm_cmpeq_epi8(_mm_and_si128(eight_times, each), each);
            _mm_storeu_si128(to.as_mut_ptr().cast(), set);
        }
    }
    to
}

#[cfg(not(target_arch = "x86_64"))]
fn spread_bits(bits: &[u8; 4]) -> [i8; SMALL] {
    let bits = u32::from_le_bytes(*bits);
    std::array::from_fn(|i| -((bits >> i & 1) as i8))
}

/// 16 groups of 16: a byte holds scale and minimum of a group, four bits each. Every 32 bytes hold 128 elements, four times
/// two bits deep.
#[inline(always)]
fn q2_k(b: &[u8; 84], codes: &mut [i8; LARGE], f: &mut Factors) {
    let (d, min) = (half(b, 80), half(b, 82));
    for (group, &both) in bytes::<16, _>(b, 0).iter().enumerate() {
        f[group] = d * f32::from(both & 15);
        f[GROUPS + group] = min * f32::from(both >> 4);
    }
    for (run, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let q = bytes::<32, _>(b, 16 + run / 4 * 32);
        for (code, q) in codes.iter_mut().zip(q) {
            *code = (q >> (run % 4 * 2) & 3) as i8;
        }
    }
}

/// As [`q2_k`] without minima: third bits lie apart and are set where nothing is subtracted; scales have six bits.
#[inline(always)]
fn q3_k(b: &[u8; 110], codes: &mut [i8; LARGE], f: &mut Factors) {
    let (mask, packed, d) = (bytes::<32, _>(b, 0), bytes::<12, _>(b, 96), half(b, 108));
    for group in 0..16 {
        let low = if group < 8 { packed[group] & 15 } else { packed[group - 8] >> 4 };
        let high = packed[8 + group % 4] >> (group / 4 * 2) & 3;
        f[group] = d * f32::from((low | high << 4) as i8 - 32);
    }
    for (run, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let q = bytes::<32, _>(b, 32 + run / 4 * 32);
        for ((code, q), mask) in codes.iter_mut().zip(q).zip(mask) {
            *code = (q >> (run % 4 * 2) & 3 | (mask >> run & 1) << 2) as i8 - 4;
        }
    }
}

/// Scales and minima of the eight groups of [`q4_k`] and [`q5_k`], six bits each.
#[inline(always)]
fn scales_and_minima<const BLOCK: usize>(b: &[u8; BLOCK], f: &mut Factors) {
    let (d, min, packed) = (half(b, 0), half(b, 2), bytes::<12, _>(b, 4));
    for group in 0..8 {
        let (scale, low) = if group < 4 {
            (packed[group] & 63, packed[group + 4] & 63)
        } else {
            let (both, scale, min) = (packed[group + 4], packed[group - 4], packed[group]);
            (both & 15 | scale >> 6 << 4, both >> 4 | min >> 6 << 4)
        };
        let at = 2 * group;
        f[at..at + 2].fill(d * f32::from(scale));
        f[GROUPS + at..GROUPS + at + 2].fill(min * f32::from(low));
    }
}

/// Eight groups of 32; 32 bytes hold two of them, one in the low halves and one in the high.
#[inline(always)]
fn q4_k(b: &[u8; 144], codes: &mut [i8; LARGE], f: &mut Factors) {
    scales_and_minima(b, f);
    for (pair, codes) in codes.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        let q = bytes::<32, _>(b, 16 + pair * 32);
        let (low, high) = codes.split_at_mut(32);
        for ((low, high), q) in low.iter_mut().zip(high).zip(q) {
            (*low, *high) = ((q & 15) as i8, (q >> 4) as i8);
        }
    }
}

#[inline(always)]
fn q5_k(b: &[u8; 176], codes: &mut [i8; LARGE], f: &mut Factors) {
    scales_and_minima(b, f);
    let fifths = bytes::<32, _>(b, 16);
    for (pair, codes) in codes.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        let q = bytes::<32, _>(b, 48 + pair * 32);
        for (j, (q, fifth)) in q.iter().zip(fifths).enumerate() {
            codes[j] = (q & 15 | (fifth >> (2 * pair) & 1) << 4) as i8;
            codes[j + 32] = (q >> 4 | (fifth >> (2 * pair + 1) & 1) << 4) as i8;
        }
    }
}

/// 16 groups of 16 with a signed scale each; 128 elements have their low halves in 64 bytes and their high bits in 32.
#[inline(always)]
fn q6_k(b: &[u8; 210], codes: &mut [i8; LARGE], f: &mut Factors) {
    let d = half(b, 208);
    for (group, &scale) in bytes::<16, _>(b, 192).iter().enumerate() {
        f[group] = d * f32::from(scale.cast_signed());
    }
    for (part, codes) in codes.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        let (low, high) = (bytes::<64, _>(b, part * 64), bytes::<32, _>(b, 128 + part * 32));
        for (j, high) in high.iter().enumerate() {
            let (a, b) = (low[j], low[j + 32]);
            codes[j] = (a & 15 | (high & 3) << 4) as i8 - 32;
            codes[j + 32] = (b & 15 | (high >> 2 & 3) << 4) as i8 - 32;
            codes[j + 64] = (a >> 4 | (high >> 4 & 3) << 4) as i8 - 32;
            codes[j + 96] = (b >> 4 | high >> 6 << 4) as i8 - 32;
        }
    }
}

/// The values of the IQ4 types' codes: more of them near 0 (`kvalues_iq4nl` of ggml-common.h).
const UNEVEN: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// As [`nibbles`], of a table.
#[inline(always)]
fn looked_up(b: &[u8; SMALL / 2], codes: &mut [i8; SMALL]) {
    let (low, high) = codes.split_at_mut(SMALL / 2);
    for ((low, high), b) in low.iter_mut().zip(high).zip(b) {
        (*low, *high) = (UNEVEN[usize::from(b & 15)], UNEVEN[usize::from(b >> 4)]);
    }
}

/// Eight groups of 32 with a signed scale of six bits each: four in a nibble, two in a common word.
#[inline(always)]
fn iq4_xs(b: &[u8; 136], codes: &mut [i8; LARGE], f: &mut Factors) {
    let (d, high, low) = (half(b, 0), bits(b, 2), bytes::<4, _>(b, 4));
    for (group, codes) in codes.as_chunks_mut::<SMALL>().0.iter_mut().enumerate() {
        let scale = low[group / 2] >> (group % 2 * 4) & 15 | ((high >> (2 * group) & 3) << 4) as u8;
        f[2 * group..2 * group + 2].fill(d * f32::from(scale as i8 - 32));
        looked_up(bytes(b, 8 + group * (SMALL / 2)), codes);
    }
}
