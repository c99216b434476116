//! Microsoft's Phi.

use super::{llama::LLAMA, *};
use crate::{Norm, Placement, QkNorm, weights::Part};

pub(crate) const PHI3: Family = Family {
    name: "phi3",
    vocab_size: 32_064,
    hidden_size: 3072,
    intermediate_size: Some(8192),
    num_kv_heads: Derivable { absent: None, null: true },
    max_position_embeddings: 4096,
    norm_eps: 1e-5,
    rotated: Some(1.0),
    original_max: Some(4096),
    windows: Windows::Always,
    eos_token_id: Some(32_000),
    biases: Biases::NONE,
    mlp_bias: Flag::Always(false),
    names: Names {
        qkv: Some(("self_attn.qkv_proj", QkvOrder::Blocks)),
        gate_up: Some("mlp.gate_up_proj"),
        ..Names::LLAMA
    },
    ..LLAMA
};

pub(crate) const PHI: Family = Family {
    name: "phi",
    vocab_size: 51_200,
    hidden_size: 2048,
    intermediate_size: Some(8192),
    num_layers: 24,
    norm_eps: 1e-5,
    rotated: Some(0.5),
    biases: Biases::ALL,
    mlp_bias: Flag::Always(true),
    activation: ("hidden_act", "gelu_new"),
    keys: &[("rms_norm_eps", "layer_norm_eps")],
    names: Names {
        norm: "final_layernorm",
        parts: &[
            (Part::O, "self_attn.dense"),
            (Part::Up, "mlp.fc1"),
            (Part::Down, "mlp.fc2"),
            (Part::QNorm, "self_attn.q_layernorm"),
            (Part::KNorm, "self_attn.k_layernorm"),
        ],
        ..Names::LLAMA
    },
    complete: |keys, config| {
        let block = &mut config.block;
        (block.norm, block.placement) = (Norm::LAYER_WITH_BIAS, Placement::Parallel);
        (block.gated, block.head_bias) = (false, true);
        block.qk_norm = keys.flag("qk_layernorm")?.then_some(QkNorm { norm: Norm::LAYER_WITH_BIAS, ..QkNorm::HEAD });
        Ok(())
    },
    ..LLAMA
};
