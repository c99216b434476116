//! Cohere's Command: attention and feed-forward block side by side behind one layer norm.

use super::{llama::LLAMA, *};
use crate::{Norm, Placement, Positions, QkNorm, Rotation, Span, config::Keys};

fn cohere(keys: &Keys<'_>, config: &mut DecoderConfig) -> Result<(), DecoderError> {
    let block = &mut config.block;
    (block.norm, block.placement, block.positions) = (Norm::LAYER, Placement::Parallel, Positions::Pairs);
    block.logit_scale = keys.number_or("logit_scale", 0.0625)? as f32;
    Ok(())
}

pub(crate) const COHERE: Family = Family {
    name: "cohere",
    vocab_size: 256_000,
    hidden_size: 8192,
    intermediate_size: Some(22_528),
    num_layers: 40,
    num_heads: 64,
    max_position_embeddings: 8192,
    norm_eps: 1e-5,
    rope_theta: 5e5,
    bos_token_id: Some(5),
    eos_token_id: Some(255_001),
    mlp_bias: Flag::Always(false),
    tied: true,
    keys: &[("rms_norm_eps", "layer_norm_eps")],
    complete: |keys, config| {
        cohere(keys, config)?;
        let norm = QkNorm { span: Span::EachHead, norm: Norm::LAYER, after_rotation: false };
        config.block.qk_norm = keys.flag("use_qk_norm")?.then_some(norm);
        Ok(())
    },
    ..LLAMA
};

pub(crate) const COHERE2: Family = Family {
    name: "cohere2",
    head_dim: Derivable { absent: Some(128), null: true },
    rope_theta: 1e4,
    sliding_window: Some(4096),
    windows: Windows::Every("sliding_window_pattern", 4),
    complete: |keys, config| {
        cohere(keys, config)?;
        config.rotate_by_window(Rotation::Main, Rotation::None);
        Ok(())
    },
    ..COHERE
};
