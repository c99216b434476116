//! Weights in host memory: tensors, and the tensors of a decoder by their place.

mod assemble;
mod buffer;
mod hf;
mod safetensors;

use std::borrow::Cow;

pub(crate) use assemble::{Part, Place, TensorSource, assemble, digest_tensors};
pub use buffer::Buffer;
pub(crate) use buffer::mapped;
use half::{bf16, f16};
pub(crate) use hf::HfSource;
pub(crate) use safetensors::{TensorStore, map_file};

/// Elements of a tensor, row-major, in the type in which they are stored.
#[derive(Clone, Debug)]
pub enum HostData {
    /// 32-bit floats.
    F32(Buffer<f32>),
    /// bfloat16.
    Bf16(Buffer<bf16>),
    /// IEEE half precision.
    F16(Buffer<f16>),
}

impl HostData {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::Bf16(data) => data.len(),
            Self::F16(data) => data.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Name of the element type: `f32`, `bf16` or `f16`.
    pub fn dtype(&self) -> &'static str {
        match self {
            Self::F32(_) => "f32",
            Self::Bf16(_) => "bf16",
            Self::F16(_) => "f16",
        }
    }
}

/// A tensor in host memory; cloning shares the elements.
#[derive(Clone, Debug)]
pub struct HostTensor {
    /// Length of every dimension, outermost first.
    pub shape: Vec<usize>,
    /// The elements; as many as the product of `shape`.
    pub data: HostData,
}

impl HostTensor {
    /// A tensor of 32-bit floats that owns its elements.
    pub fn from_f32(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Self {
        Self { shape: shape.into(), data: HostData::F32(data.into()) }
    }

    /// The elements as 32-bit floats; borrowed where they are stored so. Widening is exact.
    pub fn to_f32(&self) -> Cow<'_, [f32]> {
        match &self.data {
            HostData::F32(data) => Cow::Borrowed(data),
            HostData::Bf16(data) => Cow::Owned(data.iter().map(|x| x.to_f32()).collect()),
            HostData::F16(data) => Cow::Owned(data.iter().map(|x| x.to_f32()).collect()),
        }
    }

    /// Length of the first dimension (output features of a linear); 1 for a scalar.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Elements of a row (input features of a linear).
    pub fn cols(&self) -> usize {
        self.shape.iter().skip(1).product()
    }
}

/// Weights of one block. Linears are `[out, in]`: `y = x · Wᵀ + bias`.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    /// Query projection, `[num_heads * head_dim, hidden]`.
    pub q: HostTensor,
    /// Key projection, `[num_kv_heads * head_dim, hidden]`.
    pub k: HostTensor,
    /// Value projection, `[num_kv_heads * head_dim, hidden]`.
    pub v: HostTensor,
    /// Attention output projection, `[hidden, num_heads * head_dim]`.
    pub o: HostTensor,
    /// Gate of the feed-forward block, `[intermediate, hidden]`.
    pub gate: HostTensor,
    /// Up projection, `[intermediate, hidden]`.
    pub up: HostTensor,
    /// Down projection, `[hidden, intermediate]`.
    pub down: HostTensor,
    /// Bias of `q`.
    pub q_bias: Option<Vec<f32>>,
    /// Bias of `k`.
    pub k_bias: Option<Vec<f32>>,
    /// Bias of `v`.
    pub v_bias: Option<Vec<f32>>,
    /// Bias of `o`.
    pub o_bias: Option<Vec<f32>>,
    /// RMS norm before the attention, `[hidden]`.
    pub input_norm: Vec<f32>,
    /// RMS norm before the feed-forward block, `[hidden]`.
    pub post_attention_norm: Vec<f32>,
    /// RMS norm of a query head, `[head_dim]`.
    pub q_norm: Option<Vec<f32>>,
    /// RMS norm of a key head, `[head_dim]`.
    pub k_norm: Option<Vec<f32>>,
}

/// All weights of a decoder.
#[derive(Clone, Debug)]
pub struct Weights {
    /// Token embedding, `[vocab, hidden]`.
    pub embed: HostTensor,
    /// The blocks, first to last.
    pub layers: Vec<LayerWeights>,
    /// Last RMS norm, `[hidden]`.
    pub norm: Vec<f32>,
    /// Output head, `[vocab, hidden]`; `None` = the embedding.
    pub lm_head: Option<HostTensor>,
}
