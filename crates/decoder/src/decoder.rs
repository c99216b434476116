//! The decoder of the Llama family: one configurable block, computed over pieces of many sequences at once.

mod cache;
mod convolution;
mod experts;
mod feed_forward;
mod forward;
mod host;
mod latent;
mod linear;
mod pass;
mod piece;
mod places;
mod rotary;
mod together;
mod top;

use std::sync::Arc;

pub use cache::KvBlock;
use cache::{Held, HostKv, Widths};
use host::{Host, HostAdapter, HostModel};
pub use piece::Piece;
#[cfg(feature = "cuda")]
pub(crate) use piece::consecutive;
use rotary::Rotary;
pub use rotary::{inverse_frequencies, rotary_table};
pub use together::Together;

#[cfg(feature = "cuda")]
use crate::device::{DeviceAdapter, DeviceModel, States};
use crate::{Adapter, DecoderConfig, DecoderError, Weights};

/// The weights of a model, packed for the kernels; shared by all adapters over it.
#[derive(Debug)]
pub struct BaseModel {
    config: DecoderConfig,
    max_length: usize,
    storage: String,
    weights: Placed,
}

/// Weights where they are computed with.
#[derive(Debug)]
enum Placed {
    Host(Box<HostModel>),
    #[cfg(feature = "cuda")]
    Device(Box<DeviceModel>),
}

impl BaseModel {
    /// Packs the weights. Inputs are at most `max_length` tokens long.
    pub fn new(config: DecoderConfig, weights: Weights, max_length: usize) -> Self {
        let storage = linear::storage_name(&weights);
        let weights = Placed::Host(Box::new(HostModel::new(&config, weights, max_length)));
        Self { config, max_length, storage, weights }
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
        device: harness_kernels::cuda::Device,
        float: harness_kernels::cuda::Float,
    ) -> Result<Self, DecoderError> {
        let storage = linear::storage_name(weights);
        let weights = Placed::Device(Box::new(DeviceModel::new(device, float, &config, weights, max_length)?));
        Ok(Self { config, max_length, storage, weights })
    }

    /// What the weights and activations are computed in: `f32`, or `bf16` on a GPU.
    pub fn compute(&self) -> &'static str {
        match &self.weights {
            Placed::Host(_) => "f32",
            #[cfg(feature = "cuda")]
            Placed::Device(model) => model.float().name(),
        }
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
        match &self.weights {
            Placed::Host(model) => model.bytes(),
            #[cfg(feature = "cuda")]
            Placed::Device(model) => model.bytes(),
        }
    }
}

/// A base model with at most one adapter beside it.
#[derive(Debug, Clone)]
pub struct Decoder {
    base: Arc<BaseModel>,
    adapter: Option<Arc<PlacedAdapter>>,
    /// Activations are rounded to bf16 wherever a model in bf16 stores them; products stay in f32.
    rounded: bool,
}

/// An adapter where its base is.
#[derive(Debug)]
struct PlacedAdapter {
    vocab_size: usize,
    changes_nothing: bool,
    weights: AdapterWeights,
}

#[derive(Debug)]
enum AdapterWeights {
    Host(HostAdapter),
    #[cfg(feature = "cuda")]
    Device(Box<DeviceAdapter>),
}

/// Base and adapter of a decoder, which are always in the same place.
enum Parts<'a> {
    Host(Host<'a>, Option<&'a HostAdapter>),
    #[cfg(feature = "cuda")]
    Device(&'a DeviceModel, Option<&'a DeviceAdapter>),
}

impl Decoder {
    /// The base model alone.
    pub fn new(base: Arc<BaseModel>) -> Self {
        Self { base, adapter: None, rounded: false }
    }

    /// The base model with an adapter, which is applied beside the base's weights.
    ///
    /// # Errors
    /// If the adapter has another number of blocks, or replaces modules other than embedding and head.
    pub fn with_adapter(base: Arc<BaseModel>, adapter: &Adapter) -> Result<Self, DecoderError> {
        let config = &base.config;
        if adapter.layers.len() != config.num_layers {
            return Err(DecoderError::AdapterLayers { found: adapter.layers.len(), expected: config.num_layers });
        }
        let weights = match &base.weights {
            Placed::Host(model) => AdapterWeights::Host(HostAdapter::new(config, model, adapter)?),
            #[cfg(feature = "cuda")]
            Placed::Device(model) => AdapterWeights::Device(Box::new(DeviceAdapter::new(model, adapter)?)),
        };
        let vocab_size = adapter.embedding_rows(config.vocab_size);
        let whole = adapter.modules_to_save.is_empty() && adapter.top.is_empty();
        let changes_nothing = whole && linear::is_zero(&adapter.layers, &adapter.experts);
        let adapter = Some(Arc::new(PlacedAdapter { vocab_size, changes_nothing, weights }));
        Ok(Self { base, adapter, rounded: false })
    }

    fn parts(&self) -> Parts<'_> {
        match &self.base.weights {
            Placed::Host(model) => {
                let adapter = self.adapter.as_deref().and_then(PlacedAdapter::host);
                Parts::Host(Host { config: &self.base.config, model, rounded: self.rounded }, adapter)
            }
            #[cfg(feature = "cuda")]
            Placed::Device(model) => Parts::Device(model, self.adapter.as_deref().and_then(PlacedAdapter::device)),
        }
    }

    /// The same model over the same weights with activations in bf16, which shows what the type of computation changes.
    /// `None` on a GPU, whose type is that of its weights.
    pub fn with_bf16_activations(&self) -> Option<Self> {
        match self.parts() {
            Parts::Host(..) => Some(Self { rounded: true, ..self.clone() }),
            #[cfg(feature = "cuda")]
            Parts::Device(..) => None,
        }
    }

    /// The shared weights.
    pub fn base(&self) -> &Arc<BaseModel> {
        &self.base
    }

    /// Rows of the output head: logits of a position. An adapter may bring a head of its own with more tokens.
    pub fn vocab_size(&self) -> usize {
        self.adapter.as_ref().map_or(self.base.config.vocab_size, |adapter| adapter.vocab_size)
    }

    /// Whether there is an adapter, and it changes nothing: every low-rank product is zero.
    pub fn adapter_is_no_op(&self) -> bool {
        self.adapter.as_ref().is_some_and(|adapter| adapter.changes_nothing)
    }

    /// Longest input in tokens for which positions are those of any shorter one: the rotary embedding of some models is
    /// another one beyond.
    pub fn longest_short(&self) -> usize {
        match &self.base.config.rope.scaling {
            crate::RopeScaling::LongRope { original_max, .. } => *original_max,
            _ => usize::MAX,
        }
    }

    /// Room for the keys and values of `capacity` positions.
    pub fn kv_block(&self, capacity: usize) -> KvBlock {
        match self.parts() {
            Parts::Host(host, _) => KvBlock(Held::Host(HostKv::new(&Widths::of(host.config), capacity))),
            #[cfg(feature = "cuda")]
            Parts::Device(model, _) => KvBlock(Held::Device(model.kv(capacity))),
        }
    }

    /// Bytes of the keys and values of `positions` positions.
    pub fn kv_bytes(&self, positions: usize) -> usize {
        match self.parts() {
            Parts::Host(host, _) => HostKv::bytes(&Widths::of(host.config), positions),
            #[cfg(feature = "cuda")]
            Parts::Device(model, _) => model.kv_bytes(positions),
        }
    }

    /// Bytes that all keys and values may take now, as far as the device tells: on a GPU most of what is free besides what
    /// they have, so that activations find room.
    ///
    /// # Errors
    /// If a GPU fails.
    pub fn kv_room(&self) -> Result<usize, DecoderError> {
        match self.parts() {
            Parts::Host(..) => Ok(usize::MAX),
            #[cfg(feature = "cuda")]
            Parts::Device(model, _) => Ok(model.kv_room()?),
        }
    }

    /// Computes the pieces and returns the last hidden states (before the final norm) of all wanted rows, in order of
    /// pieces and rows. Tails receive the new keys and values.
    ///
    /// # Errors
    /// If a token lies outside of the vocabulary, or a GPU fails.
    pub fn forward(&self, pieces: &mut [Piece<'_>]) -> Result<Vec<f32>, DecoderError> {
        match self.parts() {
            Parts::Host(host, adapter) => host.forward(pieces, &vec![(0..pieces.len(), adapter)]),
            #[cfg(feature = "cuda")]
            Parts::Device(model, adapter) => model.forward(adapter, pieces),
        }
    }

    /// As [`Decoder::forward`], with the most probable token after every wanted row and its log-probability instead of the
    /// states; `None`, and nothing is computed, where that saves nothing: on the processor.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables, reason = "the processor computes all logits"))]
    pub fn forward_greedy(&self, pieces: &mut [Piece<'_>]) -> Result<Option<Vec<(u32, f32)>>, DecoderError> {
        match self.parts() {
            Parts::Host(..) => Ok(None),
            #[cfg(feature = "cuda")]
            Parts::Device(model, adapter) => Ok(Some(model.forward_greedy(adapter, pieces)?)),
        }
    }

    /// Whether [`Together::go_on`] can do anything: not on the processor.
    pub fn goes_on(&self) -> bool {
        match self.parts() {
            Parts::Host(..) => false,
            #[cfg(feature = "cuda")]
            Parts::Device(..) => true,
        }
    }

    /// Logits `[rows, vocab]` of last hidden states.
    ///
    /// # Errors
    /// If a GPU fails.
    pub fn logits(&self, hidden: &[f32]) -> Result<Vec<f32>, DecoderError> {
        match self.parts() {
            Parts::Host(host, adapter) => {
                let rows = hidden.len() / host.config.hidden_size;
                Ok(host.logits(hidden, &vec![(0..rows, adapter)]))
            }
            #[cfg(feature = "cuda")]
            Parts::Device(model, adapter) => Ok(model.logits(adapter, hidden)?),
        }
    }

    /// Log-probability of every target (row of `hidden`, token), rows ascending, and whether it is the most probable
    /// token of its row.
    ///
    /// # Errors
    /// If a GPU fails.
    pub fn score(&self, hidden: &[f32], targets: &[(usize, u32)]) -> Result<Vec<(f32, bool)>, DecoderError> {
        match self.parts() {
            Parts::Host(host, adapter) => Ok(host.score(adapter, hidden, targets)),
            #[cfg(feature = "cuda")]
            Parts::Device(model, adapter) => Ok(model.score(adapter, hidden, targets)?),
        }
    }

    /// The most probable token of every row and its log-probability, where they can be had without all logits.
    ///
    /// # Errors
    /// If a GPU fails.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables, reason = "the processor computes all logits"))]
    pub fn greedy(&self, hidden: &[f32]) -> Result<Option<Vec<(u32, f32)>>, DecoderError> {
        match self.parts() {
            Parts::Host(..) => Ok(None),
            #[cfg(feature = "cuda")]
            Parts::Device(model, adapter) => Ok(Some(model.greedy(adapter, States::Host(hidden))?)),
        }
    }
}

impl PlacedAdapter {
    fn host(&self) -> Option<&HostAdapter> {
        match &self.weights {
            AdapterWeights::Host(adapter) => Some(adapter),
            #[cfg(feature = "cuda")]
            AdapterWeights::Device(_) => None,
        }
    }

    #[cfg(feature = "cuda")]
    fn device(&self) -> Option<&DeviceAdapter> {
        match &self.weights {
            AdapterWeights::Host(_) => None,
            AdapterWeights::Device(adapter) => Some(adapter),
        }
    }
}
