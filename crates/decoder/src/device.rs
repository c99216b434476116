//! The decoder on a GPU: weights, adapters, the cache of keys and values, and the forward pass over pieces of sequences.

mod cache;
mod forward;

use std::sync::{Arc, Mutex};

use cache::Cache;
pub(crate) use cache::DeviceKv;

use harness_kernels::{
    HostTensor, KernelError,
    cuda::{Device, DeviceBuffer, DeviceMatrix, Float},
};

use crate::{AdapterLayer, DecoderConfig, LoraPair, Projection, Weights, inverse_frequencies};

/// `y = x · Wᵀ + bias`.
#[derive(Debug)]
struct DeviceLinear {
    weight: DeviceMatrix,
    bias: Option<DeviceBuffer>,
}

/// The weights of one block.
#[derive(Debug)]
struct DeviceLayer {
    input_norm: DeviceBuffer,
    qkv: DeviceLinear,
    q_norm: Option<DeviceBuffer>,
    k_norm: Option<DeviceBuffer>,
    o: DeviceLinear,
    post_attention_norm: DeviceBuffer,
    gate_up: DeviceLinear,
    down: DeviceLinear,
}

/// The weights of a model on a GPU; shared by all adapters over it.
#[derive(Debug)]
pub(crate) struct DeviceModel {
    device: Device,
    float: Float,
    config: DecoderConfig,
    embed: DeviceMatrix,
    layers: Vec<DeviceLayer>,
    norm: DeviceBuffer,
    head: Option<DeviceMatrix>,
    rope: DeviceBuffer,
    cache: Arc<Mutex<Cache>>,
}

impl DeviceModel {
    /// Uploads the weights. Inputs are at most `max_length` tokens long.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub(crate) fn new(
        device: Device,
        float: Float,
        config: &DecoderConfig,
        weights: &Weights,
        max_length: usize,
    ) -> Result<Self, KernelError> {
        if config.head_dim > 128 {
            return Err(device.fail(format!(
                "heads of width {} are not supported on a GPU; expected at most 128: use --device cpu",
                config.head_dim
            )));
        }
        if let Some(feature) = config.beyond_llama() {
            return Err(device.fail(format!("{feature}: not supported on a GPU yet; use --device cpu")));
        }
        let linear = |parts: &[&HostTensor], biases: &[Option<&Vec<f32>>]| -> Result<DeviceLinear, KernelError> {
            let bias: Option<Vec<f32>> = biases.iter().any(Option::is_some).then(|| {
                let filled = parts.iter().zip(biases);
                filled.flat_map(|(w, b)| b.map_or_else(|| vec![0.0; w.rows()], |b| b.to_vec())).collect()
            });
            let bias = bias.map(|bias| device.floats(&bias)).transpose()?;
            Ok(DeviceLinear { weight: DeviceMatrix::new(&device, float, parts)?, bias })
        };
        let vector = |data: &Option<Vec<f32>>| data.as_ref().map(|data| device.floats(data)).transpose();
        let layers = weights.layers.iter().map(|w| {
            Ok(DeviceLayer {
                input_norm: device.floats(&w.input_norm)?,
                qkv: linear(&[&w.q, &w.k, &w.v], &[w.q_bias.as_ref(), w.k_bias.as_ref(), w.v_bias.as_ref()])?,
                q_norm: vector(&w.q_norm)?,
                k_norm: vector(&w.k_norm)?,
                o: linear(&[&w.o], &[w.o_bias.as_ref()])?,
                post_attention_norm: device.floats(&w.post_attention_norm)?,
                gate_up: linear(&[&w.gate, &w.up], &[None, None])?,
                down: linear(&[&w.down], &[None])?,
            })
        });
        let layers = layers.collect::<Result<Vec<_>, KernelError>>()?;
        let frequencies = inverse_frequencies(config, max_length);
        let mut table = Vec::with_capacity(max_length * config.head_dim);
        for position in 0..max_length {
            table.extend(frequencies.iter().map(|f| (position as f32 * f).cos()));
            table.extend(frequencies.iter().map(|f| (position as f32 * f).sin()));
        }
        Ok(Self {
            embed: DeviceMatrix::new(&device, float, &[&weights.embed])?,
            head: weights.lm_head.as_ref().map(|head| DeviceMatrix::new(&device, float, &[head])).transpose()?,
            norm: device.floats(&weights.norm)?,
            rope: device.floats(&table)?,
            cache: Arc::new(Mutex::new(Cache::new(config.num_layers, config.kv_dim(), float))),
            config: config.clone(),
            layers,
            device,
            float,
        })
    }

    /// Type of weights and activations.
    pub(crate) fn float(&self) -> Float {
        self.float
    }

    /// Bytes of the blocks' weights and of the head.
    pub(crate) fn bytes(&self) -> usize {
        let layer = |l: &DeviceLayer| {
            [&l.qkv, &l.o, &l.gate_up, &l.down].map(|linear| linear.weight.bytes()).iter().sum::<usize>()
        };
        self.layers.iter().map(layer).sum::<usize>() + self.head.as_ref().unwrap_or(&self.embed).bytes()
    }

    /// An empty run of positions.
    pub(crate) fn kv(&self) -> DeviceKv {
        DeviceKv::new(Arc::clone(&self.cache))
    }

    /// Bytes of the keys and values of `positions` positions.
    pub(crate) fn kv_bytes(&self, positions: usize) -> usize {
        self.config.num_layers * self.config.kv_dim() * positions * 2 * self.float.bytes()
    }
}

/// Low-rank additions to a linear: `y[:, columns] += scale · (x · Aᵀ) · Bᵀ` for each part.
#[derive(Debug)]
struct DeviceLora {
    a: DeviceMatrix,
    parts: Vec<DeviceLoraPart>,
}

#[derive(Debug)]
struct DeviceLoraPart {
    first_rank: usize,
    first_column: usize,
    b: DeviceMatrix,
    scale: f32,
}

impl DeviceLora {
    fn new(
        model: &DeviceModel,
        layer: &AdapterLayer,
        stacked: &[(Projection, usize)],
        inp: usize,
    ) -> Result<Option<Self>, KernelError> {
        let (mut a, mut parts, mut first_column, mut first_rank) = (vec![], vec![], 0, 0);
        for &(projection, out) in stacked {
            if let Some(LoraPair { a: pair_a, b, rank, scale, .. }) = layer.get(&projection) {
                a.extend_from_slice(pair_a);
                let b = HostTensor::from_f32([out, *rank], b.clone());
                let b = DeviceMatrix::new(&model.device, model.float, &[&b])?;
                parts.push(DeviceLoraPart { first_rank, first_column, b, scale: *scale });
                first_rank += rank;
            }
            first_column += out;
        }
        if parts.is_empty() {
            return Ok(None);
        }
        let a = HostTensor::from_f32([first_rank, inp], a);
        Ok(Some(Self { a: DeviceMatrix::new(&model.device, model.float, &[&a])?, parts }))
    }
}

/// The additions to one block.
#[derive(Debug)]
struct DeviceLayerLora {
    qkv: Option<DeviceLora>,
    o: Option<DeviceLora>,
    gate_up: Option<DeviceLora>,
    down: Option<DeviceLora>,
}

/// An adapter on a GPU.
#[derive(Debug)]
pub(crate) struct DeviceAdapter {
    layers: Vec<DeviceLayerLora>,
    embed: Option<DeviceMatrix>,
    head: Option<DeviceMatrix>,
}

impl DeviceAdapter {
    /// Uploads the pairs of all blocks, and what replaces embedding and head.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub(crate) fn new(
        model: &DeviceModel,
        layers: &[AdapterLayer],
        embed: Option<&HostTensor>,
        head: Option<&HostTensor>,
    ) -> Result<Self, KernelError> {
        let c = &model.config;
        let (q, kv, hidden, inner) = (c.q_dim(), c.kv_dim(), c.hidden_size, c.intermediate_size);
        use Projection::{Down, Gate, K, O, Q, Up, V};
        if !layers.iter().flat_map(AdapterLayer::values).all(LoraPair::is_plain) {
            return Err(model
                .device
                .fail("DoRA and biases of LoRA: not supported on a GPU yet; use --device cpu".to_owned()));
        }
        let unknown = |projection: &&Projection| !Projection::ALL.contains(projection);
        if let Some(other) = layers.iter().flat_map(AdapterLayer::keys).find(unknown) {
            return Err(model.device.fail(format!("LoRA on {other}: not supported on a GPU yet; use --device cpu")));
        }
        let layers = layers.iter().map(|layer| {
            Ok(DeviceLayerLora {
                qkv: DeviceLora::new(model, layer, &[(Q, q), (K, kv), (V, kv)], hidden)?,
                o: DeviceLora::new(model, layer, &[(O, hidden)], q)?,
                gate_up: DeviceLora::new(model, layer, &[(Gate, inner), (Up, inner)], hidden)?,
                down: DeviceLora::new(model, layer, &[(Down, hidden)], inner)?,
            })
        });
        let layers = layers.collect::<Result<_, KernelError>>()?;
        let matrix = |tensor: Option<&HostTensor>| {
            tensor.map(|tensor| DeviceMatrix::new(&model.device, model.float, &[tensor])).transpose()
        };
        Ok(Self { layers, embed: matrix(embed)?, head: matrix(head)? })
    }
}
