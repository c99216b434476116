//! Elements into ggml's blocks, by the rules of llama.cpp's reference quantisers (ggml-quants.c, `quantize_row_*_ref`), which
//! are also those of its `llama-quantize` without an importance matrix.

use half::f16;
use rayon::prelude::*;

use super::{BlockType, LARGE, SMALL};
use crate::cpu::isa::multiversion;

/// Beyond this the squares of a block's elements, which weigh them, could not be added up in f32. No type with scales in
/// half precision reaches as far.
const LARGEST: f32 = 1e18;

/// Below this a group counts as zeros.
const NOTHING: f32 = 1e-15;

impl BlockType {
    /// Whether [`BlockType::quantise`] makes blocks of this type.
    pub fn can_quantise(self) -> bool {
        use BlockType::{BF16, F16, F32, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
        matches!(self, F32 | F16 | BF16 | Q8_0 | Q5_0 | Q5_1 | Q4K | Q5K | Q6K)
    }

    /// Elements as blocks; `None` if the type is not made here, the elements are not whole blocks, or one of them is not
    /// finite or beyond the range of the type.
    pub fn quantise(self, values: &[f32]) -> Option<Vec<u8>> {
        const BLOCKS: usize = 64;
        let (bytes, elements) = (self.bytes(), self.elements());
        if !self.can_quantise() || !values.len().is_multiple_of(elements) {
            return None;
        }
        let mut out = vec![0u8; values.len() / elements * bytes];
        let pieces = out.par_chunks_mut(BLOCKS * bytes).zip(values.par_chunks(BLOCKS * elements));
        let finite = pieces.map(|(blocks, x)| {
            quantise_into(self, x, blocks);
            let wide = matches!(self, Self::F32 | Self::BF16);
            x.iter().all(|x| x.is_finite() && (wide || x.abs() < LARGEST)) && scales_are_finite(self, blocks)
        });
        finite.reduce(|| true, |a, b| a && b).then_some(out)
    }
}

/// Whether the numbers in half precision that blocks begin or end with are finite.
fn scales_are_finite(kind: BlockType, blocks: &[u8]) -> bool {
    let places: &[usize] = match kind {
        BlockType::F16 | BlockType::Q8_0 | BlockType::Q5_0 => &[0],
        BlockType::Q5_1 | BlockType::Q4K | BlockType::Q5K => &[0, 2],
        BlockType::Q6K => &[208],
        _ => &[],
    };
    let finite = |block: &[u8], at: usize| f16::from_le_bytes([block[at], block[at + 1]]).is_finite();
    blocks.chunks_exact(kind.bytes()).all(|block| places.iter().all(|&at| finite(block, at)))
}

multiversion! {
    /// The blocks of elements, to `out`, which has room for them.
    fn quantise_into(kind: BlockType, values: &[f32], out: &mut [u8]) {
        macro_rules! each {
            ($quantise:expr) => {
                for (x, block) in values.chunks_exact(kind.elements()).zip(out.chunks_exact_mut(kind.bytes())) {
                    $quantise(x, block);
                }
            };
        }
        match kind {
            BlockType::F32 => each!(|x: &[f32], b: &mut [u8]| b.copy_from_slice(&x[0].to_le_bytes())),
            BlockType::F16 => each!(|x: &[f32], b: &mut [u8]| put_half(b, 0, x[0])),
            BlockType::BF16 => {
                each!(|x: &[f32], b: &mut [u8]| b.copy_from_slice(&half::bf16::from_f32(x[0]).to_le_bytes()))
            }
            BlockType::Q8_0 => each!(q8_0),
            BlockType::Q5_0 => each!(q5_0),
            BlockType::Q5_1 => each!(q5_1),
            BlockType::Q4K => each!(|x: &[f32], b: &mut [u8]| q4_k(x, b)),
            BlockType::Q5K => each!(|x: &[f32], b: &mut [u8]| q5_k(x, b)),
            BlockType::Q6K => each!(q6_k),
            _ => {}
        }
    }
}

#[inline(always)]
fn put_half(block: &mut [u8], at: usize, value: f32) -> f32 {
    let half = f16::from_f32(value);
    block[at..at + 2].copy_from_slice(&half.to_le_bytes());
    half.to_f32()
}

/// The nearest integer, of two the even one; for numbers below 2^22.
#[inline(always)]
fn nearest(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT) - SHIFT
}

#[inline(always)]
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

#[inline(always)]
fn q8_0(x: &[f32], block: &mut [u8]) {
    let scale = x.iter().fold(0f32, |max, x| max.max(x.abs())) / 127.0;
    let inverse = inverse(scale);
    put_half(block, 0, scale);
    for (code, x) in block[2..].iter_mut().zip(x) {
        *code = (x * inverse).round() as i8 as u8;
    }
}

/// Puts codes of five bits: the low halves of the elements `j` and `j + 16` in one byte, fifth bits before them.
#[inline(always)]
fn put_fives(codes: &[u8; SMALL], block: &mut [u8]) {
    let fifths = codes.iter().enumerate().fold(0u32, |bits, (j, code)| bits | u32::from(code >> 4) << j);
    block[..4].copy_from_slice(&fifths.to_le_bytes());
    for (j, byte) in block[4..].iter_mut().enumerate() {
        *byte = codes[j] & 15 | codes[j + SMALL / 2] << 4;
    }
}

#[inline(always)]
fn q5_0(x: &[f32], block: &mut [u8]) {
    let widest = x.iter().fold(0f32, |widest, &x| if x.abs() > widest.abs() { x } else { widest });
    let scale = widest / -16.0;
    let inverse = inverse(scale);
    put_half(block, 0, scale);
    let codes = std::array::from_fn(|j| ((x[j] * inverse + 16.5) as u8).min(31));
    put_fives(&codes, &mut block[2..]);
}

#[inline(always)]
fn q5_1(x: &[f32], block: &mut [u8]) {
    let (min, max) = x.iter().fold((f32::MAX, f32::MIN), |(min, max), &x| (min.min(x), max.max(x)));
    let scale = (max - min) / 31.0;
    let inverse = inverse(scale);
    put_half(block, 0, scale);
    put_half(block, 2, min);
    let codes = std::array::from_fn(|j| (((x[j] - min) * inverse + 0.5) as u8).min(31));
    put_fives(&codes, &mut block[4..]);
}

/// Codes of 0 to `levels` with the scale and the offset below zero that fit 32 elements best: of several scales around the
/// one that spans them, each with its weighted least squares. Gives scale and offset.
#[inline(always)]
fn fit_affine(x: &[f32], levels: f32, first: f32, tries: i32, codes: &mut [f32]) -> (f32, f32) {
    let mean_square = x.iter().map(|x| x * x).sum::<f32>() / 32.0;
    let level = mean_square.sqrt();
    let weights: [f32; 32] = std::array::from_fn(|i| level + x[i].abs());
    let (mut low, mut high, mut sum_w, mut sum_x) = (x[0], x[0], 0f32, 0f32);
    for (x, w) in x.iter().zip(&weights) {
        (low, high) = (low.min(*x), high.max(*x));
        (sum_w, sum_x) = (sum_w + w, sum_x + w * x);
    }
    let low = low.min(0.0);
    if high == low {
        codes.fill(0.0);
        return (0.0, -low);
    }
    let code = |inverse: f32, x: f32| nearest(inverse * (x - low)).clamp(0.0, levels);
    let error_of = |codes: &[f32], scale: f32, min: f32| {
        let terms = x.iter().zip(&weights).zip(codes);
        terms.fold(0f32, |sum, ((x, w), code)| {
            let off = scale * code + min - x;
            sum + w * (off * off)
        })
    };
    let inverse = levels / (high - low);
    codes.iter_mut().zip(x).for_each(|(c, &x)| *c = code(inverse, x));
    let (mut scale, mut min) = (1.0 / inverse, low);
    let mut best = error_of(codes, scale, min);
    for step in 0..=tries {
        let inverse = (first + 0.1 * step as f32 + levels) / (high - low);
        let (mut sum_l, mut sum_ll, mut sum_xl) = (0f32, 0f32, 0f32);
        let tried: [f32; 32] = std::array::from_fn(|i| code(inverse, x[i]));
        for ((l, w), x) in tried.iter().zip(&weights).zip(x) {
            sum_l += w * l;
            sum_ll += w * l * l;
            sum_xl += w * l * x;
        }
        let determinant = sum_w * sum_ll - sum_l * sum_l;
        if determinant > 0.0 {
            let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut this_min = (sum_ll * sum_x - sum_l * sum_xl) / determinant;
            if this_min > 0.0 {
                (this_min, this_scale) = (0.0, sum_xl / sum_ll);
            }
            let error = error_of(&tried, this_scale, this_min);
            if error < best {
                codes.copy_from_slice(&tried);
                (best, scale, min) = (error, this_scale, this_min);
            }
        }
    }
    (scale, -min)
}

/// Eight groups of 32 with scale and offset each, in six bits; gives the codes and fills the first 16 bytes.
#[inline(always)]
fn affine_groups(x: &[f32], block: &mut [u8], levels: f32, first: f32, tries: i32) -> [u8; LARGE] {
    let (mut codes, mut scales, mut mins) = ([0f32; LARGE], [0f32; 8], [0f32; 8]);
    for (group, (x, codes)) in x.chunks_exact(32).zip(codes.chunks_exact_mut(32)).enumerate() {
        (scales[group], mins[group]) = fit_affine(x, levels, first, tries, codes);
    }
    let most = |values: &[f32; 8]| values.iter().fold(0f32, |max, &x| max.max(x));
    let (most_scale, most_min) = (most(&scales), most(&mins));
    let six_bits = |value: f32, most: f32| {
        let inverse = if most > 0.0 { 63.0 / most } else { 0.0 };
        (nearest(inverse * value) as u8).min(63)
    };
    let d = put_half(block, 0, most_scale / 63.0);
    let dmin = put_half(block, 2, most_min / 63.0);
    let packed = &mut block[4..16];
    packed.fill(0);
    for group in 0..8 {
        let (scale, min) = (six_bits(scales[group], most_scale), six_bits(mins[group], most_min));
        if group < 4 {
            (packed[group], packed[group + 4]) = (scale, min);
        } else {
            packed[group + 4] = scale & 15 | (min & 15) << 4;
            packed[group - 4] |= scale >> 4 << 6;
            packed[group] |= min >> 4 << 6;
        }
        let (scale, low) = (d * f32::from(scale), dmin * f32::from(min));
        if scale != 0.0 {
            let range = group * 32..(group + 1) * 32;
            for (code, x) in codes[range.clone()].iter_mut().zip(&x[range]) {
                *code = nearest((x + low) / scale).clamp(0.0, levels);
            }
        }
    }
    codes.map(|code| code as u8)
}

#[inline(always)]
fn put_fours(codes: &[u8; LARGE], bytes: &mut [u8]) {
    for (codes, bytes) in codes.chunks_exact(64).zip(bytes.chunks_exact_mut(32)) {
        for (j, byte) in bytes.iter_mut().enumerate() {
            *byte = codes[j] & 15 | codes[j + 32] << 4;
        }
    }
}

#[inline(always)]
fn q4_k(x: &[f32], block: &mut [u8]) {
    let codes = affine_groups(x, block, 15.0, -1.0, 20);
    put_fours(&codes, &mut block[16..]);
}

#[inline(always)]
fn q5_k(x: &[f32], block: &mut [u8]) {
    let codes = affine_groups(x, block, 31.0, -0.5, 15);
    let (fifths, rest) = block[16..].split_at_mut(32);
    for (j, byte) in fifths.iter_mut().enumerate() {
        *byte = (0..8).fold(0, |bits, group| bits | codes[group * 32 + j] >> 4 << group);
    }
    put_fours(&codes, rest);
}

/// The scale that fits 16 elements with codes of −32 to 31 best, larger elements counting more.
#[inline(always)]
fn fit_scale(x: &[f32]) -> f32 {
    let widest = x.iter().fold(0f32, |widest, &x| if x.abs() > widest.abs() { x } else { widest });
    if widest.abs() < NOTHING {
        return 0.0;
    }
    let sums = |inverse: f32| {
        x.iter().fold((0f32, 0f32), |(xl, ll), &x| {
            let (l, w) = (nearest(inverse * x).clamp(-32.0, 31.0), x * x);
            (xl + w * x * l, ll + w * l * l)
        })
    };
    let (xl, ll) = sums(-32.0 / widest);
    let mut scale = if ll == 0.0 { 0.0 } else { xl / ll };
    let mut best = scale * xl;
    for step in (-9..=9).filter(|&step| step != 0) {
        let (xl, ll) = sums(-(32.0 + 0.1 * step as f32) / widest);
        if ll > 0.0 && xl * xl > best * ll {
            scale = xl / ll;
            best = scale * xl;
        }
    }
    scale
}

#[inline(always)]
fn q6_k(x: &[f32], block: &mut [u8]) {
    let mut scales = [0f32; 16];
    scales.iter_mut().zip(x.chunks_exact(16)).for_each(|(scale, x)| *scale = fit_scale(x));
    let widest = scales.iter().fold(0f32, |widest, &s| if s.abs() > widest.abs() { s } else { widest });
    block.fill(0);
    if widest.abs() < NOTHING {
        return;
    }
    let inverse = -128.0 / widest;
    let d = put_half(block, 208, 1.0 / inverse);
    let mut codes = [0u8; LARGE];
    for (group, (codes, x)) in codes.chunks_exact_mut(16).zip(x.chunks_exact(16)).enumerate() {
        let scale = nearest(inverse * scales[group]).min(127.0);
        block[192 + group] = scale as i8 as u8;
        let scale = d * scale;
        for (code, x) in codes.iter_mut().zip(x) {
            let level = if scale == 0.0 { 0.0 } else { nearest(x / scale).clamp(-32.0, 31.0) };
            *code = (level + 32.0) as u8;
        }
    }
    for (part, codes) in codes.chunks_exact(128).enumerate() {
        for j in 0..32 {
            let of = |quarter: usize| codes[quarter * 32 + j];
            block[part * 64 + j] = of(0) & 15 | of(2) << 4;
            block[part * 64 + 32 + j] = of(1) & 15 | of(3) << 4;
            block[128 + part * 32 + j] = of(0) >> 4 | of(1) >> 4 << 2 | of(2) >> 4 << 4 | of(3) >> 4 << 6;
        }
    }
}

#[cfg(test)]
mod tests;
