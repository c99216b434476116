//! Weights in host memory: the tensors of a decoder by their place.

mod assemble;
mod hf;
mod quantise;
mod quantised;
mod remapped;
mod safetensors;
mod save;
mod stored;

pub(crate) use assemble::{
    Count, ExpertPart, Part, Place, TensorSource, assemble, digest_tensors, expert_shape, parts, shape, top_shape, tops,
};
use harness_kernels::{FloatType, HostTensor, cpu::activation::Activation};
pub(crate) use hf::{HfSource, expert_path};
pub(crate) use quantised::scheme;
pub(crate) use remapped::{Remapped, is_tied, le_bytes, refuse_quantised};
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
    /// What Llama's block lacks.
    pub more: MoreWeights,
}

/// Weights of a block that Llama's lacks; empty where the configuration has none.
#[derive(Clone, Debug, Default)]
pub struct MoreWeights {
    /// Bias of the norm before the attention.
    pub input_norm_bias: Vec<f32>,
    /// Bias of the norm before the feed-forward block.
    pub post_attention_norm_bias: Vec<f32>,
    /// Norm of what the attention adds.
    pub attention_out_norm: Vec<f32>,
    /// Norm of what the feed-forward block adds.
    pub feed_forward_out_norm: Vec<f32>,
    /// Bias of the queries' norm.
    pub q_norm_bias: Vec<f32>,
    /// Bias of the keys' norm.
    pub k_norm_bias: Vec<f32>,
    /// Bias of `gate`.
    pub gate_bias: Option<Vec<f32>>,
    /// Bias of `up`.
    pub up_bias: Option<Vec<f32>>,
    /// Bias of `down`.
    pub down_bias: Option<Vec<f32>>,
    /// A score of every head, `[num_heads]`.
    pub sinks: Vec<f32>,
    /// xIELU's `alpha_p`, `alpha_n`, `beta` and `eps`.
    pub xielu: Vec<f32>,
    /// Latent attention; then `q` is there where queries pass no narrow layer, and `k` and `v` are empty.
    pub latent: Option<LatentWeights>,
    /// Short convolution; then the attention's tensors are empty.
    pub convolution: Option<ConvolutionWeights>,
}

/// Weights of latent attention.
#[derive(Clone, Debug)]
pub struct LatentWeights {
    /// Into the narrow layer of queries, its norm, and out of it: `[q_rank, hidden]`, `[q_rank]`, `[heads · head_dim, q_rank]`.
    pub q: Option<(HostTensor, Vec<f32>, HostTensor)>,
    /// Bias of the first of `q`.
    pub q_bias: Option<Vec<f32>>,
    /// Into the narrow layer of keys and values, and the keys' rotated part: `[kv_rank + rope, hidden]`.
    pub kv_down: HostTensor,
    /// Bias of `kv_down`.
    pub kv_down_bias: Option<Vec<f32>>,
    /// Norm of the narrow layer, `[kv_rank]`.
    pub kv_norm: Vec<f32>,
    /// Out of it: `[heads · (nope + value), kv_rank]`.
    pub kv_up: HostTensor,
}

/// Weights of a short convolution.
#[derive(Clone, Debug)]
pub struct ConvolutionWeights {
    /// To the two gates and what is convolved, `[3 · hidden, hidden]`.
    pub input: HostTensor,
    /// Bias of `input`.
    pub input_bias: Option<Vec<f32>>,
    /// Factor of every channel and position, the present one last: `[hidden, taps]`.
    pub taps: Vec<f32>,
    /// Bias of the convolution.
    pub bias: Vec<f32>,
    /// Output projection, `[hidden, hidden]`.
    pub output: HostTensor,
    /// Bias of `output`.
    pub output_bias: Option<Vec<f32>>,
}

/// Weights of a mixture of experts.
#[derive(Clone, Debug)]
pub struct ExpertWeights {
    /// Router, `[experts, hidden]`.
    pub router: HostTensor,
    /// Gate, up and down projection of every expert, shaped as those of a [`LayerWeights`].
    pub experts: Vec<[HostTensor; 3]>,
    /// Bias of the router.
    pub router_bias: Option<Vec<f32>>,
    /// Added for the choice of experts alone.
    pub selection_bias: Vec<f32>,
    /// Biases of every expert's projections.
    pub biases: Vec<[Vec<f32>; 3]>,
    /// Gate, up and down projection of the shared expert.
    pub shared: Option<[HostTensor; 3]>,
    /// Biases of `shared`.
    pub shared_biases: Option<[Vec<f32>; 3]>,
    /// What the shared expert is weighed by, `[1, hidden]`.
    pub shared_gate: Option<HostTensor>,
}

impl ExpertWeights {
    /// A router over experts, and nothing else.
    pub fn new(router: HostTensor, experts: Vec<[HostTensor; 3]>) -> Self {
        Self {
            router,
            experts,
            router_bias: None,
            selection_bias: vec![],
            biases: vec![],
            shared: None,
            shared_biases: None,
            shared_gate: None,
        }
    }
}

/// The activation of a block, of a kind whose parameters may be weights: [`MoreWeights::xielu`].
pub fn activation_of(kind: Activation, xielu: &[f32]) -> Activation {
    match (kind, xielu) {
        (Activation::Xielu { .. }, &[positive, negative, beta, eps]) => {
            let softplus = |x: f32| f64::from(x).exp().ln_1p() as f32;
            Activation::Xielu { positive: softplus(positive), negative: beta + softplus(negative), beta, eps }
        }
        (kind, _) => kind,
    }
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

    /// All linears but routers and those of single experts, to be changed: also those of latent attention, short convolutions
    /// and shared experts.
    pub fn all_linears_mut(&mut self) -> Vec<(Projection, &mut HostTensor)> {
        let Self { q, k, v, o, gate, up, down, experts, more, .. } = self;
        let mut all: Vec<_> = Projection::ALL.into_iter().zip([q, k, v, o, gate, up, down]).collect();
        if let Some(latent) = &mut more.latent {
            if let Some((into, _, out)) = &mut latent.q {
                all.extend([(Projection::QDown, into), (Projection::QUp, out)]);
            }
            all.extend([(Projection::KvDown, &mut latent.kv_down), (Projection::KvUp, &mut latent.kv_up)]);
        }
        if let Some(convolution) = &mut more.convolution {
            all.push((Projection::ConvIn, &mut convolution.input));
            all.push((Projection::ConvOut, &mut convolution.output));
        }
        if let Some(shared) = experts.as_mut().and_then(|experts| experts.shared.as_mut()) {
            let parts = [Projection::SharedGate, Projection::SharedUp, Projection::SharedDown];
            all.extend(parts.into_iter().zip(shared));
        }
        all
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
    /// What Llama lacks.
    pub more: MoreTop,
}

/// Weights outside of the blocks that Llama lacks; empty where the configuration has none.
#[derive(Clone, Debug, Default)]
pub struct MoreTop {
    /// Bias of the last norm.
    pub norm_bias: Vec<f32>,
    /// Bias of the head, `[vocab]`.
    pub head_bias: Option<Vec<f32>>,
    /// Learned positions, `[positions, hidden]`.
    pub positions: Option<HostTensor>,
    /// Norm of the embedding and its bias.
    pub embedding_norm: (Vec<f32>, Vec<f32>),
    /// From the embedding's width to the hidden size, `[hidden, width]`, and back.
    pub projections: Option<(HostTensor, HostTensor)>,
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
            for (projection, tensor) in layer.all_linears_mut() {
                convert(tensor, &|| format!("{}.weight", projection.path(number)))?;
            }
        }
        Ok(())
    }
}
