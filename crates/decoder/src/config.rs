//! What a decoder is: its dimensions, rotary embedding and special tokens.

mod hf;
mod identity;
mod keys;
pub(crate) mod limits;
mod mixture;
mod rope;
mod scheme;

use harness_kernels::cpu::attention::{AttentionShape, Scores};
pub use hf::GenerationDefaults;
pub use hf::read_json;
pub(crate) use hf::{default_config, layer_types, read_config, read_generation_defaults};
pub(crate) use keys::Keys;
pub(crate) use scheme::Scheme;

use crate::{Architecture, BlockSpec, Experts, Positions, Rope, RopeScaling, Rotation};

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
    /// Added to the mean square, or the variance, in norms.
    pub norm_eps: f32,
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
    /// For every layer the number of last positions (itself included) a token attends to; `None` = all.
    pub sliding_window: Vec<Option<usize>>,
    /// Beginning-of-sequence token.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a generation.
    pub eos_token_ids: Vec<u32>,
    /// The mixture of experts, if the feed-forward blocks are one; each expert is `intermediate_size` wide unless it says.
    pub experts: Option<Experts>,
    /// What a block computes.
    pub block: BlockSpec,
}

impl DecoderConfig {
    /// Gives layers with a window one rotation and the others another.
    pub(crate) fn rotate_by_window(&mut self, with: Rotation, without: Rotation) {
        let of = |window: &Option<usize>| if window.is_some() { with } else { without };
        self.block.rotations = self.sliding_window.iter().map(of).collect();
    }

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

    /// What is special about the attention scores of a layer, but for sinks, which are weights.
    pub fn scores(&self, layer: usize) -> Scores<'_> {
        let block = &self.block;
        let scale = block.score_scale.unwrap_or_else(|| (self.head_dim as f64).powf(-0.5));
        let scale = if block.scores_by_layer { scale / (layer + 1) as f64 } else { scale };
        let (slopes, rounded) = match &block.positions {
            Positions::Alibi { slopes, rounded } => (Some(slopes.as_slice()), *rounded),
            _ => (None, None),
        };
        Scores {
            scale: (block.score_scale.is_some() || block.scores_by_layer).then_some(scale as f32),
            cap: block.score_cap,
            slopes,
            rounded,
            sinks: None,
            chunk: block.chunk.filter(|_| block.rotation(layer) != Rotation::None),
        }
    }

    /// A feature, in words, that training of all parameters does not have yet.
    pub fn beyond_llama(&self) -> Option<&'static str> {
        match &self.rope.scaling {
            _ if self.experts.is_some() => Some("a mixture of experts"),
            RopeScaling::Yarn { .. } => Some("YaRN"),
            RopeScaling::LongRope { .. } => Some("LongRoPE"),
            _ => self.block.beyond_llama(),
        }
    }

    /// Elements of a head that are rotated.
    pub fn rotary_dims(&self) -> usize {
        self.block.rotary_dims.unwrap_or(self.head_dim)
    }

    /// Rows of what the output projection sees.
    pub fn o_dim(&self) -> usize {
        self.block.latent.map_or(self.q_dim(), |latent| self.num_heads * latent.value)
    }

    /// Whether a layer has a mixture of experts.
    pub fn is_sparse(&self, layer: usize) -> bool {
        self.experts.as_ref().is_some_and(|experts| experts.is_sparse(layer))
    }

    /// Width of an expert.
    pub fn expert_width(&self) -> usize {
        self.experts.as_ref().and_then(|experts| experts.width).unwrap_or(self.intermediate_size)
    }
}
