//! Mixtures of experts.

use super::{
    latent::{latent, latent_scale},
    llama::*,
    *,
};
use crate::{
    Experts, Norm, NormWeight, Positions, QkNorm, QueryScale, Routing,
    config::{
        Keys,
        limits::{self, EXPERTS, WIDTH},
    },
    weights::Part,
};
use harness_kernels::cpu::activation::Activation;

/// The number of experts has two names in some classes; the general one counts.
const COUNT: &[(&str, &str)] = &[("num_local_experts", "num_experts|num_local_experts")];

pub(crate) const MIXTRAL: Family = Family {
    name: "mixtral",
    norm_eps: 1e-5,
    rope_theta: 1e6,
    sliding_window: None,
    windows: Windows::Always,
    keys: COUNT,
    complete: |keys, config| {
        config.experts = Some(keys.experts(config, "num_local_experts", 8, "num_experts_per_tok", 2)?);
        Ok(())
    },
    ..MISTRAL
};

const SPARSE_MLP: Names = Names {
    parts: &[
        (Part::Router, "mlp.gate"),
        (Part::SharedGate, "mlp.shared_expert.gate_proj"),
        (Part::SharedUp, "mlp.shared_expert.up_proj"),
        (Part::SharedDown, "mlp.shared_expert.down_proj"),
    ],
    experts: ExpertNames::QWEN,
    ..Names::LLAMA
};

/// Qwen's: some layers are dense, the weights of the chosen need not sum to one.
fn qwen(
    keys: &Keys<'_>,
    config: &mut DecoderConfig,
    counts: [usize; 2],
    width: usize,
) -> Result<Experts, DecoderError> {
    let experts = keys.experts(config, "num_local_experts", counts[0], "num_experts_per_tok", counts[1])?;
    let step = keys.size_or("decoder_sparse_step", 1, usize::MAX)?;
    let dense: Vec<usize> = keys.value("mlp_only_layers", "a list of layers")?.unwrap_or_default();
    let is_sparse = |layer: usize| !dense.contains(&layer) && (layer + 1).is_multiple_of(step);
    Ok(Experts {
        normalised: keys.flag("norm_topk_prob")?,
        width: Some(keys.size_or("moe_intermediate_size", width, WIDTH)?),
        sparse: (0..config.num_layers).map(is_sparse).collect(),
        ..experts
    })
}

pub(crate) const QWEN2_MOE: Family = Family {
    name: "qwen2_moe",
    hidden_size: 2048,
    intermediate_size: Some(5632),
    num_layers: 24,
    num_heads: 16,
    num_kv_heads: Derivable { absent: Some(16), null: false },
    windows: Windows::Typed,
    biases: Biases::qkv(Flag::Key("qkv_bias", true)),
    keys: COUNT,
    names: SPARSE_MLP,
    complete: |keys, config| {
        let experts = qwen(keys, config, [60, 4], 1408)?;
        let shared = keys.size_or("shared_expert_intermediate_size", 5632, WIDTH)?;
        config.experts = Some(Experts { shared: Some(shared), shared_gate: true, ..experts });
        Ok(())
    },
    ..QWEN2
};

pub(crate) const QWEN3_MOE: Family = Family {
    name: "qwen3_moe",
    hidden_size: 2048,
    intermediate_size: Some(6144),
    num_layers: 24,
    num_kv_heads: Derivable { absent: Some(4), null: false },
    head_dim: Derivable { absent: None, null: true },
    windows: Windows::Flagged,
    keys: COUNT,
    names: SPARSE_MLP,
    complete: |keys, config| {
        config.block.qk_norm = Some(QkNorm::HEAD);
        config.experts = Some(qwen(keys, config, [128, 8], 768)?);
        Ok(())
    },
    ..QWEN3
};

const GPT_OSS_ROPE: &str = r#"{"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
    "truncate": false, "original_max_position_embeddings": 4096}"#;

pub(crate) const GPT_OSS: Family = Family {
    name: "gpt_oss",
    vocab_size: 201_088,
    hidden_size: 2880,
    intermediate_size: Some(2880),
    num_layers: 36,
    num_heads: 64,
    num_kv_heads: Derivable { absent: Some(8), null: true },
    head_dim: Derivable { absent: Some(64), null: true },
    max_position_embeddings: 131_072,
    norm_eps: 1e-5,
    rope_theta: 150_000.0,
    absent_rope: Some((GPT_OSS_ROPE, true)),
    sliding_window: Some(128),
    windows: Windows::Every("", 2),
    bos_token_id: None,
    eos_token_id: None,
    biases: Biases::all(Flag::Key("attention_bias", true)),
    mlp_bias: Flag::Always(false),
    whole_heads: false,
    keys: &[("num_local_experts", "num_local_experts|num_experts")],
    names: Names {
        parts: &[(Part::Router, "mlp.router")],
        experts: ExpertNames { transposed: true, interleaved: true, ..ExpertNames::QWEN },
        ..Names::LLAMA
    },
    complete: |keys, config| {
        let experts = keys.experts(config, "num_local_experts", 128, "num_experts_per_tok", 4)?;
        config.experts = Some(Experts {
            routing: Routing::TopSoftmax,
            normalised: false,
            router_bias: true,
            expert_bias: true,
            ..experts
        });
        let (alpha, limit) = (keys.number_or("swiglu_alpha", 1.702)?, keys.number_or("swiglu_limit", 7.0)?);
        config.block.activation = Activation::Clamped { alpha: alpha as f32, limit: limit as f32 };
        config.block.sinks = true;
        Ok(())
    },
    ..LLAMA
};

pub(crate) const DEEPSEEK_V2: Family = Family {
    name: "deepseek_v2",
    vocab_size: 32_000,
    intermediate_size: Some(11_008),
    head_dim: Derivable { absent: None, null: true },
    keys: &[("num_key_value_heads", ""), ("head_dim", "")],
    mlp_bias: Flag::Key("mlp_bias", false),
    biases: Biases { qkv: Flag::Always(false), o: Flag::Key("attention_bias", false) },
    names: Names { parts: &[(Part::Router, "mlp.gate")], experts: ExpertNames::QWEN, ..Names::LLAMA },
    complete: |keys, config| {
        latent(keys, config, [1536, 512, 128, 64], Some(128))?;
        latent_scale(keys, config)?;
        config.block.positions = Positions::Pairs;
        let experts = keys.experts(config, "n_routed_experts", 64, "num_experts_per_tok", 8)?;
        let method: String = keys.or("topk_method", "greedy".to_owned(), "a name")?;
        let groups = match method.as_str() {
            "greedy" => None,
            "group_limited_greedy" => Some(keys.groups(&experts, 1)?),
            _ => return Err(keys.error("topk_method", method, "greedy or group_limited_greedy")),
        };
        config.experts = Some(Experts {
            normalised: false,
            factor: keys.number_or("routed_scaling_factor", 1.0)? as f32,
            groups,
            ..keys.experts_after_dense(config, experts, 0)?
        });
        Ok(())
    },
    ..LLAMA
};

pub(crate) const DEEPSEEK_V3: Family = Family {
    name: "deepseek_v3",
    vocab_size: 129_280,
    hidden_size: 7168,
    intermediate_size: Some(18_432),
    num_layers: 61,
    num_heads: 128,
    max_position_embeddings: 4096,
    bos_token_id: Some(0),
    eos_token_id: Some(1),
    complete: |keys, config| {
        latent(keys, config, [1536, 512, 128, 64], Some(128))?;
        latent_scale(keys, config)?;
        if keys.or("rope_interleave", true, "true or false")? {
            config.block.positions = Positions::Pairs;
        }
        keys.sigmoid_experts(config, 256, true, 2.5)
    },
    ..DEEPSEEK_V2
};

pub(crate) const ERNIE4_5_MOE: Family = Family {
    name: "ernie4_5_moe",
    hidden_size: 2560,
    intermediate_size: Some(12_288),
    num_layers: 28,
    num_heads: 20,
    num_kv_heads: Derivable { absent: Some(4), null: true },
    head_dim: Derivable { absent: None, null: true },
    names: Names {
        parts: &[(Part::Router, "mlp.gate"), (Part::SelectionBias, "mlp.moe_statics.e_score_correction_bias")],
        experts: ExpertNames::QWEN,
        ..Names::LLAMA
    },
    complete: |keys, config| {
        config.block.positions = Positions::Pairs;
        config.block.head_bias = config.block.mlp_bias;
        let experts = keys.experts(config, "moe_num_experts", 64, "moe_k", 6)?;
        let layers = config.num_layers;
        let first = keys.count("moe_layer_start_index")?.unwrap_or(1);
        let last = keys.value::<i64>("moe_layer_end_index", "a layer")?.unwrap_or(-1);
        let last = usize::try_from(last).unwrap_or(layers - 1);
        let every = keys.size_or("moe_layer_interval", 1, usize::MAX)?;
        let width = keys.size_or("moe_intermediate_size", 1536, WIDTH)?;
        let shared = keys.count("moe_num_shared_experts")?.unwrap_or(2);
        config.experts = Some(Experts {
            selection_bias: true,
            shared_bias: config.block.mlp_bias,
            width: Some(width),
            sparse: (0..layers).map(|l| (l + 1).is_multiple_of(every) && (first..=last).contains(&l)).collect(),
            shared: Some(width * shared).filter(|&width| width > 0 && width <= WIDTH),
            ..experts
        });
        Ok(())
    },
    ..super::others::ERNIE4_5
};

pub(crate) const HUNYUAN_V1_MOE: Family = Family {
    name: "hunyuan_v1_moe",
    names: Names {
        parts: &[
            (Part::QNorm, "self_attn.query_layernorm"),
            (Part::KNorm, "self_attn.key_layernorm"),
            (Part::Router, "mlp.gate.wg"),
            (Part::SharedGate, "mlp.shared_mlp.gate_proj"),
            (Part::SharedUp, "mlp.shared_mlp.up_proj"),
            (Part::SharedDown, "mlp.shared_mlp.down_proj"),
        ],
        experts: ExpertNames::QWEN,
        linear_router: true,
        ..Names::LLAMA
    },
    complete: |keys, config| {
        super::others::hunyuan(keys, config)?;
        let layers = config.num_layers;
        let list = |key: &str, default: usize| -> Result<Vec<usize>, DecoderError> {
            let list = match keys.get(key) {
                None => vec![default; layers],
                Some(value) if value.is_array() => keys.value(key, "a list of integers")?.unwrap_or_default(),
                Some(_) => vec![keys.size_or(key, default, 1 << 16)?; layers],
            };
            if list.len() == layers { Ok(list) } else { Err(keys.error(key, list.len(), format!("{layers} entries"))) }
        };
        let (counts, chosen) = (list("num_experts", 1)?, list("moe_topk", 1)?);
        let count = counts[0];
        if let Some(other) = counts.iter().find(|&&other| other != count) {
            return Err(keys.error("num_experts", other, format!("{count} in all layers")));
        }
        if let Some(over) = chosen.iter().find(|&&k| k == 0 || k > count) {
            return Err(keys.error("moe_topk", over, format!("1 to {count}, the number of experts")));
        }
        if let Some(expected) = limits::product(count, layers, EXPERTS) {
            return Err(keys.error("num_experts", count, format!("{expected} layers")));
        }
        config.experts = Some(Experts {
            per_token_by_layer: chosen.clone(),
            shared: Some(config.intermediate_size),
            ..Experts::new(count, chosen[0])
        });
        Ok(())
    },
    ..super::others::HUNYUAN_V1_DENSE
};

pub(crate) const LLAMA4_TEXT: Family = Family {
    name: "llama4_text",
    vocab_size: 202_048,
    hidden_size: 5120,
    intermediate_size: Some(16_384),
    num_layers: 48,
    num_heads: 40,
    num_kv_heads: Derivable { absent: Some(8), null: true },
    head_dim: Derivable { absent: Some(128), null: true },
    max_position_embeddings: 131_072,
    norm_eps: 1e-5,
    rope_theta: 5e5,
    mlp_bias: Flag::Always(false),
    whole_heads: false,
    keys: &[("intermediate_size", "intermediate_size_mlp")],
    names: Names {
        parts: &[
            (Part::Gate, "feed_forward.gate_proj"),
            (Part::Up, "feed_forward.up_proj"),
            (Part::Down, "feed_forward.down_proj"),
            (Part::Router, "feed_forward.router"),
            (Part::SharedGate, "feed_forward.shared_expert.gate_proj"),
            (Part::SharedUp, "feed_forward.shared_expert.up_proj"),
            (Part::SharedDown, "feed_forward.shared_expert.down_proj"),
        ],
        experts: ExpertNames { stem: "feed_forward.experts.", transposed: true, ..ExpertNames::QWEN },
        ..Names::LLAMA
    },
    complete: |keys, config| {
        let layers = config.num_layers;
        let given: Option<Vec<u8>> = keys.value("no_rope_layers", ZEROS_AND_ONES)?;
        let rotations = rotations(keys, given.filter(|list| !list.is_empty()), layers, 4)?;
        let tuned = keys.or("attn_temperature_tuning", true, "true or false")?;
        let (length, beta) = (keys.number_or("floor_scale", 8192.0)? as usize, keys.number_or("attn_scale", 0.1)?);
        let sparse: Option<Vec<usize>> = keys.value("moe_layers", "a list of layers")?;
        let step = keys.size_or("interleave_moe_layer_step", 1, usize::MAX)?;
        let is_sparse =
            |layer: usize| sparse.as_ref().map_or((layer + 1).is_multiple_of(step), |list| list.contains(&layer));
        let width = keys.raw().size_or("intermediate_size", 8192, WIDTH)?;
        let experts = keys.experts(config, "num_local_experts", 16, "num_experts_per_tok", 1)?;
        config.experts = Some(Experts {
            routing: Routing::SigmoidOnInput,
            normalised: false,
            width: Some(width),
            sparse: (0..layers).map(is_sparse).collect(),
            shared: Some(width),
            ..experts
        });
        let block = &mut config.block;
        block.positions = Positions::Pairs;
        block.rotations = rotations;
        block.chunk = Some(keys.size_or("attention_chunk_size", 8192, usize::MAX)?);
        block.qk_norm = keys.or("use_qk_norm", true, "true or false")?.then_some(QkNorm {
            norm: Norm { weight: NormWeight::None, ..Norm::RMS },
            after_rotation: true,
            ..QkNorm::HEAD
        });
        block.query_scale = tuned.then_some(QueryScale { beta, length: length.max(1), ahead: 1, unrotated: true });
        Ok(())
    },
    ..LLAMA
};

pub(crate) const PHIMOE: Family = Family {
    name: "phimoe",
    vocab_size: 32_064,
    intermediate_size: Some(6400),
    num_kv_heads: Derivable { absent: Some(8), null: true },
    max_position_embeddings: 131_072,
    norm_eps: 1e-5,
    rope_theta: 1e6,
    windows: Windows::Always,
    mlp_bias: Flag::Always(false),
    names: Names::LLAMA,
    complete: |keys, config| {
        config.block.norm = Norm::LAYER_WITH_BIAS;
        config.block.head_bias = keys.flag("lm_head_bias")?;
        let jitter = keys.number_or("router_jitter_noise", 0.01)? as f32;
        let experts = keys.experts(config, "num_local_experts", 16, "num_experts_per_tok", 2)?;
        if experts.per_token != 2 {
            return Err(keys.error("num_experts_per_tok", experts.per_token, "2 (the sparse mixer chooses two)"));
        }
        config.experts = Some(Experts { routing: Routing::SparseMixer { jitter }, normalised: false, ..experts });
        Ok(())
    },
    ..LLAMA
};
