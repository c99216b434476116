//! A model in the host's memory, packed for the kernels.

use super::{
    Rotary,
    experts::ExpertLayer,
    linear::{Embedding, Linear, LoraLinear},
};
use crate::{Adapter, AdapterLayer, DecoderConfig, DecoderError, LayerWeights, Projection, Weights};
use harness_kernels::cpu::elementwise::round_to_bf16;

/// Packed weights; shared by all adapters over them.
#[derive(Debug)]
pub(super) struct HostModel {
    pub(super) embedding: Embedding,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: Vec<f32>,
    pub(super) head: Linear,
    pub(super) rotary: Rotary,
}

#[derive(Debug)]
pub(super) struct Layer {
    pub(super) input_norm: Vec<f32>,
    pub(super) qkv: Linear,
    pub(super) q_norm: Option<Vec<f32>>,
    pub(super) k_norm: Option<Vec<f32>>,
    pub(super) o: Linear,
    pub(super) post_attention_norm: Vec<f32>,
    pub(super) feed_forward: FeedForward,
}

#[derive(Debug)]
pub(super) enum FeedForward {
    Dense { gate_up: Linear, down: Linear },
    Experts(ExpertLayer),
}

impl FeedForward {
    fn pack(w: &LayerWeights, config: &DecoderConfig) -> Self {
        match (&w.experts, config.experts) {
            (Some(weights), Some(experts)) => Self::Experts(ExpertLayer::pack(weights, experts)),
            _ => Self::Dense {
                gate_up: Linear::pack(&[&w.gate, &w.up], &[None, None]),
                down: Linear::pack(&[&w.down], &[None]),
            },
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Dense { gate_up, down } => gate_up.bytes() + down.bytes(),
            Self::Experts(experts) => experts.bytes(),
        }
    }
}

impl HostModel {
    /// Packs the weights. Inputs are at most `max_length` tokens long.
    pub(super) fn new(config: &DecoderConfig, weights: Weights, max_length: usize) -> Self {
        let layers = weights
            .layers
            .iter()
            .map(|w| Layer {
                input_norm: w.input_norm.clone(),
                qkv: Linear::pack(&[&w.q, &w.k, &w.v], &[w.q_bias.as_ref(), w.k_bias.as_ref(), w.v_bias.as_ref()]),
                q_norm: w.q_norm.clone(),
                k_norm: w.k_norm.clone(),
                o: Linear::pack(&[&w.o], &[w.o_bias.as_ref()]),
                post_attention_norm: w.post_attention_norm.clone(),
                feed_forward: FeedForward::pack(w, config),
            })
            .collect();
        let head = Linear::pack(&[weights.lm_head.as_ref().unwrap_or(&weights.embed)], &[None]);
        let (rotary, embedding) = (Rotary::new(config, max_length), Embedding::new(weights.embed));
        Self { embedding, layers, norm: weights.norm, head, rotary }
    }

    /// Bytes of packed weights.
    pub(super) fn bytes(&self) -> usize {
        let layer = |l: &Layer| l.qkv.bytes() + l.o.bytes() + l.feed_forward.bytes();
        self.layers.iter().map(layer).sum::<usize>() + self.head.bytes()
    }
}

/// The additions of an adapter to one block.
#[derive(Debug, Default)]
pub(super) struct LayerLora {
    pub(super) qkv: Option<LoraLinear>,
    pub(super) o: Option<LoraLinear>,
    pub(super) gate_up: Option<LoraLinear>,
    pub(super) down: Option<LoraLinear>,
}

/// An adapter in the host's memory.
#[derive(Debug)]
pub(super) struct HostAdapter {
    layers: Vec<LayerLora>,
    head: Option<Linear>,
    embedding: Option<Embedding>,
}

impl HostAdapter {
    /// Packs an adapter over a model of this configuration.
    ///
    /// # Errors
    /// If the adapter changes experts, or replaces modules other than embedding and head.
    pub(super) fn new(config: &DecoderConfig, adapter: &Adapter) -> Result<Self, DecoderError> {
        let (q, kv, hidden, inner) = (config.q_dim(), config.kv_dim(), config.hidden_size, config.intermediate_size);
        use Projection::{Down, Gate, K, O, Q, Up, V};
        let inside = |layer: &AdapterLayer| [Gate, Up, Down].into_iter().find(|part| layer.contains_key(part));
        if let (Some(_), Some(part)) = (config.experts, adapter.layers.iter().find_map(inside)) {
            return Err(DecoderError::AdapterModule { module: format!("{} of experts", part.module()) });
        }
        let layers = adapter
            .layers
            .iter()
            .map(|layer| LayerLora {
                qkv: LoraLinear::pack(layer, &[(Q, q), (K, kv), (V, kv)], hidden),
                o: LoraLinear::pack(layer, &[(O, hidden)], q),
                gate_up: LoraLinear::pack(layer, &[(Gate, inner), (Up, inner)], hidden),
                down: LoraLinear::pack(layer, &[(Down, hidden)], inner),
            })
            .collect();
        let [head, embedding] = adapter.whole_modules()?;
        let head = head.map(|tensor| Linear::pack(&[tensor], &[None]));
        Ok(Self { layers, head, embedding: embedding.map(|tensor| Embedding::new(tensor.clone())) })
    }
}

/// A model in the host's memory with its adapter, as a pass looks at them.
#[derive(Clone, Copy)]
pub(super) struct Host<'a> {
    pub(super) config: &'a DecoderConfig,
    pub(super) model: &'a HostModel,
    pub(super) adapter: Option<&'a HostAdapter>,
    /// Activations are rounded to bf16 wherever a model in bf16 stores them; products stay in f32.
    pub(super) rounded: bool,
}

impl<'a> Host<'a> {
    pub(super) fn lora(&self, layer: usize) -> Option<&'a LayerLora> {
        self.adapter.map(|adapter| &adapter.layers[layer])
    }

    pub(super) fn embedding(&self) -> &'a Embedding {
        self.adapter.and_then(|adapter| adapter.embedding.as_ref()).unwrap_or(&self.model.embedding)
    }

    pub(super) fn head(&self) -> &'a Linear {
        self.adapter.and_then(|adapter| adapter.head.as_ref()).unwrap_or(&self.model.head)
    }

    /// Rounds activations where a model in bf16 stores them.
    pub(super) fn round(&self, activations: &mut [f32]) {
        if self.rounded {
            round_to_bf16(activations);
        }
    }
}
