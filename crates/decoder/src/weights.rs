//! Weights in host memory: the tensors of a decoder by their place.

mod assemble;
mod hf;
mod quantise;
mod safetensors;
mod save;
mod stored;

pub(crate) use assemble::{Count, ExpertPart, Part, Place, TensorSource, assemble, digest_tensors};
use harness_kernels::{FloatType, HostTensor};
pub(crate) use hf::{HfSource, expert_path};
pub(crate) use safetensors::TensorStore;
pub use save::save_safetensors;
pub use stored::StoredTensors;
pub(crate) use stored::by_type;

use crate::{DecoderError, Projection};

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
    /// The mixture of experts; then `gate`, `up` and `down` are empty.
    pub experts: Option<ExpertWeights>,
}

/// Weights of a mixture of experts.
#[derive(Clone, Debug)]
pub struct ExpertWeights {
    /// Router, `[experts, hidden]`.
    pub router: HostTensor,
    /// Gate, up and down projection of every expert, shaped as those of a [`LayerWeights`].
    pub experts: Vec<[HostTensor; 3]>,
}

impl LayerWeights {
    /// The linears with their places, in the order of [`Projection::ALL`].
    pub fn linears(&self) -> [(Projection, &HostTensor); 7] {
        let Self { q, k, v, o, gate, up, down, .. } = self;
        let all = [q, k, v, o, gate, up, down];
        std::array::from_fn(|i| (Projection::ALL[i], all[i]))
    }

    /// As [`LayerWeights::linears`], to be changed.
    pub fn linears_mut(&mut self) -> [(Projection, &mut HostTensor); 7] {
        let Self { q, k, v, o, gate, up, down, .. } = self;
        let mut all = Projection::ALL.into_iter();
        [q, k, v, o, gate, up, down].map(|tensor| (all.next().unwrap_or(Projection::Down), tensor))
    }
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

impl Weights {
    /// Stores all matrices in another type; 4-bit codes stay as they are.
    ///
    /// # Errors
    /// If a value is beyond the range of the type, naming the tensor.
    pub fn store_as(&mut self, dtype: FloatType) -> Result<(), DecoderError> {
        let convert = |tensor: &mut HostTensor, name: &dyn Fn() -> String| -> Result<(), DecoderError> {
            *tensor = tensor
                .stored_as(dtype)
                .ok_or_else(|| DecoderError::OutOfRange { tensor: name(), dtype: dtype.name() })?;
            Ok(())
        };
        convert(&mut self.embed, &|| "model.embed_tokens.weight".to_owned())?;
        if let Some(head) = &mut self.lm_head {
            convert(head, &|| "lm_head.weight".to_owned())?;
        }
        for (number, layer) in self.layers.iter_mut().enumerate() {
            for (projection, tensor) in layer.linears_mut() {
                convert(tensor, &|| format!("{}.weight", projection.path(number)))?;
            }
        }
        Ok(())
    }
}
