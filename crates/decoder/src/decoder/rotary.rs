//! Frequencies of the rotary embedding, with the scalings of long-context models.

use std::sync::{Arc, RwLock};

use crate::{DecoderConfig, RopeScaling};
use harness_kernels::cpu::rope::RopeTable;

/// Positions for which the table is computed at least.
const FIRST: usize = 2048;

/// The rotary table of a model, grown when longer inputs come.
#[derive(Debug)]
pub(crate) struct Rotary {
    frequencies: Vec<f32>,
    table: RwLock<Arc<RopeTable>>,
}

impl Rotary {
    /// The frequencies of a configuration for inputs of at most `max_length` tokens.
    pub(crate) fn new(config: &DecoderConfig, max_length: usize) -> Self {
        let frequencies = inverse_frequencies(config, max_length);
        let table = RopeTable::new(&frequencies, FIRST.min(max_length.max(1)), 1.0);
        Self { frequencies, table: RwLock::new(Arc::new(table)) }
    }

    /// A table of at least `positions` positions.
    pub(crate) fn table(&self, positions: usize) -> Arc<RopeTable> {
        {
            let table = self.table.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            if table.positions() >= positions {
                return Arc::clone(&table);
            }
        }
        let mut table = self.table.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if table.positions() < positions {
            *table = Arc::new(RopeTable::new(&self.frequencies, positions.next_power_of_two(), 1.0));
        }
        Arc::clone(&table)
    }
}

/// Radians per position for each of the `head_dim / 2` planes.
///
/// `dynamic` scaling depends on the length of the input in transformers; here it is fixed by the longest input allowed,
/// so that positions shared between inputs stay the same. Up to the model's own length both are plain RoPE.
pub fn inverse_frequencies(config: &DecoderConfig, max_length: usize) -> Vec<f32> {
    let dim = config.head_dim as f64;
    let plain = |theta: f64| -> Vec<f32> {
        (0..config.head_dim / 2).map(|i| (1.0 / theta.powf(2.0 * i as f64 / dim)) as f32).collect()
    };
    let frequencies = plain(config.rope.theta);
    match &config.rope.scaling {
        RopeScaling::None => frequencies,
        RopeScaling::Linear { factor } => frequencies.into_iter().map(|f| f / *factor as f32).collect(),
        RopeScaling::Dynamic { factor, original_max } => {
            if max_length <= *original_max {
                return frequencies;
            }
            let stretch = factor * max_length as f64 / *original_max as f64 - (factor - 1.0);
            plain(config.rope.theta * stretch.powf(dim / (dim - 2.0)))
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
    }
}
