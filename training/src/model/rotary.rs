//! Cosines and sines of the rotary embedding.

use harness_engine::{DecoderConfig, RopeScaling};

use crate::TrainingError;

/// Inverse frequencies, `head_dim / 2` of them.
fn inverse_frequencies(config: &DecoderConfig) -> Vec<f64> {
    let half = config.head_dim / 2;
    let plain = (0..half).map(|i| config.rope.theta.powf(-(2.0 * i as f64) / config.head_dim as f64));
    match &config.rope.scaling {
        RopeScaling::Linear { factor } => plain.map(|f| f / factor).collect(),
        RopeScaling::Divisors(divisors) => plain.zip(divisors).map(|(f, &divisor)| f / f64::from(divisor)).collect(),
        &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max } => {
            let original = original_max as f64;
            let scaled = |f: f64| {
                let wavelength = std::f64::consts::TAU / f;
                if wavelength < original / high_freq_factor {
                    f
                } else if wavelength > original / low_freq_factor {
                    f / factor
                } else {
                    let smooth =
                        (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * f / factor + smooth * f
                }
            };
            plain.map(scaled).collect()
        }
        _ => plain.collect(),
    }
}

/// For every position `head_dim / 2` cosines, then as many sines.
///
/// # Errors
/// If the scaling depends on the length of the sequence and documents may be long enough for it to set in.
pub(super) fn table(config: &DecoderConfig, positions: usize) -> Result<Vec<f32>, TrainingError> {
    if let RopeScaling::Dynamic { original_max, .. } = config.rope.scaling
        && positions > original_max
    {
        let expected = format!("at most {original_max}: beyond it this model's rotary embedding changes with the length");
        return Err(TrainingError::setting("data.max_length", positions, expected));
    }
    // As in the forward pass of the engine: both factors of the angle in f32.
    let frequencies: Vec<f32> = inverse_frequencies(config).into_iter().map(|f| f as f32).collect();
    let mut table = Vec::with_capacity(positions * config.head_dim);
    for position in 0..positions {
        table.extend(frequencies.iter().map(|f| (position as f32 * f).cos()));
        table.extend(frequencies.iter().map(|f| (position as f32 * f).sin()));
    }
    Ok(table)
}
