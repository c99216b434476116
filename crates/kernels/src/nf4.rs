//! 4-bit weights: NormalFloat codes in blocks with a scale each (Dettmers et al. 2023), as bitsandbytes stores them.
//!
//! A matrix is flattened row by row and cut into blocks. A block keeps its largest magnitude (`absmax`), and each
//! element the nearest of 16 codes of `x / absmax`. With double quantisation the block scales are 8-bit codes in turn.

mod blockwise;

pub use blockwise::{BlockScales, NestedScales};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::Buffer;

/// The 16 values of NormalFloat4: quantiles of a normal distribution, scaled to [-1, 1], with an exact 0.
pub const CODEBOOK: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Smallest scale that is divided by.
const TINY: f32 = 1e-38;

/// How weights are quantised when they are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quantization {
    /// The codes.
    #[serde(rename = "type")]
    pub kind: QuantizationKind,
    /// Elements that share a scale: a power of two from 32 to 4096.
    pub block_size: usize,
    /// Whether the scales are quantised to 8 bits in turn.
    pub double: bool,
}

/// Codes of quantised weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuantizationKind {
    /// 4-bit NormalFloat.
    #[default]
    Nf4,
}

impl Default for Quantization {
    fn default() -> Self {
        Self { kind: QuantizationKind::Nf4, block_size: 64, double: true }
    }
}

impl Quantization {
    /// Reads `nf4`, with double quantisation, or `nf4-plain`, without.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "nf4" => Some(Self::default()),
            "nf4-plain" => Some(Self { double: false, ..Self::default() }),
            _ => None,
        }
    }

    /// What is wrong with the options, if anything.
    ///
    /// # Errors
    /// A message that names the key.
    pub fn check(&self) -> Result<(), String> {
        match self.block_size {
            size if size.is_power_of_two() && (32..=4096).contains(&size) => Ok(()),
            size => Err(format!("block_size is {size}; expected a power of two from 32 to 4096")),
        }
    }
}

impl std::fmt::Display for Quantization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { block_size, double, .. } = self;
        write!(f, "nf4 in blocks of {block_size}{}", if *double { ", doubly quantised" } else { "" })
    }
}

/// A matrix in 4-bit codes; cloning shares the elements.
#[derive(Clone, Debug)]
pub struct Nf4Tensor {
    /// Two codes a byte, the first of a pair in the high half; elements in row-major order.
    pub codes: Buffer<u8>,
    /// Scale of every block.
    pub scales: BlockScales,
    /// Elements in a block.
    pub block: usize,
    /// Number of elements.
    pub len: usize,
}

impl Nf4Tensor {
    /// Quantises elements in row-major order. A code is the nearest one; halfway between two it is the lower one. `None`
    /// if an element is not finite.
    pub fn quantise(data: &[f32], options: &Quantization) -> Option<Self> {
        let bounds: [f32; 15] = std::array::from_fn(|i| (CODEBOOK[i] + CODEBOOK[i + 1]) / 2.0);
        let block = options.block_size;
        let mut absmax = vec![0f32; data.len().div_ceil(block)];
        let mut indices = vec![0u8; data.len().next_multiple_of(2)];
        let padding = data.len() % 2 == 1;
        let encode = |((absmax, to), from): ((&mut f32, &mut [u8]), &[f32])| -> bool {
            *absmax = from.iter().fold(0.0, |max: f32, x| max.max(x.abs()));
            let whole = from.len() == block;
            // The last block of a length that does not divide is divided by its scale, not multiplied with the reciprocal.
            let inverse = 1.0 / absmax.max(TINY);
            if !whole {
                *absmax = absmax.max(TINY);
            }
            for (x, to) in from.iter().zip(to) {
                let scaled = (if whole { x * inverse } else { x / *absmax }).clamp(-1.0, 1.0);
                *to = bounds.iter().map(|&bound| u8::from(bound < scaled)).sum();
            }
            from.iter().all(|x| x.is_finite())
        };
        let finite = absmax
            .par_iter_mut()
            .zip(indices.par_chunks_mut(block))
            .zip(data.par_chunks(block))
            .with_min_len(64)
            .map(encode)
            .reduce(|| true, |a, b| a && b);
        if !finite {
            return None;
        }
        if padding {
            // The padding is the value 0, whose code is 7.
            indices[data.len()] = 7;
        }
        let codes: Vec<u8> = indices.par_chunks_exact(2).with_min_len(1 << 14).map(|p| p[0] << 4 | p[1]).collect();
        let scales = match options.double {
            true => BlockScales::Nested(NestedScales::quantise(&absmax)),
            false => BlockScales::Plain(absmax.into()),
        };
        Some(Self { codes: codes.into(), scales, block, len: data.len() })
    }

    /// The code of one element.
    pub fn code(&self, index: usize) -> u8 {
        let byte = self.codes[index / 2];
        if index.is_multiple_of(2) { byte >> 4 } else { byte & 15 }
    }

    /// One element.
    pub fn at(&self, index: usize) -> f32 {
        CODEBOOK[self.code(index) as usize] * self.scales.at(index / self.block)
    }

    /// All elements: code times scale in f32.
    pub fn dequantise(&self) -> Vec<f32> {
        let mut out = vec![0f32; self.len];
        out.par_chunks_mut(self.block).enumerate().with_min_len(64).for_each(|(block, to)| {
            let scale = self.scales.at(block);
            for (i, x) in to.iter_mut().enumerate() {
                *x = CODEBOOK[self.code(block * self.block + i) as usize] * scale;
            }
        });
        out
    }

    /// Bytes of codes and scales.
    pub fn bytes(&self) -> usize {
        self.codes.len() + self.scales.bytes()
    }
}
