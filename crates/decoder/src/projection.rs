//! The linears of a decoder block.

use std::fmt;

use crate::{DecoderConfig, Experts, Latent};

/// A linear of a decoder block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Projection {
    /// `self_attn.q_proj`
    Q,
    /// `self_attn.k_proj`
    K,
    /// `self_attn.v_proj`
    V,
    /// `self_attn.o_proj`
    O,
    /// `mlp.gate_proj`
    Gate,
    /// `mlp.up_proj`
    Up,
    /// `mlp.down_proj`
    Down,
    /// `self_attn.q_a_proj`: into the narrow layer of queries, of latent attention
    QDown,
    /// `self_attn.q_b_proj`: out of it
    QUp,
    /// `self_attn.kv_a_proj_with_mqa`: into the narrow layer of keys and values
    KvDown,
    /// `self_attn.kv_b_proj`: out of it
    KvUp,
    /// `conv.in_proj`, of a short convolution
    ConvIn,
    /// `conv.out_proj`
    ConvOut,
    /// `block_sparse_moe.gate`: the router of a mixture of experts, where it is a linear
    Router,
    /// `mlp.shared_experts.gate_proj`
    SharedGate,
    /// `mlp.shared_experts.up_proj`
    SharedUp,
    /// `mlp.shared_experts.down_proj`
    SharedDown,
    /// `mlp.shared_expert_gate`: what the shared expert is weighed by
    SharedSigmoid,
}

impl Projection {
    /// The linears of a block with attention and a dense feed-forward block, in their order. What a block has is said by
    /// [`DecoderConfig::linears`].
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// All linears that a block may have.
    pub(crate) const EVERY: [Self; 18] = [
        Self::Q,
        Self::K,
        Self::V,
        Self::O,
        Self::Gate,
        Self::Up,
        Self::Down,
        Self::QDown,
        Self::QUp,
        Self::KvDown,
        Self::KvUp,
        Self::ConvIn,
        Self::ConvOut,
        Self::Router,
        Self::SharedGate,
        Self::SharedUp,
        Self::SharedDown,
        Self::SharedSigmoid,
    ];

    /// Llama's name of the module inside a block, e.g. `self_attn.q_proj`, or that of the family that has it.
    pub fn module(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
            Self::QDown => "self_attn.q_a_proj",
            Self::QUp => "self_attn.q_b_proj",
            Self::KvDown => "self_attn.kv_a_proj_with_mqa",
            Self::KvUp => "self_attn.kv_b_proj",
            Self::ConvIn => "conv.in_proj",
            Self::ConvOut => "conv.out_proj",
            Self::Router => "block_sparse_moe.gate",
            Self::SharedGate => "mlp.shared_experts.gate_proj",
            Self::SharedUp => "mlp.shared_experts.up_proj",
            Self::SharedDown => "mlp.shared_experts.down_proj",
            Self::SharedSigmoid => "mlp.shared_expert_gate",
        }
    }

    /// The module's full path, e.g. `model.layers.3.self_attn.q_proj`.
    pub fn path(self, layer: usize) -> String {
        format!("model.layers.{layer}.{}", self.module())
    }

    /// Output and input features of the linear: the rows and columns of its weight; 0 where the configuration has no such
    /// linear.
    pub fn dims(self, config: &DecoderConfig) -> (usize, usize) {
        let (h, m, q, kv) = (config.hidden_size, config.intermediate_size, config.q_dim(), config.kv_dim());
        let latent = |of: fn(Latent) -> usize| config.block.latent.map_or(0, of);
        let (q_rank, kv_rank) = (latent(|latent| latent.q_rank.unwrap_or(0)), latent(|latent| latent.kv_rank));
        let experts = |of: fn(&Experts) -> usize| config.experts.as_ref().map_or(0, of);
        let shared = experts(|experts| experts.shared.unwrap_or(0));
        match self {
            Self::Q => (q, h),
            Self::K | Self::V => (kv, h),
            Self::O => (h, config.o_dim()),
            Self::Gate | Self::Up => (m, h),
            Self::Down => (h, m),
            Self::QDown => (q_rank, h),
            Self::QUp => (q, q_rank),
            Self::KvDown => (latent(|latent| latent.kv_rank + latent.rope), h),
            Self::KvUp => (config.num_heads * latent(|latent| latent.nope + latent.value), kv_rank),
            Self::ConvIn => (3 * h, h),
            Self::ConvOut => (h, h),
            Self::Router => (experts(|experts| experts.count), h),
            Self::SharedGate | Self::SharedUp => (shared, h),
            Self::SharedDown => (h, shared),
            Self::SharedSigmoid => (1, h),
        }
    }
}

impl fmt::Display for Projection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.module())
    }
}
