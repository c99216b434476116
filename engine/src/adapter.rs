//! LoRA adapters in PEFT's layout.

use std::{collections::BTreeMap, fmt};

use harness_core::Digest;

use crate::HostTensor;

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
}

/// A low-rank addition to one linear: `y += scale * B (A x)`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraPair {
    /// `A`, `[rank, in]`, row-major.
    pub a: Vec<f32>,
    /// `B`, `[out, rank]`, row-major.
    pub b: Vec<f32>,
    /// The rank.
    pub rank: usize,
    /// The factor, `alpha / rank` or `alpha / sqrt(rank)`.
    pub scale: f32,
}

/// The low-rank additions of one block.
pub type AdapterLayer = BTreeMap<Projection, LoraPair>;

/// A LoRA adapter over one base model.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// One entry a block, empty where the block is not adapted.
    pub layers: Vec<AdapterLayer>,
    /// Whole modules trained and saved beside the low-rank pairs, by module path (`lm_head`, `model.embed_tokens`).
    pub modules_to_save: BTreeMap<String, HostTensor>,
    /// Hash of the configuration and the tensors.
    pub digest: Digest,
}

impl Projection {
    /// All of them, in the order of the block.
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// The module's name inside a block, e.g. `self_attn.q_proj`.
    pub fn module(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }
}

impl fmt::Display for Projection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.module())
    }
}
