//! Frequencies of the rotary embedding, with the scalings of long-context models.

use std::sync::{Arc, PoisonError, RwLock};

use crate::{DecoderConfig, Positions, Rope, RopeScaling};
use harness_kernels::cpu::rope::RopeTable;

/// Positions for which the table is computed at least.
const FIRST: usize = 2048;

/// The rotary table of a model, grown when longer inputs come.
#[derive(Debug)]
pub(super) struct Rotary {
    short: Frequencies,
    /// Those of inputs longer than so many tokens, where they differ.
    long: Option<(usize, Frequencies)>,
    head_dim: usize,
    pairs: bool,
    table: RwLock<Arc<RopeTable>>,
}

/// Radians per position, and the factor on cosine and sine.
#[derive(Debug)]
struct Frequencies(Vec<f32>, f32);

impl Rotary {
    /// The frequencies of a rotation for inputs of at most `max_length` tokens.
    pub(super) fn new(config: &DecoderConfig, rope: &Rope, max_length: usize) -> Self {
        let dims = config.rotary_dims();
        let (factor, long) = match &rope.scaling {
            RopeScaling::Yarn { attention_factor, .. } => (*attention_factor, None),
            RopeScaling::LongRope { long, original_max, attention_factor, long_attention_factor, .. } => {
                let frequencies = divided(rope.theta, dims, long);
                (*attention_factor, Some((*original_max, Frequencies(frequencies, *long_attention_factor as f32))))
            }
            _ => (1.0, None),
        };
        let rotary = Self {
            short: Frequencies(frequencies(rope, dims, max_length), factor as f32),
            long,
            head_dim: config.head_dim,
            pairs: config.block.positions == Positions::Pairs,
            table: RwLock::new(Arc::new(RopeTable::new(&[], 0, 1.0))),
        };
        *rotary.table.write().unwrap_or_else(PoisonError::into_inner) = rotary.build(FIRST.min(max_length.max(1)));
        rotary
    }

    fn build(&self, positions: usize) -> Arc<RopeTable> {
        let of = |Frequencies(frequencies, factor): &Frequencies| RopeTable::new(frequencies, positions, *factor);
        let table = match &self.long {
            Some((_, long)) => of(&self.short).followed_by(of(long)),
            None => of(&self.short),
        };
        Arc::new(table.with_heads(self.head_dim, self.pairs))
    }

    /// Longest input in tokens whose positions are those of [`Self::table`] from 0 on.
    pub(super) fn longest_short(&self) -> usize {
        self.long.as_ref().map_or(usize::MAX, |(longest, _)| *longest)
    }

    /// A table of at least `positions` positions, and where in it those of long inputs begin.
    pub(super) fn table(&self, positions: usize) -> (Arc<RopeTable>, usize) {
        let parts = if self.long.is_some() { 2 } else { 1 };
        let in_two = |table: &Arc<RopeTable>| (Arc::clone(table), table.positions() / parts);
        {
            let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
            if table.positions() / parts >= positions {
                return in_two(&table);
            }
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.positions() / parts < positions {
            *table = self.build(positions.next_power_of_two());
        }
        in_two(&table)
    }
}

/// Cosines and sines of a rotation for the positions below `max_length`: for every position one cosine a plane, then as
/// many sines. Where inputs beyond some length are rotated otherwise, as many positions follow for those, and the length
/// is given.
pub fn rotary_table(config: &DecoderConfig, rope: &Rope, max_length: usize) -> (Vec<f32>, Option<usize>) {
    let rotary = Rotary::new(config, rope, max_length);
    let host = rotary.build(max_length);
    let mut table = Vec::with_capacity(host.positions() * config.rotary_dims());
    for position in 0..host.positions() {
        let (cosines, sines) = host.angles(position);
        table.extend_from_slice(cosines);
        table.extend_from_slice(sines);
    }
    (table, rotary.long.map(|(longest, _)| longest))
}

/// Radians per position for each of the rotated planes of the main rotation.
///
/// `dynamic` scaling depends on the length of the input in transformers; here it is fixed by the longest input allowed,
/// so that positions shared between inputs stay the same. Up to the model's own length both are plain RoPE.
pub fn inverse_frequencies(config: &DecoderConfig, max_length: usize) -> Vec<f32> {
    frequencies(&config.rope, config.rotary_dims(), max_length)
}

fn plain(theta: f64, dims: usize) -> impl Iterator<Item = f64> {
    (0..dims / 2).map(move |i| 1.0 / theta.powf(2.0 * i as f64 / dims as f64))
}

fn divided(theta: f64, dims: usize, divisors: &[f64]) -> Vec<f32> {
    plain(theta, dims).zip(divisors).map(|(f, d)| (f / d) as f32).collect()
}

fn frequencies(rope: &Rope, dims: usize, max_length: usize) -> Vec<f32> {
    let dim = dims as f64;
    let of = |theta: f64| -> Vec<f32> { plain(theta, dims).map(|f| f as f32).collect() };
    let frequencies = of(rope.theta);
    match &rope.scaling {
        RopeScaling::None => frequencies,
        RopeScaling::Linear { factor } => frequencies.into_iter().map(|f| f / *factor as f32).collect(),
        RopeScaling::Dynamic { factor, original_max } => {
            if max_length <= *original_max {
                return frequencies;
            }
            let stretch = factor * max_length as f64 / *original_max as f64 - (factor - 1.0);
            of(rope.theta * stretch.powf(dim / (dim - 2.0)))
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max } => frequencies
            .into_iter()
            .map(|f| {
                let wavelength = 2.0 * std::f64::consts::PI / f64::from(f);
                let original = *original_max as f64;
                if wavelength < original / high_freq_factor {
                    f
                } else if wavelength > original / low_freq_factor {
                    (f64::from(f) / factor) as f32
                } else {
                    let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    ((1.0 - smooth) * f64::from(f) / factor + smooth * f64::from(f)) as f32
                }
            })
            .collect(),
        RopeScaling::Divisors(divisors) => frequencies.iter().zip(divisors).map(|(f, d)| f / d).collect(),
        RopeScaling::Yarn { factor, original_max, beta_fast, beta_slow, truncate, .. } => {
            // The plane that turns so often within the first training.
            let plane = |turns: f64| {
                dim * (*original_max as f64 / (turns * 2.0 * std::f64::consts::PI)).ln() / (2.0 * rope.theta.ln())
            };
            let (low, high) = (plane(*beta_fast), plane(*beta_slow));
            let (low, high) = if *truncate { (low.floor(), high.ceil()) } else { (low, high) };
            let (low, high) = (low.max(0.0), high.min(dim - 1.0));
            let high = if low == high { high + 0.001 } else { high };
            let mix = |(i, f): (usize, f64)| {
                let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                (f / factor * ramp + f * (1.0 - ramp)) as f32
            };
            plain(rope.theta, dims).enumerate().map(mix).collect()
        }
        RopeScaling::LongRope { short, .. } => divided(rope.theta, dims, short),
    }
}
