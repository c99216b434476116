//! How much of the forward pass is kept for the backward pass.

use harness_decoder::DecoderConfig;

/// Which intermediate results the forward pass keeps for the backward pass. All give the same gradients, bit by bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SavePolicy {
    /// All of them: no work is repeated.
    Full,
    /// All but the norms' outputs and the activation, which are cheap to compute again.
    #[default]
    Lean,
    /// The block's input only: the block is run again.
    Layer,
    /// The input of every k-th block only (Chen et al. 2016): k blocks are run again at a time. At least 1.
    Every(usize),
}

impl SavePolicy {
    /// Blocks that are run again together; `None` where none is.
    pub fn segment(self) -> Option<usize> {
        match self {
            Self::Full | Self::Lean => None,
            Self::Layer => Some(1),
            Self::Every(k) => Some(k.max(1)),
        }
    }

    /// Floats that are kept of every token of a micro-batch over all blocks, at the most that is held at once.
    pub fn floats_per_token(self, config: &DecoderConfig) -> usize {
        let (hidden, inter, q, kv) = (config.hidden_size, config.intermediate_size, config.q_dim(), config.kv_dim());
        let lean = 2 * hidden + 2 + q + 2 * kv + q + config.num_heads + 2 * inter;
        let lean =
            lean + if config.block.qk_norm.is_some() { q + kv + config.num_heads + config.num_kv_heads } else { 0 };
        let full = lean + 2 * hidden + inter;
        let layers = config.num_layers;
        match self {
            Self::Full => layers * full,
            Self::Lean => layers * lean,
            Self::Layer => layers * hidden + full,
            Self::Every(k) => layers.div_ceil(k.max(1)) * hidden + k * full,
        }
    }

    /// The policy that repeats the least work among those whose activations fit into `floats`, for micro-batches of
    /// `tokens`; where none does, the one that keeps the least.
    pub fn choose(config: &DecoderConfig, tokens: usize, floats: usize) -> Self {
        let root = (config.num_layers as f64).sqrt().ceil() as usize;
        let all = [Self::Lean, Self::Layer, Self::Every(root.max(2))];
        let fits = all.into_iter().find(|policy| policy.floats_per_token(config).saturating_mul(tokens) <= floats);
        let least = || all.into_iter().min_by_key(|policy| policy.floats_per_token(config));
        fits.or_else(least).unwrap_or_default()
    }
}
