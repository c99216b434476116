//! GLM, and mixtures with its router.

use super::{llama::LLAMA, *};
use crate::{Placement, Positions, QkNorm, weights::Part};

pub(crate) const GLM: Family = Family {
    name: "glm",
    vocab_size: 151_552,
    intermediate_size: Some(13_696),
    num_layers: 40,
    num_kv_heads: Derivable { absent: Some(2), null: true },
    head_dim: Derivable { absent: Some(128), null: true },
    max_position_embeddings: 131_072,
    norm_eps: 1.5625e-7,
    rotated: Some(0.5),
    bos_token_id: None,
    eos_token_id: Some(151_329),
    biases: Biases::qkv(Flag::Key("attention_bias", true)),
    mlp_bias: Flag::Always(false),
    whole_heads: false,
    names: Names { gate_up: Some("mlp.gate_up_proj"), ..Names::LLAMA },
    complete: |_, config| {
        config.block.positions = Positions::Pairs;
        Ok(())
    },
    ..LLAMA
};

pub(crate) const GLM4: Family = Family {
    name: "glm4",
    names: Names {
        parts: &[
            (Part::AttentionOutNorm, "post_self_attn_layernorm"),
            (Part::FeedForwardOutNorm, "post_mlp_layernorm"),
        ],
        ..GLM.names
    },
    complete: |_, config| {
        (config.block.positions, config.block.placement) = (Positions::Pairs, Placement::Sandwich);
        Ok(())
    },
    ..GLM
};

pub(crate) const GLM4_MOE: Family = Family {
    name: "glm4_moe",
    intermediate_size: Some(10_944),
    num_layers: 46,
    num_heads: 96,
    num_kv_heads: Derivable { absent: Some(8), null: true },
    head_dim: Derivable { absent: None, null: true },
    norm_eps: 1e-5,
    eos_token_id: None,
    biases: Biases::qkv(Flag::Key("attention_bias", false)),
    names: Names { parts: &[(Part::Router, "mlp.gate")], experts: ExpertNames::QWEN, ..Names::LLAMA },
    complete: |keys, config| {
        config.block.qk_norm = keys.flag("use_qk_norm")?.then_some(QkNorm::HEAD);
        keys.sigmoid_experts(config, 128, true, 1.0)
    },
    ..GLM
};

pub(crate) const DOTS1: Family = Family {
    name: "dots1",
    vocab_size: 152_064,
    hidden_size: 4608,
    num_layers: 62,
    num_heads: 32,
    num_kv_heads: Derivable { absent: Some(32), null: true },
    max_position_embeddings: 2048,
    norm_eps: 1e-6,
    rotated: None,
    sliding_window: Some(4096),
    windows: Windows::From(62),
    biases: Biases::BY_KEY,
    complete: |keys, config| {
        config.block.qk_norm = Some(QkNorm::HEAD);
        keys.sigmoid_experts(config, 128, false, 1.0)
    },
    ..GLM4_MOE
};
