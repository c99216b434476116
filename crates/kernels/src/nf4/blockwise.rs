//! Scales of blocks, plain or quantised to 8 bits by a dynamic map (Dettmers et al. 2022).

use std::sync::LazyLock;

use super::TINY;
use crate::Buffer;

/// Scales that share an 8-bit code's own scale.
pub(super) const NESTED_BLOCK: usize = 256;

/// The 256 values of the signed dynamic map in increasing order: for each of seven powers of ten the means of an even
/// grid on [0.1, 1] with twice as many steps as the power below, with both signs; 0; and 1.
pub(super) static DYNAMIC_MAP: LazyLock<Vec<f32>> = LazyLock::new(|| {
    let mut values = vec![0.0, 1.0];
    for power in 0..7u32 {
        let steps = 1usize << power;
        let grid = |i: usize| linspace(steps, i);
        let factor = 10f64.powi(power as i32 - 6);
        for i in 0..steps {
            let value = factor as f32 * ((grid(i) + grid(i + 1)) / 2.0);
            values.extend([value, -value]);
        }
    }
    values.sort_by(f32::total_cmp);
    values
});

/// The code whose value is nearest, for each of 65,536 even steps over [-1, 1]. bitsandbytes' kernel for processors
/// rounds to these steps first; where two codes lie within one step it does not tell them apart.
static NEAREST: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let map = &*DYNAMIC_MAP;
    let middles: Vec<f64> = map.windows(2).map(|pair| (f64::from(pair[0]) + f64::from(pair[1])) / 2.0).collect();
    let code = |step: u16| {
        let value = f64::from(f32::from(step) / STEPS - 1.0);
        middles.partition_point(|&middle| middle < value) as u8
    };
    (0..=u16::MAX).map(code).collect()
});

/// Steps of [`NEAREST`] from 0 to 1.
const STEPS: f32 = 32767.5;

/// Point `i` of `steps + 1` evenly spaced ones on [0.1, 1], counted from the nearer end with fused
/// multiply-adds in f32, as PyTorch does.
fn linspace(steps: usize, i: usize) -> f32 {
    let (start, end) = (0.1f32, 1f32);
    let step = (end - start) / steps as f32;
    if i < steps.div_ceil(2) { step.mul_add(i as f32, start) } else { (-step).mul_add((steps - i) as f32, end) }
}

/// Scale of every block.
#[derive(Clone, Debug)]
pub enum BlockScales {
    /// In f32.
    Plain(Buffer<f32>),
    /// In 8 bits.
    Nested(NestedScales),
}

impl BlockScales {
    /// The scale of a block.
    #[inline]
    pub fn at(&self, block: usize) -> f32 {
        match self {
            Self::Plain(scales) => scales[block],
            Self::Nested(scales) => scales.at(block),
        }
    }

    /// Number of blocks.
    pub fn len(&self) -> usize {
        match self {
            Self::Plain(scales) => scales.len(),
            Self::Nested(scales) => scales.codes.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Plain(scales) => 4 * scales.len(),
            Self::Nested(scales) => scales.codes.len() + 4 * scales.absmax.len() + 4,
        }
    }
}

/// Scales in 8 bits: `map[code] * absmax[block / 256] + offset`.
#[derive(Clone, Debug)]
pub struct NestedScales {
    /// Codes, one a block.
    pub codes: Buffer<u8>,
    /// Scale of every 256 codes.
    pub absmax: Buffer<f32>,
    /// Mean of all scales, subtracted before quantisation.
    pub offset: f32,
}

impl NestedScales {
    /// Codes that share a scale.
    pub const BLOCK: usize = NESTED_BLOCK;

    /// The 256 values of a code.
    pub fn map() -> &'static [f32] {
        &DYNAMIC_MAP
    }

    /// Quantises scales.
    pub fn quantise(scales: &[f32]) -> Self {
        let mean = scales.iter().map(|&x| f64::from(x)).sum::<f64>() / scales.len().max(1) as f64;
        Self::quantise_around(scales, mean as f32)
    }

    /// Quantises what is left after this offset is subtracted.
    pub fn quantise_around(scales: &[f32], offset: f32) -> Self {
        let nearest = &*NEAREST;
        let (mut codes, mut absmax) = (Vec::with_capacity(scales.len()), vec![]);
        for block in scales.chunks(NESTED_BLOCK) {
            let rest: Vec<f32> = block.iter().map(|x| x - offset).collect();
            let max = rest.iter().fold(0.0, |max: f32, x| max.max(x.abs()));
            let inverse = 1.0 / max.max(TINY);
            absmax.push(max);
            if max == 0.0 {
                // Any code stands for 0 then; bitsandbytes' kernel for processors writes this one.
                codes.extend(block.iter().map(|_| 0));
                continue;
            }
            codes.extend(rest.iter().map(|x| {
                let scaled = (x * inverse).clamp(-1.0, 1.0);
                nearest[(((scaled + 1.0) * STEPS + 0.5) as usize).min(nearest.len() - 1)]
            }));
        }
        Self { codes: codes.into(), absmax: absmax.into(), offset }
    }

    #[inline]
    fn at(&self, block: usize) -> f32 {
        DYNAMIC_MAP[self.codes[block] as usize] * self.absmax[block / NESTED_BLOCK] + self.offset
    }
}
