//! Families of their own.

use super::{latent::latent, llama::LLAMA, *};
use crate::{
    Convolution, Norm, NormWeight, Placement, Positions, QkNorm, RopeScaling, Span,
    config::{Keys, layer_types},
    weights::Part,
};

pub(crate) const STABLELM: Family = Family {
    name: "stablelm",
    vocab_size: 50_304,
    hidden_size: 2560,
    intermediate_size: Some(6912),
    num_kv_heads: Derivable { absent: Some(32), null: true },
    max_position_embeddings: 4096,
    norm_eps: 1e-5,
    rotated: Some(0.25),
    bos_token_id: Some(0),
    eos_token_id: Some(0),
    biases: Biases::qkv(Flag::Key("use_qkv_bias", false)),
    mlp_bias: Flag::Always(false),
    keys: &[("rms_norm_eps", "layer_norm_eps")],
    names: Names {
        parts: &[(Part::QNorm, "self_attn.q_layernorm"), (Part::KNorm, "self_attn.k_layernorm")],
        norms_by_head: true,
        ..Names::LLAMA
    },
    complete: |keys, config| {
        let block = &mut config.block;
        block.norm = Norm::LAYER_WITH_BIAS;
        if keys.flag("use_parallel_residual")? {
            block.placement = Placement::Parallel;
        }
        let norm = QkNorm { span: Span::EachHead, norm: Norm::LAYER, after_rotation: false };
        block.qk_norm = keys.flag("qk_layernorm")?.then_some(norm);
        Ok(())
    },
    ..LLAMA
};

pub(crate) const STARCODER2: Family = Family {
    name: "starcoder2",
    vocab_size: 49_152,
    hidden_size: 3072,
    intermediate_size: Some(12_288),
    num_layers: 30,
    num_heads: 24,
    num_kv_heads: Derivable { absent: Some(2), null: true },
    max_position_embeddings: 4096,
    norm_eps: 1e-5,
    windows: Windows::Always,
    bos_token_id: Some(50_256),
    eos_token_id: Some(50_256),
    biases: Biases::all(Flag::Key("use_bias", true)),
    mlp_bias: Flag::Key("use_bias", true),
    tied: true,
    activation: ("hidden_act", "gelu_pytorch_tanh"),
    keys: &[("rms_norm_eps", "norm_epsilon")],
    names: Names { parts: &[(Part::Up, "mlp.c_fc"), (Part::Down, "mlp.c_proj")], ..Names::LLAMA },
    complete: |_, config| {
        (config.block.norm, config.block.gated) = (Norm::LAYER_WITH_BIAS, false);
        Ok(())
    },
    ..LLAMA
};

pub(crate) const NEMOTRON: Family = Family {
    name: "nemotron",
    vocab_size: 256_000,
    hidden_size: 6144,
    intermediate_size: Some(24_576),
    num_heads: 48,
    max_position_embeddings: 4096,
    norm_eps: 1e-5,
    rotated: Some(0.5),
    bos_token_id: Some(2),
    eos_token_id: Some(3),
    activation: ("hidden_act", "relu2"),
    keys: &[("rms_norm_eps", "norm_eps")],
    complete: |_, config| {
        config.block.norm = Norm { weight: NormWeight::OneMore, ..Norm::LAYER_WITH_BIAS };
        config.block.gated = false;
        Ok(())
    },
    ..LLAMA
};

pub(crate) const ERNIE4_5: Family = Family {
    name: "ernie4_5",
    vocab_size: 103_424,
    hidden_size: 1024,
    intermediate_size: Some(3072),
    num_layers: 18,
    num_heads: 16,
    num_kv_heads: Derivable { absent: Some(2), null: true },
    head_dim: Derivable { absent: Some(128), null: true },
    max_position_embeddings: 131_072,
    norm_eps: 1e-5,
    rope_theta: 5e5,
    biases: Biases::all(Flag::Key("use_bias", false)),
    mlp_bias: Flag::Key("use_bias", false),
    tied: true,
    whole_heads: false,
    complete: |_, config| {
        config.block.positions = Positions::Pairs;
        Ok(())
    },
    ..LLAMA
};

/// A norm behind the rotation; a base that `alpha` stretches once and for all.
pub(super) fn hunyuan(keys: &Keys<'_>, config: &mut DecoderConfig) -> Result<(), DecoderError> {
    config.block.qk_norm = Some(QkNorm { after_rotation: true, ..QkNorm::HEAD });
    let rope = keys.rotation()?;
    if let (RopeScaling::Dynamic { .. }, Some(alpha)) =
        (&config.rope.scaling, rope.number("alpha")?.filter(|&a| a != 0.0))
    {
        let dim = config.head_dim as f64;
        config.rope.theta *= alpha.powf(dim / (dim - 2.0));
        config.rope.scaling = RopeScaling::None;
    }
    Ok(())
}

pub(crate) const HUNYUAN_V1_DENSE: Family = Family {
    name: "hunyuan_v1_dense",
    vocab_size: 290_943,
    norm_eps: 1e-5,
    mlp_bias: Flag::Always(false),
    names: Names {
        parts: &[(Part::QNorm, "self_attn.query_layernorm"), (Part::KNorm, "self_attn.key_layernorm")],
        ..Names::LLAMA
    },
    whole_heads: false,
    complete: hunyuan,
    ..LLAMA
};

pub(crate) const APERTUS: Family = Family {
    name: "apertus",
    vocab_size: 131_072,
    intermediate_size: Some(14_336),
    max_position_embeddings: 65_536,
    norm_eps: 1e-5,
    rope_theta: 12e6,
    absent_rope: Some((
        r#"{"rope_type": "llama3", "rope_theta": 12e6, "factor": 8.0, "original_max_position_embeddings": 8192,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0}"#,
        false,
    )),
    mlp_bias: Flag::Always(false),
    activation: ("hidden_act", "xielu"),
    names: Names {
        parts: &[(Part::InputNorm, "attention_layernorm"), (Part::PostAttentionNorm, "feedforward_layernorm")],
        ..Names::LLAMA
    },
    complete: |_, config| {
        config.block.qk_norm = Some(QkNorm::HEAD);
        config.block.gated = false;
        Ok(())
    },
    ..LLAMA
};

pub(crate) const LFM2: Family = Family {
    name: "lfm2",
    vocab_size: 65_536,
    hidden_size: 2560,
    intermediate_size: Some(12_288),
    num_kv_heads: Derivable { absent: Some(8), null: true },
    max_position_embeddings: 128_000,
    norm_eps: 1e-5,
    rope_theta: 1e6,
    biases: Biases::NONE,
    mlp_bias: Flag::Always(false),
    tied: true,
    activation: ("", "silu"),
    keys: &[
        ("rms_norm_eps", "norm_eps"),
        ("intermediate_size", "block_ff_dim|intermediate_size"),
        ("tie_word_embeddings", "tie_embedding|tie_word_embeddings"),
    ],
    names: Names {
        norm: "embedding_norm",
        parts: &[
            (Part::InputNorm, "operator_norm"),
            (Part::PostAttentionNorm, "ffn_norm"),
            (Part::O, "self_attn.out_proj"),
            (Part::QNorm, "self_attn.q_layernorm"),
            (Part::KNorm, "self_attn.k_layernorm"),
            (Part::Gate, "feed_forward.w1"),
            (Part::Up, "feed_forward.w3"),
            (Part::Down, "feed_forward.w2"),
        ],
        ..Names::LLAMA
    },
    complete: |keys, config| {
        let layers = config.num_layers;
        let full: Option<Vec<usize>> = keys.value("full_attn_idxs", "a list of layers")?;
        let layers = match (layer_types(keys, layers)?, full) {
            (Some(types), _) => types.iter().map(|kind| kind == "conv").collect(),
            (None, Some(full)) => (0..layers).map(|layer| !full.contains(&layer)).collect(),
            (None, None) => vec![false; layers],
        };
        let (taps, bias) = (keys.size_or("conv_L_cache", 3, 1 << 10)?, keys.flag("conv_bias")?);
        config.block.qk_norm = Some(QkNorm::HEAD);
        config.block.convolution = Some(Convolution { taps, bias, layers });
        if keys.or("block_auto_adjust_ff_dim", true, "true or false")? {
            let multiple = keys.size_or("block_multiple_of", 256, 1 << 20)?;
            let factor = keys.number_or("block_ffn_dim_multiplier", 1.0)?;
            let width = (factor * (2 * config.intermediate_size / 3) as f64) as usize;
            config.intermediate_size = width.div_ceil(multiple) * multiple;
        }
        Ok(())
    },
    ..LLAMA
};

pub(crate) const MINICPM3: Family = Family {
    name: "minicpm3",
    vocab_size: 73_448,
    hidden_size: 2560,
    intermediate_size: Some(6400),
    num_layers: 62,
    num_heads: 40,
    max_position_embeddings: 32_768,
    norm_eps: 1e-5,
    biases: Biases { qkv: Flag::Always(false), o: Flag::Key("attention_bias", false) },
    mlp_bias: Flag::Always(false),
    tied: true,
    keys: &[("num_key_value_heads", ""), ("head_dim", "")],
    complete: |keys, config| {
        latent(keys, config, [768, 256, 64, 32], None)?;
        let layers = config.num_layers as f64;
        let block = &mut config.block;
        block.embedding_scale = keys.number_or("scale_emb", 1.0)? as f32;
        block.residual_scale = (keys.number_or("scale_depth", 1.0)? / layers.sqrt()) as f32;
        block.logit_scale = (keys.number_or("dim_model_base", 1.0)? / config.hidden_size as f64) as f32;
        Ok(())
    },
    ..LLAMA
};
