//! The decoder on a GPU: weights, adapters, the cache of keys and values, and the forward pass over pieces of sequences.

mod adapter;
mod cache;
mod decode;
mod experts;
mod feed_forward;
mod forward;
mod frames;
mod head;
mod linear;
mod mixer;
mod rotary;
mod steps;

use std::sync::{Arc, Mutex};

pub(crate) use adapter::DeviceAdapter;
use cache::Cache;
pub(crate) use cache::DeviceKv;
use experts::DeviceExperts;
use feed_forward::DeviceGated;
use frames::Frames;
pub(crate) use head::States;
use linear::{DeviceLinear, DeviceNorm, Stacked};
use mixer::{DeviceAttention, DeviceMixer};
use rotary::DeviceRotary;

use harness_kernels::{
    KernelError,
    cpu::attention::Scores,
    cuda::{Device, DeviceBuffer, DeviceMatrix, DeviceScores, Float},
};

use crate::{
    DecoderConfig, LayerWeights, Positions,
    Projection::{Down, Gate, Up},
    Weights,
    weights::activation_of,
};

/// The weights of one block.
#[derive(Debug)]
struct DeviceLayer {
    input_norm: DeviceNorm,
    mixer: DeviceMixer,
    attention_out_norm: Option<DeviceNorm>,
    post_attention_norm: DeviceNorm,
    feed_forward: DeviceFeedForward,
    feed_forward_out_norm: Option<DeviceNorm>,
}

impl DeviceLayer {
    fn linears(&self) -> impl Iterator<Item = Stacked<'_>> {
        self.mixer.linears().into_iter().chain(self.feed_forward.linears())
    }
}

#[derive(Debug)]
enum DeviceFeedForward {
    Dense(Box<DeviceGated>),
    Experts(Box<DeviceExperts>),
}

impl DeviceFeedForward {
    fn new(
        device: &Device,
        float: Float,
        w: &LayerWeights,
        config: &DecoderConfig,
        layer: usize,
    ) -> Result<Self, KernelError> {
        let more = &w.more;
        if let (Some(weights), Some(experts)) = (&w.experts, &config.experts) {
            let experts = DeviceExperts::new(device, float, weights, experts, config, layer)?;
            return Ok(Self::Experts(Box::new(experts)));
        }
        let biases = [more.gate_bias.as_ref(), more.up_bias.as_ref(), more.down_bias.as_ref()];
        let (gated, activation) = (config.block.gated, activation_of(config.block.activation, &more.xielu));
        let block = DeviceGated::new(device, float, [&w.gate, &w.up, &w.down], biases, gated, activation)?;
        Ok(Self::Dense(Box::new(block)))
    }

    /// The linears that every row passes, as far as adapters can change them.
    fn linears(&self) -> Vec<Stacked<'_>> {
        match self {
            Self::Dense(block) => block.linears([Gate, Up, Down]).into(),
            Self::Experts(experts) => experts.linears(),
        }
    }

    /// Likewise those that are computed in f32.
    fn exact_linears(&self) -> Vec<Stacked<'_>> {
        match self {
            Self::Dense(_) => vec![],
            Self::Experts(experts) => experts.exact_linears(),
        }
    }

    /// The experts of a mixture.
    fn experts(&self) -> &[DeviceGated] {
        match self {
            Self::Dense(_) => &[],
            Self::Experts(experts) => &experts.experts,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Dense(block) => block.bytes(),
            Self::Experts(experts) => experts.bytes(),
        }
    }
}

/// The weights of a model on a GPU; shared by all adapters over it.
#[derive(Debug)]
pub(crate) struct DeviceModel {
    device: Device,
    float: Float,
    config: DecoderConfig,
    max_length: usize,
    embed: DeviceMatrix,
    /// From the embedding's width to the hidden size, and back.
    projections: Option<(DeviceLinear, DeviceLinear)>,
    positions: Option<DeviceMatrix>,
    embedding_norm: DeviceNorm,
    layers: Vec<DeviceLayer>,
    norm: DeviceNorm,
    head: Option<DeviceMatrix>,
    head_bias: Option<DeviceBuffer>,
    rotary: DeviceRotary,
    local: Option<DeviceRotary>,
    /// Of ALiBi.
    slopes: Option<DeviceBuffer>,
    cache: Arc<Mutex<Cache>>,
    frames: Mutex<Frames>,
}

impl DeviceModel {
    /// Uploads the weights. Inputs are at most `max_length` tokens long.
    ///
    /// # Errors
    /// If there is not enough memory, or heads are wider than 256.
    pub(crate) fn new(
        device: Device,
        float: Float,
        config: &DecoderConfig,
        weights: &Weights,
        max_length: usize,
    ) -> Result<Self, KernelError> {
        if config.head_dim > 256 {
            return Err(device.fail(format!(
                "heads of width {} are not supported on a GPU; expected at most 256: use --device cpu",
                config.head_dim
            )));
        }
        let layers = weights.layers.iter().enumerate().map(|(number, w)| {
            Ok(DeviceLayer {
                input_norm: DeviceNorm::new(&device, &w.input_norm, &w.more.input_norm_bias)?,
                mixer: DeviceMixer::new(&device, float, w, config)?,
                attention_out_norm: DeviceNorm::of(&device, &w.more.attention_out_norm)?,
                post_attention_norm: DeviceNorm::new(
                    &device,
                    &w.post_attention_norm,
                    &w.more.post_attention_norm_bias,
                )?,
                feed_forward: DeviceFeedForward::new(&device, float, w, config, number)?,
                feed_forward_out_norm: DeviceNorm::of(&device, &w.more.feed_forward_out_norm)?,
            })
        });
        let layers = layers.collect::<Result<Vec<_>, KernelError>>()?;
        let more = &weights.more;
        let matrix = |tensor| DeviceMatrix::new(&device, float, &[tensor]);
        let linear = |tensor| DeviceLinear::new(&device, float, &[tensor], &[None]);
        let projections =
            more.projections.as_ref().map(|(to, back)| Ok::<_, KernelError>((linear(to)?, linear(back)?)));
        let slopes = match &config.block.positions {
            Positions::Alibi { slopes, .. } => Some(device.floats(slopes)?),
            _ => None,
        };
        let rotary = |rope| DeviceRotary::new(&device, config, rope, max_length);
        Ok(Self {
            max_length,
            embed: matrix(&weights.embed)?,
            projections: projections.transpose()?,
            positions: more.positions.as_ref().map(matrix).transpose()?,
            embedding_norm: DeviceNorm::new(&device, &more.embedding_norm.0, &more.embedding_norm.1)?,
            head: weights.lm_head.as_ref().map(matrix).transpose()?,
            head_bias: more.head_bias.as_ref().map(|bias| device.floats(bias)).transpose()?,
            norm: DeviceNorm::new(&device, &weights.norm, &more.norm_bias)?,
            rotary: rotary(&config.rope)?,
            local: config.block.local_rope.as_ref().map(rotary).transpose()?,
            slopes,
            cache: Arc::new(Mutex::new(Cache::new(cache::widths(config), float))),
            frames: Mutex::default(),
            config: config.clone(),
            layers,
            device,
            float,
        })
    }

    /// What scores have in a layer.
    fn scores<'a>(&'a self, layer: usize, attention: &'a DeviceAttention) -> DeviceScores<'a> {
        let Scores { scale, cap, rounded, chunk, .. } = self.config.scores(layer);
        let (slopes, sinks) = (self.slopes.as_ref(), attention.sinks.as_ref());
        DeviceScores { scale, cap, slopes, rounded, sinks, chunk }
    }

    /// Type of weights and activations.
    pub(crate) fn float(&self) -> Float {
        self.float
    }

    /// Bytes of the blocks' weights and of the head.
    pub(crate) fn bytes(&self) -> usize {
        let layer = |l: &DeviceLayer| l.mixer.bytes() + l.feed_forward.bytes();
        self.layers.iter().map(layer).sum::<usize>() + self.head.as_ref().unwrap_or(&self.embed).bytes()
    }

    /// An empty run of positions, of which so many are expected.
    pub(crate) fn kv(&self, capacity: usize) -> DeviceKv {
        DeviceKv::new(Arc::clone(&self.cache), capacity)
    }

    /// Bytes of the keys and values of `positions` positions.
    pub(crate) fn kv_bytes(&self, positions: usize) -> usize {
        cache::widths(&self.config).iter().flatten().sum::<usize>() * positions * self.float.bytes()
    }

    /// Seven tenths of what is free and of what keys and values have.
    pub(crate) fn kv_room(&self) -> Result<usize, KernelError> {
        let free = self.device.room()?;
        let held = self.kv_bytes(cache::lock(&self.cache).capacity());
        Ok((free + held) / 10 * 7)
    }
}
