//! Llama, and what differs from it in sizes, biases, windows and rotations alone.

use super::*;
use crate::{QkNorm, QueryScale, Rotation, config::layer_types};

pub(crate) const LLAMA: Family = Family {
    name: "llama",
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: Some(11_008),
    num_layers: 32,
    num_heads: 32,
    num_kv_heads: Derivable { absent: None, null: true },
    head_dim: Derivable { absent: None, null: true },
    max_position_embeddings: 2048,
    norm_eps: 1e-6,
    rope_theta: 1e4,
    rotated: None,
    original_max: None,
    absent_rope: None,
    local_rope: None,
    sliding_window: None,
    windows: Windows::Never,
    bos_token_id: Some(1),
    eos_token_id: Some(2),
    biases: Biases::BY_KEY,
    mlp_bias: Flag::Key("mlp_bias", false),
    tied: false,
    whole_heads: true,
    activation: ("hidden_act", "silu"),
    keys: &[],
    within: "",
    names: Names::LLAMA,
    complete: as_it_is,
};

pub(crate) const MISTRAL: Family = Family {
    name: "mistral",
    intermediate_size: Some(14_336),
    num_kv_heads: Derivable { absent: Some(8), null: false },
    max_position_embeddings: 131_072,
    sliding_window: Some(4096),
    windows: Windows::AlwaysOrTyped,
    biases: Biases::NONE,
    mlp_bias: Flag::Always(false),
    whole_heads: false,
    ..LLAMA
};

pub(crate) const QWEN2: Family = Family {
    name: "qwen2",
    vocab_size: 151_936,
    intermediate_size: Some(22_016),
    num_kv_heads: Derivable { absent: Some(32), null: true },
    head_dim: Derivable { absent: None, null: false },
    max_position_embeddings: 32_768,
    sliding_window: Some(4096),
    windows: Windows::Qwen,
    bos_token_id: None,
    eos_token_id: None,
    biases: Biases::QKV,
    mlp_bias: Flag::Always(false),
    whole_heads: false,
    ..LLAMA
};

pub(crate) const QWEN3: Family = Family {
    name: "qwen3",
    head_dim: Derivable { absent: Some(128), null: false },
    biases: Biases::BY_KEY,
    complete: |_, config| {
        config.block.qk_norm = Some(QkNorm::HEAD);
        Ok(())
    },
    ..QWEN2
};

pub(crate) const MINISTRAL: Family = Family { name: "ministral", ..MISTRAL };

pub(crate) const MINISTRAL3: Family = Family {
    name: "ministral3",
    vocab_size: 131_072,
    num_layers: 34,
    head_dim: Derivable { absent: Some(128), null: true },
    max_position_embeddings: 262_144,
    norm_eps: 1e-5,
    rope_theta: 1e6,
    absent_rope: Some((
        r#"{"rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16384,
            "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}"#,
        false,
    )),
    sliding_window: None,
    windows: Windows::Always,
    complete: |keys, config| {
        let rope = keys.rotation()?;
        let beta = rope.number("llama_4_scaling_beta")?.unwrap_or(0.1);
        let length = rope.size("original_max_position_embeddings")?.unwrap_or(16_384);
        config.block.query_scale = Some(QueryScale { beta, length, ahead: 0, unrotated: false });
        Ok(())
    },
    ..MISTRAL
};

pub(crate) const CWM: Family = Family {
    name: "cwm",
    vocab_size: 128_256,
    hidden_size: 6144,
    intermediate_size: Some(21_504),
    num_layers: 64,
    num_heads: 48,
    head_dim: Derivable { absent: Some(128), null: false },
    norm_eps: 1e-5,
    rope_theta: 1e6,
    absent_rope: Some((
        r#"{"rope_type": "llama3", "rope_theta": 1e6, "factor": 16.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192}"#,
        false,
    )),
    sliding_window: Some(8192),
    windows: Windows::FullFirst(4),
    bos_token_id: Some(128_000),
    eos_token_id: Some(128_001),
    ..MISTRAL
};

pub(super) const ZEROS_AND_ONES: &str = "a list of 0 and 1";

/// The rotations by `no_rope_layers`, which has a 0 for every layer without one; else every so many has none.
pub(super) fn rotations(
    keys: &Keys<'_>,
    given: Option<Vec<u8>>,
    layers: usize,
    every: usize,
) -> Result<Vec<Rotation>, DecoderError> {
    let of = |rotated: bool| if rotated { Rotation::Main } else { Rotation::None };
    match given {
        Some(list) if list.len() == layers => Ok(list.into_iter().map(|layer| of(layer != 0)).collect()),
        Some(list) => Err(keys.error("no_rope_layers", format!("{} entries", list.len()), layers)),
        None => Ok((0..layers).map(|layer| of(!(layer + 1).is_multiple_of(every))).collect()),
    }
}

pub(crate) const SMOLLM3: Family = Family {
    name: "smollm3",
    vocab_size: 128_256,
    hidden_size: 2048,
    num_layers: 36,
    num_heads: 16,
    num_kv_heads: Derivable { absent: Some(4), null: true },
    max_position_embeddings: 32_768,
    rope_theta: 2e6,
    bos_token_id: Some(128_000),
    eos_token_id: Some(128_001),
    tied: true,
    complete: |keys, config| {
        let every = keys.size_or("no_rope_layer_interval", 4, usize::MAX)?;
        let layers = config.num_layers;
        let given = keys.value("no_rope_layers", ZEROS_AND_ONES)?;
        config.block.rotations = rotations(keys, given, layers, every)?;
        let used = keys.flag("use_sliding_window")?;
        let window = keys.size("sliding_window")?.filter(|_| used);
        let types = layer_types(keys, layers)?;
        config.sliding_window = match types.filter(|_| used) {
            Some(types) => keys.windows(&types, window)?,
            None => config.block.rotations.iter().map(|of| window.filter(|_| *of == Rotation::None)).collect(),
        };
        Ok(())
    },
    ..LLAMA
};

pub(crate) const SEED_OSS: Family = Family {
    name: "seed_oss",
    vocab_size: 155_136,
    intermediate_size: Some(27_648),
    num_layers: 64,
    num_heads: 80,
    num_kv_heads: Derivable { absent: Some(8), null: true },
    head_dim: Derivable { absent: Some(128), null: true },
    max_position_embeddings: 524_288,
    bos_token_id: Some(0),
    biases: Biases { qkv: Flag::Key("attention_bias", true), o: Flag::Key("attention_out_bias", false) },
    whole_heads: false,
    ..LLAMA
};

pub(crate) const ARCEE: Family = Family {
    name: "arcee",
    hidden_size: 2560,
    intermediate_size: Some(18_432),
    max_position_embeddings: 4096,
    norm_eps: 1e-5,
    bos_token_id: Some(128_000),
    eos_token_id: Some(128_001),
    activation: ("hidden_act", "relu2"),
    complete: |_, config| {
        config.block.gated = false;
        Ok(())
    },
    ..LLAMA
};

pub(crate) const HELIUM: Family = Family {
    name: "helium",
    vocab_size: 48_000,
    hidden_size: 2560,
    intermediate_size: Some(7040),
    num_layers: 24,
    num_heads: 20,
    num_kv_heads: Derivable { absent: Some(20), null: true },
    head_dim: Derivable { absent: Some(128), null: true },
    max_position_embeddings: 4096,
    norm_eps: 1e-8,
    rope_theta: 1e5,
    biases: Biases::qkv(Flag::Key("attention_bias", false)),
    complete: |_, config| {
        config.block.positions = crate::Positions::Pairs;
        Ok(())
    },
    ..LLAMA
};

pub(crate) const INTERNLM3: Family = Family {
    name: "internlm3",
    vocab_size: 128_512,
    num_kv_heads: Derivable { absent: Some(2), null: true },
    head_dim: Derivable { absent: Some(128), null: true },
    max_position_embeddings: 32_768,
    norm_eps: 1e-5,
    keys: &[("attention_bias", "attention_bias|qkv_bias"), ("mlp_bias", "mlp_bias|bias")],
    complete: |keys, config| {
        if config.qkv_bias != config.block.mlp_bias {
            let expected = "the same as `mlp_bias` (as in transformers)";
            return Err(keys.error("attention_bias", config.qkv_bias, expected));
        }
        Ok(())
    },
    ..LLAMA
};
