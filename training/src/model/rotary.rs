//! Which lengths of documents a rotary embedding can rotate.

use harness_decoder::{DecoderConfig, RopeScaling};

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
