//! A model in the host's memory, packed for the kernels.

use std::{collections::BTreeMap, ops::Range};

use super::{
    Rotary,
    convolution::ConvolutionLayer,
    experts::ExpertLayer,
    feed_forward::Gated,
    latent::LatentLayer,
    linear::{Embedding, LayerLora, Linear, Lora, LoraLinear, Stacked},
    top::{self, TopLora},
};
use crate::{
    Adapter, AdapterLayer, DecoderConfig, DecoderError, LayerWeights, Norm, NormWeight,
    Projection::{Down, Gate, K, O, Q, Up, V},
    Weights,
    adapter::without_part,
    weights::activation_of,
};
use harness_kernels::cpu::{
    attention::Scores,
    elementwise::{rms_norm, round_to_bf16},
    norm::{NormKind, norm_in_place},
};

/// Packed weights; shared by all adapters over them.
#[derive(Debug)]
pub(super) struct HostModel {
    pub(super) embedding: Embedding,
    /// From the embedding's width to the hidden size, and back.
    pub(super) projections: Option<(Linear, Linear)>,
    pub(super) positions: Option<Embedding>,
    pub(super) embedding_norm: HostNorm,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: HostNorm,
    pub(super) head: Linear,
    pub(super) rotary: Rotary,
    pub(super) local: Option<Rotary>,
}

/// Weight and bias of a norm; empty ones do nothing.
#[derive(Debug, Clone, Default)]
pub(super) struct HostNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl HostNorm {
    pub(super) fn new(weight: &[f32], bias: &[f32]) -> Self {
        Self { weight: weight.to_vec(), bias: bias.to_vec() }
    }

    /// Norms rows of `width`.
    pub(super) fn run(&self, norm: Norm, x: &[f32], width: usize, eps: f32, out: &mut [f32]) {
        if norm.kind == NormKind::Rms && self.bias.is_empty() && self.weight.len() == width {
            return rms_norm(x, &self.weight, eps, out, None);
        }
        out.copy_from_slice(x);
        self.in_place(norm, out, width, eps);
    }

    pub(super) fn in_place(&self, norm: Norm, x: &mut [f32], width: usize, eps: f32) {
        norm_in_place(norm.kind, x, width, &self.weight, &self.bias, eps);
    }
}

#[derive(Debug)]
pub(super) struct Layer {
    pub(super) input_norm: HostNorm,
    pub(super) mixer: Mixer,
    pub(super) attention_out_norm: Option<HostNorm>,
    pub(super) post_attention_norm: HostNorm,
    pub(super) feed_forward: FeedForward,
    pub(super) feed_forward_out_norm: Option<HostNorm>,
}

/// What lets positions see each other.
#[derive(Debug)]
pub(super) enum Mixer {
    Attention(Box<AttentionLayer>),
    Convolution(Box<ConvolutionLayer>),
}

#[derive(Debug)]
pub(super) struct AttentionLayer {
    pub(super) projections: Projections,
    pub(super) q_norm: Option<HostNorm>,
    pub(super) k_norm: Option<HostNorm>,
    pub(super) o: Linear,
    pub(super) sinks: Vec<f32>,
}

/// How queries, keys and values are made.
#[derive(Debug)]
pub(super) enum Projections {
    Merged(Linear),
    Latent(Box<LatentLayer>),
}

#[derive(Debug)]
pub(super) enum FeedForward {
    Dense(Box<Gated>),
    Experts(Box<ExpertLayer>),
}

impl FeedForward {
    fn pack(w: &LayerWeights, config: &DecoderConfig, layer: usize) -> Self {
        let more = &w.more;
        match (&w.experts, &config.experts) {
            (Some(weights), Some(experts)) => {
                Self::Experts(Box::new(ExpertLayer::pack(weights, experts, config, layer)))
            }
            _ => {
                let activation = activation_of(config.block.activation, &more.xielu);
                let biases = [more.gate_bias.as_ref(), more.up_bias.as_ref(), more.down_bias.as_ref()];
                Self::Dense(Box::new(Gated::pack([&w.gate, &w.up, &w.down], biases, config.block.gated, activation)))
            }
        }
    }

    fn linears(&self) -> Vec<Stacked<'_>> {
        match self {
            Self::Dense(block) => block.linears([Gate, Up, Down]).into(),
            Self::Experts(experts) => experts.linears(),
        }
    }
}

impl Mixer {
    fn pack(w: &LayerWeights, config: &DecoderConfig) -> Self {
        let more = &w.more;
        if let Some(weights) = &more.convolution {
            return Self::Convolution(Box::new(ConvolutionLayer::pack(weights)));
        }
        let projections = match (&more.latent, config.block.latent) {
            (Some(weights), Some(shape)) => {
                Projections::Latent(Box::new(LatentLayer::pack(w, weights, shape, config.num_heads)))
            }
            _ => {
                let biases = [w.q_bias.as_ref(), w.k_bias.as_ref(), w.v_bias.as_ref()];
                Projections::Merged(Linear::pack(&[&w.q, &w.k, &w.v], &biases))
            }
        };
        let norm = |weight: &Option<Vec<f32>>, bias: &[f32]| {
            let there = config.block.qk_norm.filter(|norm| norm.norm.weight == NormWeight::None || weight.is_some());
            there.map(|_| HostNorm::new(weight.as_deref().unwrap_or_default(), bias))
        };
        Self::Attention(Box::new(AttentionLayer {
            projections,
            q_norm: norm(&w.q_norm, &more.q_norm_bias),
            k_norm: norm(&w.k_norm, &more.k_norm_bias),
            o: Linear::pack(&[&w.o], &[w.o_bias.as_ref()]),
            sinks: more.sinks.clone(),
        }))
    }

    fn linears(&self) -> Vec<Stacked<'_>> {
        match self {
            Self::Attention(layer) => {
                let mut linears = match &layer.projections {
                    Projections::Merged(linear) => vec![(linear, vec![Q, K, V])],
                    Projections::Latent(latent) => latent.linears(),
                };
                linears.push((&layer.o, vec![O]));
                linears
            }
            Self::Convolution(layer) => layer.linears(),
        }
    }

    /// Elements of a row of what comes out before the output projection; of latent attention before values are cut.
    pub(super) fn width(&self, config: &DecoderConfig) -> usize {
        match self {
            Self::Attention(_) => config.q_dim(),
            Self::Convolution(layer) => layer.width(),
        }
    }
}

impl Layer {
    /// The linears that every row passes.
    fn linears(&self) -> impl Iterator<Item = Stacked<'_>> {
        self.mixer.linears().into_iter().chain(self.feed_forward.linears())
    }

    fn bytes(&self) -> usize {
        let experts = if let FeedForward::Experts(experts) = &self.feed_forward { experts.bytes() } else { 0 };
        self.linears().map(|(linear, _)| linear.bytes()).sum::<usize>() + experts
    }
}

impl HostModel {
    /// Packs the weights. Inputs are at most `max_length` tokens long.
    pub(super) fn new(config: &DecoderConfig, weights: Weights, max_length: usize) -> Self {
        let layers = weights
            .layers
            .iter()
            .enumerate()
            .map(|(number, w)| {
                let out_norm = |weight: &[f32]| (!weight.is_empty()).then(|| HostNorm::new(weight, &[]));
                Layer {
                    input_norm: HostNorm::new(&w.input_norm, &w.more.input_norm_bias),
                    mixer: Mixer::pack(w, config),
                    attention_out_norm: out_norm(&w.more.attention_out_norm),
                    post_attention_norm: HostNorm::new(&w.post_attention_norm, &w.more.post_attention_norm_bias),
                    feed_forward: FeedForward::pack(w, config, number),
                    feed_forward_out_norm: out_norm(&w.more.feed_forward_out_norm),
                }
            })
            .collect();
        let more = weights.more;
        let head = Linear::pack(&[weights.lm_head.as_ref().unwrap_or(&weights.embed)], &[more.head_bias.as_ref()]);
        Self {
            projections: more
                .projections
                .map(|(to, back)| (Linear::pack(&[&to], &[None]), Linear::pack(&[&back], &[None]))),
            positions: more.positions.map(Embedding::new),
            embedding_norm: HostNorm::new(&more.embedding_norm.0, &more.embedding_norm.1),
            embedding: Embedding::new(weights.embed),
            layers,
            norm: HostNorm::new(&weights.norm, &more.norm_bias),
            head,
            rotary: Rotary::new(config, &config.rope, max_length),
            local: config.block.local_rope.as_ref().map(|rope| Rotary::new(config, rope, max_length)),
        }
    }

    /// Bytes of packed weights.
    pub(super) fn bytes(&self) -> usize {
        self.layers.iter().map(Layer::bytes).sum::<usize>() + self.head.bytes()
    }
}

/// An adapter in the host's memory.
#[derive(Debug)]
pub(super) struct HostAdapter {
    layers: Vec<LayerLora>,
    top: Box<TopLora>,
}

impl HostAdapter {
    /// Packs an adapter over a model of this configuration.
    ///
    /// # Errors
    /// If the adapter changes linears that this model has not, or replaces modules other than embedding and head.
    pub(super) fn new(config: &DecoderConfig, model: &HostModel, adapter: &Adapter) -> Result<Self, DecoderError> {
        let pack = |(number, layer): (usize, &AdapterLayer)| {
            let (mut linears, mut packed) = (BTreeMap::new(), 0);
            let places = config.linears(number);
            for (linear, projections) in model.layers[number].linears() {
                packed += projections.iter().filter(|projection| layer.contains_key(projection)).count();
                let layer = match adapter.config.initialisation {
                    Some(initialisation) => {
                        let rows = |range| Ok((!linear.is_quantised()).then(|| linear.weight_rows(range)));
                        &without_part(initialisation, layer, &projections, &places, linear.inputs(), &rows)?
                    }
                    None => layer,
                };
                let stacked: Vec<_> = projections.iter().map(|part| (layer.get(part), part.dims(config).0)).collect();
                linears.extend(LoraLinear::pack(&stacked, linear).map(|lora| (projections[0], lora)));
            }
            if packed < layer.len() {
                let module = format!("{:?} of layer {number}", layer.keys().collect::<Vec<_>>());
                return Err(DecoderError::AdapterModule { module });
            }
            let experts = adapter.experts.get(number).map(Vec::as_slice).unwrap_or_default();
            let experts = experts.iter().map(|pairs| pairs.each_ref().map(|pair| pair.as_ref().map(LoraLinear::of)));
            Ok(LayerLora { linears, experts: experts.collect() })
        };
        let layers = adapter.layers.iter().enumerate().map(pack).collect::<Result<_, _>>()?;
        Ok(Self { layers, top: TopLora::pack(adapter, &model.embedding, &model.head)?.into() })
    }
}

/// Runs of rows in order, each with the adapter that its model has beside the base.
pub(super) type Adapted<'a> = Vec<(Range<usize>, Option<&'a HostAdapter>)>;

/// What the adapters add to the linears of a block.
pub(super) fn lora<'a>(adapted: &Adapted<'a>, layer: usize) -> Lora<'a> {
    Lora(adapted.iter().filter_map(|(rows, adapter)| Some((rows.clone(), &(*adapter)?.layers[layer]))).collect())
}

/// A model in the host's memory, as a pass looks at it.
#[derive(Clone, Copy)]
pub(super) struct Host<'a> {
    pub(super) config: &'a DecoderConfig,
    pub(super) model: &'a HostModel,
    /// Activations are rounded to bf16 wherever a model in bf16 stores them; products stay in f32.
    pub(super) rounded: bool,
}

impl<'a> Host<'a> {
    /// The embedding of the tokens of all rows.
    pub(super) fn look_up(&self, tokens: &[u32], adapted: &Adapted<'_>) -> Result<Vec<f32>, DecoderError> {
        let mut out = Vec::with_capacity(tokens.len() * self.config.hidden_size);
        for (rows, adapter) in adapted {
            let tokens = tokens[rows.clone()].iter().copied();
            match adapter {
                Some(adapter) => adapter.top.look_up(&self.model.embedding, tokens, &mut out)?,
                None => self.model.embedding.lookup(tokens, &mut out)?,
            }
        }
        Ok(out)
    }

    /// The products of normed rows with the head.
    pub(super) fn head(&self, normed: &[f32], adapted: &Adapted<'_>) -> Vec<f32> {
        let tops: Vec<_> =
            adapted.iter().map(|(rows, adapter)| (rows.clone(), adapter.map(|adapter| &*adapter.top))).collect();
        top::head(&self.model.head, normed, &tops)
    }

    /// Logits of a row of a model with this adapter.
    pub(super) fn vocab(&self, adapter: Option<&HostAdapter>) -> usize {
        adapter.and_then(|adapter| adapter.top.whole_head()).unwrap_or(&self.model.head).out()
    }

    /// Rounds activations where a model in bf16 stores them.
    pub(super) fn round(&self, activations: &mut [f32]) {
        if self.rounded {
            round_to_bf16(activations);
        }
    }

    /// Norms rows of the residual stream.
    pub(super) fn norm(&self, norm: &HostNorm, x: &[f32], out: &mut [f32]) {
        norm.run(self.config.block.norm, x, self.config.hidden_size, self.config.norm_eps, out);
    }

    /// What is special about the scores of a layer.
    pub(super) fn scores(&self, layer: usize, sinks: &'a [f32]) -> Scores<'a> {
        Scores { sinks: (!sinks.is_empty()).then_some(sinks), ..self.config.scores(layer) }
    }
}
