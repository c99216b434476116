//! What each family's configuration class says in transformers 5.24 where `config.json` says nothing.

use super::Architecture;

/// The defaults of a family's class, and which keys the class and its model read at all.
pub(super) struct Family {
    pub architecture: Architecture,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    pub num_kv_heads: Derivable,
    pub head_dim: Derivable,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub sliding_window: Option<usize>,
    pub windows: Windows,
    pub bos_token_id: Option<u32>,
    pub eos_token_id: Option<u32>,
    pub biases: Biases,
    /// Whether `mlp_bias` is read.
    pub mlp_bias: bool,
    /// Whether the heads of q and k pass a norm.
    pub qk_norm: bool,
    /// Whether a hidden size that is no multiple of the heads is refused even beside a `head_dim`.
    pub whole_heads: bool,
}

/// A size that follows from other keys unless it is given.
pub(super) struct Derivable {
    /// What an absent key means; `None` = it is derived.
    pub absent: Option<usize>,
    /// Whether `null` is allowed, and means that it is derived.
    pub null: bool,
}

/// Which layers have the sliding window.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Windows {
    /// None: `sliding_window` and `layer_types` are not read.
    Never,
    /// All: `layer_types` is not read.
    Always,
    /// All, or those that `layer_types` says (transformers then takes Mistral for Ministral).
    AlwaysOrTyped,
    /// With `use_sliding_window` the layers from `max_window_layers` on, or those that `layer_types` says.
    Qwen,
}

/// Which linears of the attention have biases.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Biases {
    /// None: `attention_bias` is not read.
    None,
    /// q, k and v: `attention_bias` is not read.
    Qkv,
    /// All four where `attention_bias` is true.
    ByKey,
}

/// Qwen's class from which on layers have a window, where `max_window_layers` is absent.
pub(super) const MAX_WINDOW_LAYERS: usize = 28;

const LLAMA: Family = Family {
    architecture: Architecture::Llama,
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: 11_008,
    num_layers: 32,
    num_heads: 32,
    num_kv_heads: Derivable { absent: None, null: true },
    head_dim: Derivable { absent: None, null: true },
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-6,
    rope_theta: 1e4,
    sliding_window: None,
    windows: Windows::Never,
    bos_token_id: Some(1),
    eos_token_id: Some(2),
    biases: Biases::ByKey,
    mlp_bias: true,
    qk_norm: false,
    whole_heads: true,
};

const MISTRAL: Family = Family {
    architecture: Architecture::Mistral,
    intermediate_size: 14_336,
    num_kv_heads: Derivable { absent: Some(8), null: false },
    max_position_embeddings: 131_072,
    sliding_window: Some(4096),
    windows: Windows::AlwaysOrTyped,
    biases: Biases::None,
    mlp_bias: false,
    whole_heads: false,
    ..LLAMA
};

const MIXTRAL: Family = Family {
    architecture: Architecture::Mixtral,
    rms_norm_eps: 1e-5,
    rope_theta: 1e6,
    sliding_window: None,
    windows: Windows::Always,
    ..MISTRAL
};

const QWEN2: Family = Family {
    architecture: Architecture::Qwen2,
    vocab_size: 151_936,
    intermediate_size: 22_016,
    num_kv_heads: Derivable { absent: Some(32), null: true },
    head_dim: Derivable { absent: None, null: false },
    max_position_embeddings: 32_768,
    sliding_window: Some(4096),
    windows: Windows::Qwen,
    bos_token_id: None,
    eos_token_id: None,
    biases: Biases::Qkv,
    mlp_bias: false,
    whole_heads: false,
    ..LLAMA
};

const QWEN3: Family = Family {
    architecture: Architecture::Qwen3,
    head_dim: Derivable { absent: Some(128), null: false },
    biases: Biases::ByKey,
    qk_norm: true,
    ..QWEN2
};

impl Family {
    pub(super) fn of(architecture: Architecture) -> &'static Self {
        match architecture {
            Architecture::Llama => &LLAMA,
            Architecture::Mistral => &MISTRAL,
            Architecture::Mixtral => &MIXTRAL,
            Architecture::Qwen2 => &QWEN2,
            Architecture::Qwen3 => &QWEN3,
        }
    }
}
