//! GPT-2 and its kin: layer norms, feed-forward blocks without a gate, learned positions or ALiBi or a rotated part.

use half::bf16;

use super::{llama::LLAMA, *};
use crate::{Norm, Placement, Positions, weights::Part};

pub(crate) const GPT2: Family = Family {
    name: "gpt2",
    vocab_size: 50_257,
    hidden_size: 768,
    intermediate_size: None,
    num_layers: 12,
    num_heads: 12,
    max_position_embeddings: 1024,
    norm_eps: 1e-5,
    bos_token_id: Some(50_256),
    eos_token_id: Some(50_256),
    biases: Biases::ALL,
    mlp_bias: Flag::Always(true),
    tied: true,
    activation: ("activation_function", "gelu_new"),
    keys: &[
        ("hidden_size", "n_embd"),
        ("num_attention_heads", "n_head"),
        ("num_key_value_heads", ""),
        ("head_dim", ""),
        ("num_hidden_layers", "n_layer"),
        ("intermediate_size", "n_inner"),
        ("max_position_embeddings", "n_positions"),
        ("rms_norm_eps", "layer_norm_epsilon"),
    ],
    names: Names {
        roots: &["transformer.", ""],
        layers: "h.",
        embed: "wte",
        norm: "ln_f",
        positions: "wpe",
        parts: &[
            (Part::InputNorm, "ln_1"),
            (Part::PostAttentionNorm, "ln_2"),
            (Part::O, "attn.c_proj"),
            (Part::Up, "mlp.c_fc"),
            (Part::Down, "mlp.c_proj"),
        ],
        qkv: Some(("attn.c_attn", QkvOrder::Blocks)),
        transposed: true,
        ..Names::LLAMA
    },
    complete: |keys, config| {
        gpt2(keys, config)?;
        config.block.scores_by_layer = keys.flag("scale_attn_by_inverse_layer_idx")?;
        if keys.flag("add_cross_attention")? {
            return Err(keys.error("add_cross_attention", true, "false (encoders are not supported)"));
        }
        Ok(())
    },
    ..LLAMA
};

fn learned(config: &mut DecoderConfig, offset: usize) {
    config.block.norm = Norm::LAYER_WITH_BIAS;
    config.block.gated = false;
    config.block.positions = Positions::Learned { offset };
}

/// Learned positions, and scores that may not be scaled.
fn gpt2(keys: &Keys<'_>, config: &mut DecoderConfig) -> Result<(), DecoderError> {
    learned(config, 0);
    if !keys.or("scale_attn_weights", true, "true or false")? {
        config.block.score_scale = Some(1.0);
    }
    Ok(())
}

pub(crate) const GPT_BIGCODE: Family = Family {
    name: "gpt_bigcode",
    activation: ("activation_function", "gelu_pytorch_tanh"),
    names: Names { qkv: Some(("attn.c_attn", QkvOrder::Groups)), transposed: false, ..GPT2.names },
    complete: |keys, config| {
        if keys.or("multi_query", true, "true or false")? {
            config.num_kv_heads = 1;
        }
        gpt2(keys, config)
    },
    ..GPT2
};

pub(crate) const GPT_NEOX: Family = Family {
    name: "gpt_neox",
    vocab_size: 50_432,
    hidden_size: 6144,
    intermediate_size: Some(24_576),
    num_layers: 44,
    num_heads: 64,
    norm_eps: 1e-5,
    rotated: Some(0.25),
    bos_token_id: Some(0),
    biases: Biases::all(Flag::Key("attention_bias", true)),
    mlp_bias: Flag::Always(true),
    activation: ("hidden_act", "gelu"),
    keys: &[
        ("num_key_value_heads", ""),
        ("head_dim", ""),
        ("rms_norm_eps", "layer_norm_eps"),
        ("rope_theta", "rotary_emb_base"),
        ("partial_rotary_factor", "rotary_pct"),
    ],
    names: Names {
        roots: &["gpt_neox."],
        embed: "embed_in",
        norm: "final_layer_norm",
        head: "embed_out",
        parts: &[(Part::O, "attention.dense"), (Part::Up, "mlp.dense_h_to_4h"), (Part::Down, "mlp.dense_4h_to_h")],
        qkv: Some(("attention.query_key_value", QkvOrder::Groups)),
        ..Names::LLAMA
    },
    complete: |keys, config| {
        let block = &mut config.block;
        (block.norm, block.gated) = (Norm::LAYER_WITH_BIAS, false);
        if keys.or("use_parallel_residual", true, "true or false")? {
            block.placement = Placement::ParallelTwo;
        }
        Ok(())
    },
    ..LLAMA
};

pub(crate) const GPTJ: Family = Family {
    name: "gptj",
    vocab_size: 50_400,
    hidden_size: 4096,
    num_layers: 28,
    num_heads: 16,
    max_position_embeddings: 2048,
    biases: Biases::NONE,
    tied: false,
    names: Names {
        parts: &[
            (Part::InputNorm, "ln_1"),
            (Part::Q, "attn.q_proj"),
            (Part::K, "attn.k_proj"),
            (Part::V, "attn.v_proj"),
            (Part::O, "attn.out_proj"),
            (Part::Up, "mlp.fc_in"),
            (Part::Down, "mlp.fc_out"),
        ],
        qkv: None,
        transposed: false,
        positions: "",
        ..GPT2.names
    },
    complete: |keys, config| {
        let dims = keys.size_or("rotary_dim", 64, config.head_dim)?;
        let block = &mut config.block;
        (block.norm, block.placement, block.positions) = (Norm::LAYER_WITH_BIAS, Placement::Parallel, Positions::Pairs);
        (block.gated, block.head_bias) = (false, true);
        block.rotary_dims = Some(dims).filter(|&dims| dims != config.head_dim);
        Ok(())
    },
    ..GPT2
};

pub(crate) const OPT: Family = Family {
    name: "opt",
    vocab_size: 50_272,
    intermediate_size: Some(3072),
    max_position_embeddings: 2048,
    bos_token_id: Some(2),
    eos_token_id: Some(2),
    biases: Biases::all(Flag::Key("enable_bias", true)),
    mlp_bias: Flag::Key("enable_bias", true),
    activation: ("activation_function", "relu"),
    keys: &[("num_key_value_heads", ""), ("head_dim", ""), ("intermediate_size", "ffn_dim"), ("rms_norm_eps", "")],
    names: Names {
        roots: &["model.decoder.", "decoder."],
        layers: "layers.",
        embed: "embed_tokens",
        norm: "final_layer_norm",
        positions: "embed_positions",
        parts: &[
            (Part::InputNorm, "self_attn_layer_norm"),
            (Part::PostAttentionNorm, "final_layer_norm"),
            (Part::O, "self_attn.out_proj"),
            (Part::Up, "fc1"),
            (Part::Down, "fc2"),
        ],
        ..Names::LLAMA
    },
    complete: |keys, config| {
        learned(config, 2);
        if !keys.or("layer_norm_elementwise_affine", true, "true or false")? {
            return Err(keys.error("layer_norm_elementwise_affine", false, "true"));
        }
        let before = keys.or("do_layer_norm_before", true, "true or false")?;
        config.block.final_norm = before && !keys.flag("_remove_final_layer_norm")?;
        if !before {
            config.block.placement = Placement::AfterSum;
        }
        let width = keys.size("word_embed_proj_dim")?;
        config.block.embedding_width = width.filter(|&width| width != config.hidden_size);
        Ok(())
    },
    ..GPT2
};

pub(crate) const BLOOM: Family = Family {
    name: "bloom",
    vocab_size: 250_880,
    hidden_size: 64,
    num_layers: 2,
    num_heads: 8,
    max_position_embeddings: 2048,
    bos_token_id: Some(1),
    eos_token_id: Some(2),
    activation: ("", "gelu_new"),
    keys: &[
        ("hidden_size", "hidden_size|n_embed"),
        ("num_attention_heads", "n_head|num_attention_heads"),
        ("num_key_value_heads", ""),
        ("head_dim", ""),
        ("num_hidden_layers", "n_layer|num_hidden_layers"),
        ("intermediate_size", ""),
        ("max_position_embeddings", "seq_length"),
        ("rms_norm_eps", "layer_norm_epsilon"),
    ],
    names: Names {
        embed: "word_embeddings",
        positions: "",
        embed_norm: "word_embeddings_layernorm",
        parts: &[
            (Part::InputNorm, "input_layernorm|ln_attn"),
            (Part::PostAttentionNorm, "post_attention_layernorm|ln_mlp"),
            (Part::O, "self_attention.dense"),
            (Part::Up, "mlp.dense_h_to_4h"),
            (Part::Down, "mlp.dense_4h_to_h"),
        ],
        qkv: Some(("self_attention.query_key_value", QkvOrder::Groups)),
        transposed: false,
        ..GPT2.names
    },
    complete: |keys, config| {
        let slopes = slopes(config.num_heads);
        let block = &mut config.block;
        (block.norm, block.gated, block.embedding_norm) = (Norm::LAYER_WITH_BIAS, false, true);
        block.positions = Positions::Alibi { slopes, rounded: None };
        if keys.flag("apply_residual_connection_post_layernorm")? {
            block.placement = Placement::NormedResidual;
        }
        Ok(())
    },
    ..GPT2
};

/// ALiBi's slopes: the powers of `2^(−8 / n)` for the largest power of two n within the heads, then every other one of those
/// for 2n.
fn slopes(heads: usize) -> Vec<f32> {
    let n = 1 << heads.ilog2();
    let power = |i: usize, n: usize| (-8.0 * i as f64 / n as f64).exp2() as f32;
    (1..=n).map(|i| power(i, n)).chain((0..heads - n).map(|i| power(2 * i + 1, 2 * n))).collect()
}

pub(crate) const FALCON: Family = Family {
    name: "falcon",
    vocab_size: 65_024,
    hidden_size: 4544,
    num_layers: 32,
    num_heads: 71,
    bos_token_id: Some(11),
    eos_token_id: Some(11),
    rope_theta: 1e4,
    biases: Biases::all(Flag::Key("bias", false)),
    mlp_bias: Flag::Key("bias", false),
    activation: ("activation", "gelu"),
    keys: &[
        ("num_key_value_heads", ""),
        ("head_dim", ""),
        ("intermediate_size", "ffn_hidden_size"),
        ("rms_norm_eps", "layer_norm_epsilon"),
    ],
    complete: |keys, config| {
        let yes = |key: &str, default| keys.or(key, default, "true or false");
        let heads = config.num_heads;
        let grouped = yes("new_decoder_architecture", false)?;
        config.num_kv_heads = match grouped {
            true => keys.size("num_kv_heads")?.unwrap_or(heads),
            false if yes("multi_query", true)? => 1,
            false => heads,
        };
        if !heads.is_multiple_of(config.num_kv_heads) {
            return Err(keys.error("num_kv_heads", config.num_kv_heads, format!("a divisor of {heads} heads")));
        }
        let norms = keys.size("num_ln_in_parallel_attn")?.unwrap_or(if grouped { 2 } else { 1 });
        let parallel = grouped || yes("parallel_attn", true)?;
        let alibi = yes("alibi", false)?;
        let scale = 1.0 / (config.head_dim as f32).sqrt();
        let block = &mut config.block;
        (block.norm, block.gated) = (Norm::LAYER_WITH_BIAS, false);
        block.placement = match (parallel, norms) {
            (false, _) => Placement::Pre,
            (true, 2) if grouped => Placement::ParallelTwo,
            (true, _) => Placement::Parallel,
        };
        if alibi {
            // transformers computes them in bf16.
            let slopes = slopes(heads).into_iter().map(|slope| bf16::from_f32(slope).to_f32()).collect();
            block.positions = Positions::Alibi { slopes, rounded: Some(scale) };
        }
        Ok(())
    },
    ..BLOOM
};

pub(crate) const MPT: Family = Family {
    name: "mpt",
    vocab_size: 50_368,
    hidden_size: 2048,
    num_layers: 24,
    num_heads: 16,
    biases: Biases::NONE,
    mlp_bias: Flag::Always(false),
    bos_token_id: None,
    eos_token_id: None,
    activation: ("", "gelu"),
    keys: &[
        ("hidden_size", "d_model"),
        ("num_attention_heads", "n_heads"),
        ("num_key_value_heads", ""),
        ("head_dim", ""),
        ("num_hidden_layers", "n_layers"),
        ("intermediate_size", ""),
        ("max_position_embeddings", "max_seq_len"),
        ("rms_norm_eps", "layer_norm_epsilon"),
    ],
    names: Names {
        layers: "blocks.",
        embed: "wte",
        norm: "norm_f",
        embed_norm: "",
        parts: &[
            (Part::InputNorm, "norm_1"),
            (Part::PostAttentionNorm, "norm_2"),
            (Part::O, "attn.out_proj"),
            (Part::Up, "ffn.up_proj"),
            (Part::Down, "ffn.down_proj"),
        ],
        qkv: Some(("attn.Wqkv", QkvOrder::Blocks)),
        ..BLOOM.names
    },
    complete: |keys, config| {
        let heads = config.num_heads;
        let n = heads.next_power_of_two();
        let power = |i: usize| (-8.0 * i as f64 / n as f64).exp2() as f32;
        let slopes = match n == heads {
            true => (1..=n).map(power).collect(),
            // Every other one first.
            false => {
                (1..=n / 2).map(|i| power(2 * i)).chain((0..n / 2).map(|i| power(2 * i + 1))).take(heads).collect()
            }
        };
        for (key, value) in [("expansion_ratio", 4), ("logit_scale", 0)] {
            if let Some(found) = keys.get(key).filter(|found| found.as_u64() != Some(value)) {
                return Err(keys.error(key, found, if value == 0 { "null".to_owned() } else { value.to_string() }));
            }
        }
        let attention = keys.inner("attn_config")?;
        for (key, value) in [("alibi", true), ("qk_ln", false), ("prefix_lm", false), ("attn_uses_sequence_id", false)]
        {
            if attention.or(key, value, "true or false")? != value {
                return Err(attention.error(key, !value, value));
            }
        }
        if let Some(found) = attention.get("alibi_bias_max").filter(|found| found.as_f64() != Some(8.0)) {
            return Err(attention.error("alibi_bias_max", found, 8));
        }
        let block = &mut config.block;
        (block.norm, block.gated) = (Norm::LAYER, false);
        block.positions = Positions::Alibi { slopes, rounded: None };
        block.clip_qkv = attention.number("clip_qkv")?.map(|limit| limit as f32);
        block.score_scale = attention.number("softmax_scale")?;
        Ok(())
    },
    ..BLOOM
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_by_hand() {
        assert_eq!(slopes(4), [0.25, 0.0625, 0.015_625, 0.003_906_25]);
        assert_eq!(slopes(6)[4..], [0.5, 0.125]);
    }
}
