//! Gemma: norms by one more than the weight, a scaled embedding, a gate with tanh-GELU.

use harness_kernels::cpu::activation::Activation;

use super::{llama::LLAMA, *};
use crate::{Norm, NormWeight, Placement, QkNorm, config::Keys, weights::Part};

const ONE_MORE: Norm = Norm { weight: NormWeight::OneMore, ..Norm::RMS };

fn gemma(_: &Keys<'_>, config: &mut DecoderConfig) -> Result<(), DecoderError> {
    config.block.norm = ONE_MORE;
    config.block.embedding_scale = (config.hidden_size as f64).sqrt() as f32;
    Ok(())
}

/// Norms around both, scores by `query_pre_attn_scalar`, soft limits.
fn gemma2(keys: &Keys<'_>, config: &mut DecoderConfig) -> Result<(), DecoderError> {
    gemma(keys, config)?;
    if keys.value("use_bidirectional_attention", "true or false")? == Some(true) {
        let expected = "false (attention to later tokens is not supported)";
        return Err(keys.error("use_bidirectional_attention", true, expected));
    }
    let block = &mut config.block;
    block.placement = Placement::Sandwich;
    block.score_scale = Some(keys.number_or("query_pre_attn_scalar", 256.0)?.powf(-0.5));
    Ok(())
}

/// A soft limit by its key.
fn cap(keys: &Keys<'_>, key: &str, default: Option<f64>) -> Result<Option<f32>, DecoderError> {
    let cap = if keys.has(key) { keys.number(key)? } else { default };
    Ok(cap.map(|cap| cap as f32))
}

pub(crate) const GEMMA: Family = Family {
    name: "gemma",
    vocab_size: 256_000,
    hidden_size: 3072,
    intermediate_size: Some(24_576),
    num_layers: 28,
    num_heads: 16,
    num_kv_heads: Derivable { absent: Some(16), null: false },
    head_dim: Derivable { absent: Some(256), null: false },
    max_position_embeddings: 8192,
    bos_token_id: Some(2),
    eos_token_id: Some(1),
    mlp_bias: Flag::Always(false),
    tied: true,
    whole_heads: false,
    activation: ("hidden_act", "gelu_pytorch_tanh"),
    complete: |keys, config| {
        // The class takes the old name for its approximation.
        if config.block.activation == Activation::Gelu {
            config.block.activation = Activation::GeluTanh;
        }
        gemma(keys, config)
    },
    ..LLAMA
};

const SANDWICH: &[(Part, &str)] = &[
    (Part::PostAttentionNorm, "pre_feedforward_layernorm"),
    (Part::AttentionOutNorm, "post_attention_layernorm"),
    (Part::FeedForwardOutNorm, "post_feedforward_layernorm"),
];

pub(crate) const GEMMA2: Family = Family {
    name: "gemma2",
    activation: ("hidden_activation", "gelu_pytorch_tanh"),
    hidden_size: 2304,
    intermediate_size: Some(9216),
    num_layers: 26,
    num_heads: 8,
    num_kv_heads: Derivable { absent: Some(4), null: false },
    sliding_window: Some(4096),
    windows: Windows::Every("", 2),
    names: Names { parts: SANDWICH, ..Names::LLAMA },
    complete: |keys, config| {
        gemma2(keys, config)?;
        config.block.score_cap = cap(keys, "attn_logit_softcapping", Some(50.0))?;
        config.block.logit_cap = cap(keys, "final_logit_softcapping", Some(30.0))?;
        Ok(())
    },
    ..GEMMA
};

pub(crate) const GEMMA3_TEXT: Family = Family {
    name: "gemma3_text",
    vocab_size: 262_208,
    max_position_embeddings: 131_072,
    rope_theta: 1e6,
    local_rope: Some(("rope_local_base_freq", 1e4)),
    windows: Windows::Every("sliding_window_pattern", 6),
    complete: |keys, config| {
        gemma2(keys, config)?;
        // `attn_logit_softcapping` is a key of the class that its model does not use.
        config.block.logit_cap = cap(keys, "final_logit_softcapping", None)?;
        config.block.qk_norm = Some(QkNorm { norm: ONE_MORE, ..QkNorm::HEAD });
        Ok(())
    },
    ..GEMMA2
};

/// The language model of a model that sees pictures.
pub(crate) const GEMMA3: Family = Family {
    name: "gemma3",
    within: "text_config",
    names: Names {
        roots: &["language_model.model.", "model.language_model."],
        head: "language_model.lm_head",
        beside: &["vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."],
        ..GEMMA3_TEXT.names
    },
    ..GEMMA3_TEXT
};
