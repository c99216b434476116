//! Matrices in codes of four or eight bits with scales for blocks of rows and columns: what GPTQ, AWQ, compressed-tensors,
//! FP8, bitsandbytes' and torchao's 8 bits and MXFP4 come down to.

use std::ops::Range;

use half::{bf16, f16};

use crate::{
    Buffer,
    cpu::isa::multiversion,
    gguf::{Factors, GROUP, LARGE},
};

/// How a code is stored, and the number it is before its zero is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeKind {
    /// Four bits, two a byte, the first in the low half: 0 to 15.
    Nibble,
    /// The same, of a float with two bits of exponent and one of mantissa (OCP Microscaling, 2023): twice its value is an
    /// integer. A negative zero is zero.
    E2m1,
    /// A byte: 0 to 255.
    Unsigned,
    /// A byte: -128 to 127.
    Signed,
    /// An 8-bit float with four bits of exponent and three of mantissa, without infinities.
    E4m3,
}

/// Scales in the type in which they are stored.
#[derive(Clone, Debug)]
pub enum Scales {
    /// 32-bit floats.
    F32(Buffer<f32>),
    /// bfloat16.
    Bf16(Buffer<bf16>),
    /// IEEE half precision.
    F16(Buffer<f16>),
    /// Powers of two: the exponent, 127 more.
    Exponents(Buffer<u8>),
}

impl Scales {
    /// Number of scales.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::Bf16(data) => data.len(),
            Self::F16(data) => data.len(),
            Self::Exponents(data) => data.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    fn at(&self, index: usize) -> f32 {
        match self {
            Self::F32(data) => data[index],
            Self::Bf16(data) => data[index].to_f32(),
            Self::F16(data) => data[index].to_f32(),
            // 2^-127 is subnormal.
            Self::Exponents(data) => match data[index] {
                0 => f32::from_bits(1 << 22),
                exponent => f32::from_bits(u32::from(exponent) << 23),
            },
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::F32(data) => data.len() * 4,
            Self::Bf16(data) => data.len() * 2,
            Self::F16(data) => data.len() * 2,
            Self::Exponents(data) => data.len(),
        }
    }

    /// Scales by these indices.
    fn select(&self, indices: impl Iterator<Item = usize>) -> Self {
        match self {
            Self::F32(data) => Self::F32(indices.map(|i| data[i]).collect::<Vec<_>>().into()),
            Self::Bf16(data) => Self::Bf16(indices.map(|i| data[i]).collect::<Vec<_>>().into()),
            Self::F16(data) => Self::F16(indices.map(|i| data[i]).collect::<Vec<_>>().into()),
            Self::Exponents(data) => Self::Exponents(indices.map(|i| data[i]).collect::<Vec<_>>().into()),
        }
    }
}

/// What is taken from codes before they are scaled.
#[derive(Clone, Debug)]
pub enum Zeros {
    /// The same from all.
    Same(i16),
    /// One for every scale, a byte that is signed if the codes are.
    Each(Buffer<u8>),
}

/// A matrix in codes; cloning shares the elements. An element is `(code − zero) · scale / divisor`, in this order in f32.
#[derive(Clone, Debug)]
pub struct CodedTensor {
    /// What codes are.
    pub kind: CodeKind,
    /// The codes, row by row.
    pub codes: Buffer<u8>,
    /// Bytes of a row of codes.
    pub stride: usize,
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row.
    pub cols: usize,
    /// Scales of blocks, `[rows of blocks, groups]`.
    pub scales: Scales,
    /// Rows and columns of a block.
    pub block: [usize; 2],
    /// The zeros of the codes.
    pub zeros: Zeros,
    /// The group of every column, if they do not follow one another.
    pub order: Option<Buffer<u32>>,
    /// 1, or what products with scales are divided by.
    pub divisor: f32,
}

impl CodedTensor {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `int4`, `int8`, `fp4` or `fp8`.
    pub fn name(&self) -> &'static str {
        match self.kind {
            CodeKind::Nibble => "int4",
            CodeKind::E2m1 => "fp4",
            CodeKind::Unsigned | CodeKind::Signed => "int8",
            CodeKind::E4m3 => "fp8",
        }
    }

    /// Bytes of codes, scales and zeros.
    pub fn bytes(&self) -> usize {
        let zeros = if let Zeros::Each(zeros) = &self.zeros { zeros.len() } else { 0 };
        self.rows * self.stride + self.scales.bytes() + zeros + 4 * self.order.as_ref().map_or(0, |order| order.len())
    }

    /// Groups of a row.
    pub(crate) fn groups(&self) -> usize {
        self.scales.len() / self.rows.div_ceil(self.block[0]).max(1)
    }

    /// All elements in f32.
    pub fn widen(&self) -> Vec<f32> {
        use rayon::prelude::*;
        let mut out = vec![0.0; self.len()];
        let rows = out.par_chunks_exact_mut(self.cols.max(1)).enumerate();
        rows.for_each(|(row, out)| self.widen_row(row, 0, out));
        out
    }

    /// Elements of a range of the flattened matrix, in f32.
    pub(crate) fn widen_range(&self, range: Range<usize>) -> Vec<f32> {
        let mut out = vec![0.0; range.len()];
        let (mut at, mut rest) = (range.start, &mut out[..]);
        while !rest.is_empty() {
            let (row, col) = (at / self.cols, at % self.cols);
            let run = (self.cols - col).min(rest.len());
            self.widen_row(row, col, &mut rest[..run]);
            (at, rest) = (at + run, &mut rest[run..]);
        }
        out
    }

    /// Elements of a row from a column on, as many as `out` has.
    pub(crate) fn widen_row(&self, row: usize, from: usize, out: &mut [f32]) {
        let codes = &self.codes[row * self.stride..(row + 1) * self.stride];
        if let Some(order) = &self.order {
            integers(self.kind, codes, from, 0, out);
            let base = row / self.block[0] * self.groups();
            // Differences of codes and zeros are exact in f32.
            let of = |group: usize| (self.scales.at(base + group), f32::from(self.zero(base + group)));
            let factors: Vec<(f32, f32)> = (0..self.groups()).map(of).collect();
            for (y, &group) in out.iter_mut().zip(&order[from..]) {
                let (scale, zero) = factors[group as usize];
                *y = (*y - zero) * scale;
            }
            return times(1.0, self.divisor, out);
        }
        self.runs(row, from, out.len(), |run, scale, zero| {
            let y = &mut out[run.start - from..run.end - from];
            integers(self.kind, codes, run.start, zero, y);
            times(scale, self.divisor, y);
        });
    }

    /// The zero that stands beside a scale.
    fn zero(&self, at: usize) -> i16 {
        match &self.zeros {
            Zeros::Same(zero) => *zero,
            Zeros::Each(zeros) if self.kind == CodeKind::Signed => i16::from(zeros[at].cast_signed()),
            Zeros::Each(zeros) => i16::from(zeros[at]),
        }
    }

    /// Calls `f` with runs of columns of a row that share a scale and a zero, where groups follow one another.
    fn runs(&self, row: usize, from: usize, len: usize, mut f: impl FnMut(Range<usize>, f32, i16)) {
        let base = row / self.block[0] * self.groups();
        let mut col = from;
        while col < from + len {
            let group = col / self.block[1];
            let end = (group + 1).saturating_mul(self.block[1]).min(from + len);
            f(col..end, self.scales.at(base + group), self.zero(base + group));
            col = end;
        }
    }

    /// Whether [`Self::decode`] can say what elements are.
    pub(crate) fn is_plain(&self) -> bool {
        let small = match (self.kind, &self.zeros) {
            (CodeKind::Nibble, _) | (CodeKind::Unsigned, Zeros::Same(128)) => true,
            (CodeKind::E2m1 | CodeKind::Signed, zeros) => matches!(zeros, Zeros::Same(0)),
            _ => false,
        };
        let groups = self.block[1] >= self.cols || self.block[1].is_multiple_of(GROUP);
        small && groups && self.order.is_none() && self.divisor == 1.0
    }

    /// Up to [`LARGE`] codes of a row from a column on, a multiple of a group, less their zeros; and their scales.
    pub(crate) fn decode(&self, row: usize, from: usize, len: usize, codes: &mut [i8; LARGE], factors: &mut Factors) {
        let bytes = &self.codes[row * self.stride..(row + 1) * self.stride];
        // Twice the values of these floats are integers.
        let half = if self.kind == CodeKind::E2m1 { 0.5 } else { 1.0 };
        self.runs(row, from, len, |run, scale, zero| {
            let groups = (run.start - from) / GROUP..(run.end - from).div_ceil(GROUP);
            factors[groups].fill(scale * half);
            small_integers(self.kind, bytes, run.start, zero, &mut codes[run.start - from..run.end - from]);
        });
    }

    /// Runs of rows, one after the other, copied.
    pub(crate) fn select_rows(&self, runs: impl Iterator<Item = Range<usize>> + Clone) -> Self {
        let rows = || runs.clone().flatten();
        let codes: Vec<u8> = runs
            .clone()
            .flat_map(|run| self.codes[run.start * self.stride..run.end * self.stride].iter().copied())
            .collect();
        let groups = self.groups();
        let indices = || rows().flat_map(|row| (0..groups).map(move |group| row / self.block[0] * groups + group));
        Self {
            codes: codes.into(),
            rows: rows().count(),
            scales: self.scales.select(indices()),
            block: [1, self.block[1]],
            zeros: match &self.zeros {
                Zeros::Same(zero) => Zeros::Same(*zero),
                Zeros::Each(zeros) => Zeros::Each(indices().map(|i| zeros[i]).collect::<Vec<_>>().into()),
            },
            ..self.clone()
        }
    }
}

#[inline(always)]
fn nibble(bytes: &[u8], at: usize) -> u8 {
    bytes[at / 2] >> (4 * (at % 2)) & 15
}

multiversion! {
    /// Codes from the one number `from` on less their zero, in f32; 8-bit floats are what they stand for.
    fn integers(kind: CodeKind, bytes: &[u8], from: usize, zero: i16, out: &mut [f32]) {
        let whole = bytes.get(from..).unwrap_or_default();
        match kind {
            CodeKind::Nibble => {
                for (i, y) in out.iter_mut().enumerate() {
                    *y = f32::from(i16::from(nibble(bytes, from + i)) - zero);
                }
            }
            CodeKind::E2m1 => {
                for (i, y) in out.iter_mut().enumerate() {
                    *y = f32::from(twice_e2m1(nibble(bytes, from + i))) * 0.5;
                }
            }
            CodeKind::Unsigned => {
                for (y, &code) in out.iter_mut().zip(whole) {
                    *y = f32::from(i16::from(code) - zero);
                }
            }
            CodeKind::Signed => {
                for (y, &code) in out.iter_mut().zip(whole) {
                    *y = f32::from(i16::from(code.cast_signed()) - zero);
                }
            }
            CodeKind::E4m3 => {
                for (y, &code) in out.iter_mut().zip(whole) {
                    *y = e4m3(code);
                }
            }
        }
    }
}

/// Twice the value of a code of [`CodeKind::E2m1`]: 0, 1, 2, 3, 4, 6, 8 or 12, and the same below zero.
#[inline(always)]
fn twice_e2m1(code: u8) -> i8 {
    let magnitude = code & 7;
    let more = u8::from(magnitude > 4) + u8::from(magnitude > 5) + 3 * u8::from(magnitude > 6);
    let value = (magnitude + more) as i8;
    if code & 8 == 0 { value } else { -value }
}

/// The number of an 8-bit float: its exponent and mantissa in the place of an f32's, whose bias is 120 more.
#[inline(always)]
fn e4m3(code: u8) -> f32 {
    let magnitude = f32::from_bits(u32::from(code & 0x7f) << 20) * f32::from_bits((127 + 120) << 23);
    let magnitude = if code & 0x7f == 0x7f { f32::NAN } else { magnitude };
    f32::from_bits(magnitude.to_bits() | u32::from(code & 0x80) << 24)
}

multiversion! {
    fn times(scale: f32, divisor: f32, y: &mut [f32]) {
        for y in y.iter_mut() {
            *y *= scale;
        }
        if divisor != 1.0 {
            for y in y.iter_mut() {
                *y /= divisor;
            }
        }
    }
}

multiversion! {
    /// As [`integers`], where they are of eight bits.
    fn small_integers(kind: CodeKind, bytes: &[u8], from: usize, zero: i16, out: &mut [i8]) {
        match kind {
            // Runs begin at even columns.
            CodeKind::Nibble => {
                let (pairs, rest) = out.as_chunks_mut::<2>();
                let bytes = &bytes[from / 2..];
                for ([low, high], byte) in pairs.iter_mut().zip(bytes) {
                    (*low, *high) = ((byte & 15) as i8 - zero as i8, (byte >> 4) as i8 - zero as i8);
                }
                for (code, byte) in rest.iter_mut().zip(&bytes[pairs.len()..]) {
                    *code = (byte & 15) as i8 - zero as i8;
                }
            }
            CodeKind::E2m1 => {
                let (pairs, rest) = out.as_chunks_mut::<2>();
                let bytes = &bytes[from / 2..];
                for ([low, high], byte) in pairs.iter_mut().zip(bytes) {
                    (*low, *high) = (twice_e2m1(byte & 15), twice_e2m1(byte >> 4));
                }
                for (code, byte) in rest.iter_mut().zip(&bytes[pairs.len()..]) {
                    *code = twice_e2m1(byte & 15);
                }
            }
            _ => {
                for (code, &byte) in out.iter_mut().zip(&bytes[from..]) {
                    *code = if kind == CodeKind::Unsigned { byte ^ 0x80 } else { byte }.cast_signed();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_of_eight_bits() {
        let cases = [
            (0x00, 0.0),
            (0x01, 0.001_953_125),
            (0x08, 0.015_625),
            (0x38, 1.0),
            (0x3c, 1.5),
            (0x7e, 448.0),
            (0xb8, -1.0),
        ];
        for (byte, value) in cases {
            assert_eq!(e4m3(byte), value, "{byte:#x}");
        }
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
    }

    #[test]
    fn floats_of_four_bits() {
        let values = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        for (code, value) in (0..8).zip(values) {
            assert_eq!(f32::from(twice_e2m1(code)) * 0.5, value);
            assert_eq!(f32::from(twice_e2m1(code + 8)) * 0.5, -value);
        }
    }

    #[test]
    fn exponents_are_powers_of_two() {
        let scales = Scales::Exponents((0..=255).collect::<Vec<u8>>().into());
        for i in 0..=255usize {
            assert_eq!(scales.at(i), (i as f32 - 127.0).exp2(), "{i}");
        }
    }
}
