//! The decoder of the Llama family: one configurable block, computed over pieces of many sequences at once.

mod cache;
mod experts;
mod forward;
mod linear;
mod rotary;

use std::sync::Arc;

pub(crate) use cache::KvBlock;
use experts::ExpertLayer;
pub(crate) use forward::Piece;
use linear::{Embedding, Linear, LoraLinear};
use rotary::Rotary;
pub use rotary::inverse_frequencies;

use crate::{Adapter, AdapterLayer, DecoderConfig, EngineError, LayerWeights, Projection, Weights};

/// The weights of a model, packed for the kernels; shared by all adapters over it.
#[derive(Debug)]
pub struct BaseModel {
    config: DecoderConfig,
    max_length: usize,
    embedding: Embedding,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    head: Linear,
    rotary: Rotary,
    storage: String,
    /// The weights on a GPU; all of the above but the configuration are empty then.
    #[cfg(feature = "cuda")]
    device: Option<crate::cuda::decoder::DeviceModel>,
}

#[derive(Debug)]
struct Layer {
    input_norm: Vec<f32>,
    qkv: Linear,
    q_norm: Option<Vec<f32>>,
    k_norm: Option<Vec<f32>>,
    o: Linear,
    post_attention_norm: Vec<f32>,
    feed_forward: FeedForward,
}

#[derive(Debug)]
enum FeedForward {
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

/// The additions of an adapter to one block.
#[derive(Debug, Default)]
struct LayerLora {
    qkv: Option<LoraLinear>,
    o: Option<LoraLinear>,
    gate_up: Option<LoraLinear>,
    down: Option<LoraLinear>,
}

impl BaseModel {
    /// Packs the weights. Inputs are at most `max_length` tokens long.
    pub fn new(config: DecoderConfig, weights: Weights, max_length: usize) -> Self {
        let storage = linear::storage_name(&weights);
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
                feed_forward: FeedForward::pack(w, &config),
            })
            .collect();
        let head = Linear::pack(&[weights.lm_head.as_ref().unwrap_or(&weights.embed)], &[None]);
        let rotary = Rotary::new(&config, max_length);
        let embedding = Embedding::new(weights.embed);
        Self {
            config,
            max_length,
            embedding,
            layers,
            norm: weights.norm,
            head,
            rotary,
            storage,
            #[cfg(feature = "cuda")]
            device: None,
        }
    }

    /// Uploads the weights to a GPU, where they and all activations are held in `float`. Inputs are at most `max_length`
    /// tokens long.
    ///
    /// # Errors
    /// If the GPU's memory is too small.
    #[cfg(feature = "cuda")]
    pub fn on_device(
        config: DecoderConfig,
        weights: &Weights,
        max_length: usize,
        device: crate::cuda::Device,
        float: crate::cuda::Float,
    ) -> Result<Self, EngineError> {
        use crate::HostTensor;
        let storage = linear::storage_name(weights);
        let model = crate::cuda::decoder::DeviceModel::new(device, float, &config, weights, max_length)?;
        let nothing = HostTensor::from_f32([1, 1], vec![0.0]);
        Ok(Self {
            max_length,
            embedding: Embedding::new(nothing.clone()),
            layers: vec![],
            norm: vec![],
            head: Linear::pack(&[&nothing], &[None]),
            rotary: Rotary::new(&config, 1),
            storage,
            device: Some(model),
            config,
        })
    }

    /// What the weights and activations are computed in: `f32`, or `bf16` on a GPU.
    pub fn compute(&self) -> &'static str {
        #[cfg(feature = "cuda")]
        if let Some(device) = &self.device {
            return device.float().name();
        }
        "f32"
    }

    /// Dimensions and constants.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Longest input in tokens.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The types the weights are kept in, e.g. `bf16`.
    pub fn storage(&self) -> &str {
        &self.storage
    }

    /// Bytes of packed weights.
    pub fn bytes(&self) -> usize {
        #[cfg(feature = "cuda")]
        if let Some(device) = &self.device {
            return device.bytes();
        }
        let layer = |l: &Layer| l.qkv.bytes() + l.o.bytes() + l.feed_forward.bytes();
        self.layers.iter().map(layer).sum::<usize>() + self.head.bytes()
    }
}

/// A base model with at most one adapter beside it.
#[derive(Debug, Clone)]
pub struct Decoder {
    base: Arc<BaseModel>,
    lora: Option<Arc<PackedAdapter>>,
    /// Activations are rounded to bf16 wherever a model in bf16 stores them; products stay in f32.
    rounded: bool,
}

#[derive(Debug)]
struct PackedAdapter {
    vocab_size: usize,
    layers: Vec<LayerLora>,
    head: Option<Linear>,
    embedding: Option<Embedding>,
    changes_nothing: bool,
    #[cfg(feature = "cuda")]
    device: Option<crate::cuda::decoder::DeviceAdapter>,
}

impl Decoder {
    /// The base model alone.
    pub fn new(base: Arc<BaseModel>) -> Self {
        Self { base, lora: None, rounded: false }
    }

    /// The base model with an adapter, which is applied beside the base's weights.
    ///
    /// # Errors
    /// If the adapter has another number of blocks, or replaces modules other than embedding and head.
    pub fn with_adapter(base: Arc<BaseModel>, adapter: &Adapter) -> Result<Self, EngineError> {
        let config = &base.config;
        if adapter.layers.len() != config.num_layers {
            return Err(EngineError::AdapterLayers { found: adapter.layers.len(), expected: config.num_layers });
        }
        #[cfg(feature = "cuda")]
        if let Some(device) = &base.device {
            return Self::with_adapter_on(base.clone(), device, adapter);
        }
        let (q, kv, hidden, inner) = (config.q_dim(), config.kv_dim(), config.hidden_size, config.intermediate_size);
        use Projection::{Down, Gate, K, O, Q, Up, V};
        let inside = |layer: &AdapterLayer| [Gate, Up, Down].into_iter().find(|part| layer.contains_key(part));
        if let (Some(_), Some(part)) = (config.experts, adapter.layers.iter().find_map(inside)) {
            return Err(EngineError::AdapterModule { module: format!("{} of experts", part.module()) });
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
        let (mut head, mut embedding) = (None, None);
        for (module, tensor) in &adapter.modules_to_save {
            match module.as_str() {
                "lm_head" => head = Some(Linear::pack(&[tensor], &[None])),
                "model.embed_tokens" => embedding = Some(Embedding::new(tensor.clone())),
                other => return Err(EngineError::AdapterModule { module: other.to_owned() }),
            }
        }
        let changes_nothing = linear::is_zero(&adapter.layers) && head.is_none() && embedding.is_none();
        let lora = Some(Arc::new(PackedAdapter {
            vocab_size: adapter.embedding_rows(config.vocab_size),
            layers,
            head,
            embedding,
            changes_nothing,
            #[cfg(feature = "cuda")]
            device: None,
        }));
        Ok(Self { base, lora, rounded: false })
    }

    #[cfg(feature = "cuda")]
    fn with_adapter_on(
        base: Arc<BaseModel>,
        device: &crate::cuda::decoder::DeviceModel,
        adapter: &Adapter,
    ) -> Result<Self, EngineError> {
        let (mut head, mut embedding) = (None, None);
        for (module, tensor) in &adapter.modules_to_save {
            match module.as_str() {
                "lm_head" => head = Some(tensor),
                "model.embed_tokens" => embedding = Some(tensor),
                other => return Err(EngineError::AdapterModule { module: other.to_owned() }),
            }
        }
        let changes_nothing = linear::is_zero(&adapter.layers) && head.is_none() && embedding.is_none();
        let device = crate::cuda::decoder::DeviceAdapter::new(device, &adapter.layers, embedding, head)?;
        let (layers, head, embedding) = (vec![], None, None);
        let vocab_size = adapter.embedding_rows(base.config.vocab_size);
        let lora = PackedAdapter { vocab_size, layers, head, embedding, changes_nothing, device: Some(device) };
        Ok(Self { base, lora: Some(Arc::new(lora)), rounded: false })
    }

    #[cfg(feature = "cuda")]
    fn device_adapter(&self) -> Option<&crate::cuda::decoder::DeviceAdapter> {
        self.lora.as_ref().and_then(|lora| lora.device.as_ref())
    }

    /// The same model over the same weights with activations in bf16, which shows what the type of computation changes.
    /// `None` on a GPU, whose type is that of its weights.
    pub fn with_bf16_activations(&self) -> Option<Self> {
        #[cfg(feature = "cuda")]
        if self.base.device.is_some() {
            return None;
        }
        Some(Self { rounded: true, ..self.clone() })
    }

    /// The shared weights.
    pub fn base(&self) -> &Arc<BaseModel> {
        &self.base
    }

    /// Rows of the output head: logits of a position. An adapter may bring a head of its own with more tokens.
    pub(crate) fn vocab_size(&self) -> usize {
        self.lora.as_ref().map_or(self.base.config.vocab_size, |lora| lora.vocab_size)
    }

    /// Whether there is an adapter, and it changes nothing: every low-rank product is zero.
    pub fn adapter_is_no_op(&self) -> bool {
        self.lora.as_ref().is_some_and(|lora| lora.changes_nothing)
    }

    /// Room for the keys and values of `capacity` positions.
    pub(crate) fn kv_block(&self, capacity: usize) -> KvBlock {
        #[cfg(feature = "cuda")]
        if let Some(device) = &self.base.device {
            return KvBlock::on_device(device.kv());
        }
        KvBlock::new(self.base.config.num_layers, self.base.config.kv_dim(), capacity)
    }

    /// Bytes of the keys and values of `positions` positions.
    pub(crate) fn kv_bytes(&self, positions: usize) -> usize {
        #[cfg(feature = "cuda")]
        if let Some(device) = &self.base.device {
            return device.kv_bytes(positions);
        }
        KvBlock::bytes(self.base.config.num_layers, self.base.config.kv_dim(), positions)
    }

    fn layer_lora(&self, layer: usize) -> Option<&LayerLora> {
        self.lora.as_ref().map(|lora| &lora.layers[layer])
    }

    fn embedding(&self) -> &Embedding {
        self.lora.as_ref().and_then(|lora| lora.embedding.as_ref()).unwrap_or(&self.base.embedding)
    }

    fn head(&self) -> &Linear {
        self.lora.as_ref().and_then(|lora| lora.head.as_ref()).unwrap_or(&self.base.head)
    }
}
