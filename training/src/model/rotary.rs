//! Cosines and sines of the rotary embedding.

use harness_decoder::{DecoderConfig, RopeScaling, inverse_frequencies};

use crate::TrainingError;

/// Fails if the scaling depends on the length of the sequence and documents may be long enough for it to set in.
pub(super) fn check(config: &DecoderConfig, positions: usize) -> Result<(), TrainingError> {
    if let RopeScaling::Dynamic { original_max, .. } = config.rope.scaling
        && positions > original_max
    {
        let expected =
            format!("at most {original_max}: beyond it this model's rotary embedding changes with the length");
        return Err(TrainingError::setting("data.max_length", positions, expected));
    }
    Ok(())
}

/// For every position `head_dim / 2` cosines, then as many sines.
pub(super) fn table(config: &DecoderConfig, positions: usize) -> Vec<f32> {
    let frequencies = inverse_frequencies(config, positions);
    let mut table = Vec::with_capacity(positions * config.head_dim);
    for position in 0..positions {
        table.extend(frequencies.iter().map(|f| (position as f32 * f).cos()));
        table.extend(frequencies.iter().map(|f| (position as f32 * f).sin()));
    }
    table
}
