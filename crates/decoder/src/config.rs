//! What a decoder is: its dimensions, rotary embedding and special tokens.

mod families;
mod hf;
mod identity;
mod keys;
pub(crate) mod limits;
mod rope;

pub use hf::GenerationDefaults;
pub use hf::read_json;
pub(crate) use hf::{read_config, read_generation_defaults};

use harness_kernels::cpu::attention::AttentionShape;

/// A family of decoder-only models that one configurable block computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Architecture {
    /// Llama 1, 2 and 3, DeepSeek-LLM, SmolLM.
    Llama,
    /// Mistral: Llama with a sliding window.
    Mistral,
    /// Mixtral: Mistral with a mixture of experts.
    Mixtral,
    /// Qwen 2 and 2.5: biases on q, k and v.
    Qwen2,
    /// Qwen 3: RMS norms on the heads of q and k.
    Qwen3,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Llama, Self::Mistral, Self::Mixtral, Self::Qwen2, Self::Qwen3];

    /// The name in `config.json` (`model_type`).
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Mixtral => "mixtral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The architecture of this `model_type`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name() == name)
    }

    /// The names of all, for messages.
    pub fn supported() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

/// How rotary frequencies are stretched for contexts longer than those first trained on.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Plain rotary embedding.
    None,
    /// Positions divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// NTK-aware scaling of the base once a sequence is longer than `original_max`.
    Dynamic {
        /// The factor.
        factor: f64,
        /// Length in tokens up to which nothing is scaled.
        original_max: usize,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a smooth passage between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// `original_max / low_freq_factor` is the wavelength above which frequencies are low.
        low_freq_factor: f64,
        /// `original_max / high_freq_factor` is the wavelength below which frequencies are high.
        high_freq_factor: f64,
        /// Length in tokens of the first training.
        original_max: usize,
    },
    /// GGUF's `rope_freqs.weight`: the divisor of every frequency, `head_dim / 2` of them.
    Divisors(Vec<f32>),
}

/// Rotary position embedding, over the whole head, halves rotated against each other (NeoX order).
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies `theta^(-2i / head_dim)`.
    pub theta: f64,
    /// Stretching for long contexts.
    pub scaling: RopeScaling,
}

/// A mixture of experts in place of the feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experts {
    /// Feed-forward blocks of every layer.
    pub count: usize,
    /// How many of them a token passes.
    pub per_token: usize,
}

/// Dimensions and constants of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// The family.
    pub architecture: Architecture,
    /// Rows of the embedding, which may be more than the tokenizer has tokens.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; a divisor of `num_heads`.
    pub num_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Added to the mean square in RMS norms.
    pub rms_norm_eps: f32,
    /// Rotary embedding.
    pub rope: Rope,
    /// Longest context in tokens that the model was made for.
    pub max_position_embeddings: usize,
    /// Whether the output head is the embedding. A model in memory has what its weights say: a head that is stored beside
    /// the embedding and differs counts, whatever `config.json` says.
    pub tie_word_embeddings: bool,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub o_bias: bool,
    /// Whether the heads of q and k pass an RMS norm before the rotary embedding.
    pub qk_norm: bool,
    /// For every layer the number of last positions (itself included) a token attends to; `None` = all.
    pub sliding_window: Vec<Option<usize>>,
    /// Beginning-of-sequence token.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a generation.
    pub eos_token_ids: Vec<u32>,
    /// The mixture of experts, if the feed-forward blocks are one; each expert is `intermediate_size` wide.
    pub experts: Option<Experts>,
}

impl DecoderConfig {
    /// Rows of the q projection: `num_heads * head_dim`.
    pub fn q_dim(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Rows of the k and of the v projection: `num_kv_heads * head_dim`.
    pub fn kv_dim(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    /// The window of one layer; `None` = all positions.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.sliding_window.get(layer).copied().flatten()
    }

    /// Heads and mask of the attention of one layer.
    pub fn attention(&self, layer: usize) -> AttentionShape {
        AttentionShape {
            heads: self.num_heads,
            kv_heads: self.num_kv_heads,
            head_dim: self.head_dim,
            window: self.window(layer),
        }
    }

    /// Parameters of the weights this configuration implies, a tied head counted once.
    pub fn num_parameters(&self) -> usize {
        let (h, m, q, kv) = (self.hidden_size, self.intermediate_size, self.q_dim(), self.kv_dim());
        let bias = if self.qkv_bias { q + 2 * kv } else { 0 } + if self.o_bias { h } else { 0 };
        let norms = 2 * h + if self.qk_norm { 2 * self.head_dim } else { 0 };
        let inner = self.experts.map_or(3 * h * m, |experts| experts.count * (3 * h * m + h));
        let layer = 2 * h * q + 2 * h * kv + inner + bias + norms;
        let head = if self.tie_word_embeddings { 0 } else { self.vocab_size * h };
        self.vocab_size * h + self.num_layers * layer + h + head
    }
}
