//! Blocks of quantised elements as ggml stores them (ggml-common.h, ggml-quants.c of llama.cpp), and what they stand for.

mod quantise;

use std::ops::Range;

use half::f16;
use rayon::prelude::*;

use crate::{Buffer, cpu::isa::multiversion};

/// How a tensor's elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, missing_docs, reason = "ggml's names")]
pub enum BlockType {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
    BF16,
}

/// Elements of a small block, and of one of the K types.
const SMALL: usize = 32;
const LARGE: usize = 256;

impl BlockType {
    /// The type of a number in a GGUF file; `None` if it is not known here.
    pub fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            9 => Self::Q8_1,
            10 => Self::Q2K,
            11 => Self::Q3K,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            15 => Self::Q8K,
            30 => Self::BF16,
            _ => return None,
        })
    }

    /// Its number in a GGUF file.
    pub fn code(self) -> u32 {
        (0..=30).find(|&code| Self::from_code(code) == Some(self)).unwrap_or_default()
    }

    /// The name of a type that is not known here.
    pub fn unknown(code: u32) -> String {
        let name = match code {
            16 => "IQ2_XXS",
            17 => "IQ2_XS",
            18 => "IQ3_XXS",
            19 => "IQ1_S",
            20 => "IQ4_NL",
            21 => "IQ3_S",
            22 => "IQ2_S",
            23 => "IQ4_XS",
            29 => "IQ1_M",
            34 => "TQ1_0",
            35 => "TQ2_0",
            39 => "MXFP4",
            other => return format!("number {other}"),
        };
        name.to_owned()
    }

    /// Elements of a block.
    pub fn elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::Q8_1 => SMALL,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K | Self::Q8K => LARGE,
        }
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q8_1 => 36,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
            Self::Q8K => 292,
        }
    }

    /// ggml's name in lower case, e.g. `q4_k`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q8_0 => "q8_0",
            Self::Q8_1 => "q8_1",
            Self::Q2K => "q2_k",
            Self::Q3K => "q3_k",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
            Self::Q8K => "q8_k",
        }
    }

    /// The elements of whole blocks, in f32.
    pub fn widen(self, blocks: &[u8]) -> Vec<f32> {
        const BLOCKS: usize = 256;
        let (bytes, elements) = (self.bytes(), self.elements());
        let mut out = vec![0f32; blocks.len() / bytes * elements];
        let pairs = out.par_chunks_mut(BLOCKS * elements).zip(blocks.par_chunks(BLOCKS * bytes));
        pairs.for_each(|(y, blocks)| widen_into(self, blocks, y));
        out
    }
}

multiversion! {
    /// The elements of whole blocks, to `out`, which has room for as many.
    pub(crate) fn widen_into(kind: BlockType, blocks: &[u8], out: &mut [f32]) {
        macro_rules! each {
            ($widen:expr) => {
                for (y, block) in out.chunks_exact_mut(kind.elements()).zip(blocks.chunks_exact(kind.bytes())) {
                    $widen(block, y);
                }
            };
        }
        match kind {
            BlockType::F32 => each!(|b: &[u8], y: &mut [f32]| y[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            BlockType::F16 => each!(|b: &[u8], y: &mut [f32]| y[0] = half(b, 0)),
            BlockType::BF16 => each!(|b: &[u8], y: &mut [f32]| y[0] = half::bf16::from_le_bytes([b[0], b[1]]).to_f32()),
            BlockType::Q4_0 => each!(q4_0),
            BlockType::Q4_1 => each!(q4_1),
            BlockType::Q5_0 => each!(q5_0),
            BlockType::Q5_1 => each!(q5_1),
            BlockType::Q8_0 => each!(|b: &[u8], y: &mut [f32]| bytes_times(half(b, 0), &b[2..], y)),
            BlockType::Q8_1 => each!(|b: &[u8], y: &mut [f32]| bytes_times(half(b, 0), &b[4..], y)),
            BlockType::Q2K => each!(q2_k),
            BlockType::Q3K => each!(q3_k),
            BlockType::Q4K => each!(q4_k),
            BlockType::Q5K => each!(q5_k),
            BlockType::Q6K => each!(q6_k),
            BlockType::Q8K => each!(|b: &[u8], y: &mut [f32]| {
                bytes_times(f32::from_le_bytes([b[0], b[1], b[2], b[3]]), &b[4..4 + LARGE], y)
            }),
        }
    }
}

/// Elements of a tensor in blocks.
#[derive(Clone, Debug)]
pub struct BlockTensor {
    /// The type of its blocks.
    pub kind: BlockType,
    /// The blocks; a row of the tensor has whole ones.
    pub bytes: Buffer<u8>,
    /// Number of elements.
    pub len: usize,
}

impl BlockTensor {
    /// All elements in f32.
    pub fn widen(&self) -> Vec<f32> {
        self.kind.widen(&self.bytes)
    }

    /// Bytes of so many elements, which are whole blocks.
    pub fn bytes_of(&self, elements: usize) -> usize {
        elements / self.kind.elements() * self.kind.bytes()
    }

    /// Elements of a run of rows of `cols`, in f32.
    pub fn widen_rows(&self, rows: Range<usize>, cols: usize) -> Vec<f32> {
        let row = self.bytes_of(cols);
        self.kind.widen(&self.bytes[rows.start * row..rows.end * row])
    }
}

/// The half-precision number at a byte.
#[inline(always)]
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

#[inline(always)]
fn bytes_times(scale: f32, codes: &[u8], y: &mut [f32]) {
    for (y, &code) in y.iter_mut().zip(codes) {
        *y = f32::from(code as i8) * scale;
    }
}

/// Two codes a byte: the low halves are the first elements, the high halves the second.
#[inline(always)]
fn q4_0(b: &[u8], y: &mut [f32]) {
    let d = half(b, 0);
    for (j, &q) in b[2..].iter().enumerate() {
        y[j] = f32::from((q & 15) as i8 - 8) * d;
        y[j + SMALL / 2] = f32::from((q >> 4) as i8 - 8) * d;
    }
}

#[inline(always)]
fn q4_1(b: &[u8], y: &mut [f32]) {
    let (d, m) = (half(b, 0), half(b, 2));
    for (j, &q) in b[4..].iter().enumerate() {
        y[j] = f32::from(q & 15) * d + m;
        y[j + SMALL / 2] = f32::from(q >> 4) * d + m;
    }
}

/// The fifth bits of the elements `j` and `j + 16`, in their place.
#[inline(always)]
fn fifth(b: &[u8], at: usize, j: usize) -> [u8; 2] {
    let bits = u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    [((bits >> j) << 4) as u8 & 16, (bits >> (j + 12)) as u8 & 16]
}

#[inline(always)]
fn q5_0(b: &[u8], y: &mut [f32]) {
    let d = half(b, 0);
    for (j, &q) in b[6..].iter().enumerate() {
        let [low, high] = fifth(b, 2, j);
        y[j] = f32::from((q & 15 | low) as i8 - 16) * d;
        y[j + SMALL / 2] = f32::from((q >> 4 | high) as i8 - 16) * d;
    }
}

#[inline(always)]
fn q5_1(b: &[u8], y: &mut [f32]) {
    let (d, m) = (half(b, 0), half(b, 2));
    for (j, &q) in b[8..].iter().enumerate() {
        let [low, high] = fifth(b, 4, j);
        y[j] = f32::from(q & 15 | low) * d + m;
        y[j + SMALL / 2] = f32::from(q >> 4 | high) * d + m;
    }
}

/// 16 groups of 16: a byte holds scale and minimum of a group, four bits each.
#[inline(always)]
fn q2_k(b: &[u8], y: &mut [f32]) {
    let (scales, codes) = (&b[..16], &b[16..80]);
    let (d, min) = (half(b, 80), half(b, 82));
    for (group, y) in y.chunks_exact_mut(16).enumerate() {
        let (scale, low) = (d * f32::from(scales[group] & 15), min * f32::from(scales[group] >> 4));
        // Every 32 bytes hold eight groups: their two halves, four times two bits deep.
        let (from, shift) = (group / 8 * 32 + group % 2 * 16, group % 8 / 2 * 2);
        for (y, q) in y.iter_mut().zip(&codes[from..from + 16]) {
            *y = scale * f32::from(q >> shift & 3) - low;
        }
    }
}

/// As [`q2_k`] without minima: third bits lie apart and are set where nothing is subtracted; scales have six bits.
#[inline(always)]
fn q3_k(b: &[u8], y: &mut [f32]) {
    let (mask, codes, packed, d) = (&b[..32], &b[32..96], &b[96..108], half(b, 108));
    for (group, y) in y.chunks_exact_mut(16).enumerate() {
        let low = if group < 8 { packed[group] & 15 } else { packed[group - 8] >> 4 };
        let high = packed[8 + group % 4] >> (group / 4 * 2) & 3;
        let scale = d * f32::from((low | high << 4) as i8 - 32);
        let half_of = group % 2 * 16;
        let (from, shift, bit) = (group / 8 * 32 + half_of, group % 8 / 2 * 2, group / 2);
        for (j, y) in y.iter_mut().enumerate() {
            let code = (codes[from + j] >> shift & 3) as i8;
            let less = if mask[half_of + j] >> bit & 1 == 1 { 0 } else { 4 };
            *y = scale * f32::from(code - less);
        }
    }
}

/// Scale and minimum of one of the eight groups of [`q4_k`] and [`q5_k`], six bits each.
#[inline(always)]
fn scale_and_min(packed: &[u8], group: usize) -> (u8, u8) {
    if group < 4 {
        return (packed[group] & 63, packed[group + 4] & 63);
    }
    let (both, scale, min) = (packed[group + 4], packed[group - 4], packed[group]);
    (both & 15 | scale >> 6 << 4, both >> 4 | min >> 6 << 4)
}

/// Eight groups of 32; 32 bytes hold two of them, one in the low halves and one in the high.
#[inline(always)]
fn q4_k(b: &[u8], y: &mut [f32]) {
    let (d, min, packed, codes) = (half(b, 0), half(b, 2), &b[4..16], &b[16..]);
    for (group, y) in y.chunks_exact_mut(32).enumerate() {
        let (scale, low) = scale_and_min(packed, group);
        let (scale, low) = (d * f32::from(scale), min * f32::from(low));
        for (y, q) in y.iter_mut().zip(&codes[group / 2 * 32..]) {
            *y = scale * f32::from(q >> (group % 2 * 4) & 15) - low;
        }
    }
}

#[inline(always)]
fn q5_k(b: &[u8], y: &mut [f32]) {
    let (d, min, packed) = (half(b, 0), half(b, 2), &b[4..16]);
    let (fifths, codes) = (&b[16..48], &b[48..]);
    for (group, y) in y.chunks_exact_mut(32).enumerate() {
        let (scale, low) = scale_and_min(packed, group);
        let (scale, low) = (d * f32::from(scale), min * f32::from(low));
        for ((y, q), fifth) in y.iter_mut().zip(&codes[group / 2 * 32..]).zip(fifths) {
            let code = q >> (group % 2 * 4) & 15 | (fifth >> group & 1) << 4;
            *y = scale * f32::from(code) - low;
        }
    }
}

/// 16 groups of 16 with a signed scale each; 128 elements have their low halves in 64 bytes and their high bits in 32.
#[inline(always)]
fn q6_k(b: &[u8], y: &mut [f32]) {
    let (low, high, scales, d) = (&b[..128], &b[128..192], &b[192..208], half(b, 208));
    for (group, y) in y.chunks_exact_mut(16).enumerate() {
        let (part, quarter, half_of) = (group / 8, group % 8 / 2, group % 2 * 16);
        let scale = d * f32::from(scales[group] as i8);
        let low = &low[part * 64 + quarter % 2 * 32 + half_of..][..16];
        let high = &high[part * 32 + half_of..][..16];
        for ((y, low), high) in y.iter_mut().zip(low).zip(high) {
            let code = low >> (quarter / 2 * 4) & 15 | (high >> (quarter * 2) & 3) << 4;
            *y = scale * f32::from(code as i8 - 32);
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{
        Device,
        quantized::{GgmlDType, QStorage, QTensor},
    };
    use proptest::prelude::*;

    use super::*;

    const TYPES: [(BlockType, GgmlDType); 11] = [
        (BlockType::Q4_0, GgmlDType::Q4_0),
        (BlockType::Q4_1, GgmlDType::Q4_1),
        (BlockType::Q5_0, GgmlDType::Q5_0),
        (BlockType::Q5_1, GgmlDType::Q5_1),
        (BlockType::Q8_0, GgmlDType::Q8_0),
        (BlockType::Q2K, GgmlDType::Q2K),
        (BlockType::Q3K, GgmlDType::Q3K),
        (BlockType::Q4K, GgmlDType::Q4K),
        (BlockType::Q5K, GgmlDType::Q5K),
        (BlockType::Q6K, GgmlDType::Q6K),
        (BlockType::Q8K, GgmlDType::Q8K),
    ];

    /// What candle makes of blocks.
    fn candle(dtype: GgmlDType, blocks: &[u8], elements: usize) -> Vec<f32> {
        let storage = QStorage::from_data(blocks.into(), &Device::Cpu, dtype).unwrap();
        let tensor = QTensor::new(storage, elements).unwrap();
        tensor.dequantize(&Device::Cpu).unwrap().to_vec1().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn blocks_are_widened_as_candle_widens_them(bytes in proptest::collection::vec(any::<u8>(), 3 * 292)) {
            for (ours, theirs) in TYPES {
                prop_assert_eq!((ours.bytes(), ours.elements()), (theirs.type_size(), theirs.block_size()));
                let blocks = &bytes[..3 * ours.bytes()];
                let (found, expected) = (ours.widen(blocks), candle(theirs, blocks, 3 * ours.elements()));
                for (at, (a, b)) in found.iter().zip(&expected).enumerate() {
                    // Any bits can be a scale: also one that is no number.
                    prop_assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "{ours:?} {at}: {a} {b}");
                }
            }
        }
    }
}
