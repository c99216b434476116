//! The decoder on a GPU: weights, adapters, the cache of keys and values, and the forward pass over pieces of sequences.

mod cache;
mod forward;

use std::sync::{Arc, Mutex};

use cache::Cache;
pub(crate) use cache::DeviceKv;

use super::{Device, DeviceBuffer, Float, Nf4Scales, View};
use crate::{
    AdapterLayer, BlockScales, DecoderConfig, EngineError, HostData, HostTensor, LoraPair, NestedScales, Nf4Tensor,
    Projection, Weights, inverse_frequencies,
};

/// Elements converted at once when weights are narrowed.
const CHUNK: usize = 64 << 20;

/// A frozen matrix `[rows, cols]` on a GPU: floats of one type, or 4-bit codes that are widened for every use.
#[derive(Debug)]
pub struct DeviceMatrix {
    rows: usize,
    cols: usize,
    float: Float,
    stored: Stored,
    /// Names the matrix among those of its device.
    id: u64,
}

#[derive(Debug)]
enum Stored {
    Floats(DeviceBuffer),
    Codes(Vec<Codes>),
}

/// 4-bit codes of one of the stacked matrices.
#[derive(Debug)]
struct Codes {
    rows: usize,
    codes: DeviceBuffer,
    scales: Nf4Scales,
    block: usize,
}

impl Codes {
    fn new(device: &Device, tensor: &Nf4Tensor, rows: usize) -> Result<Self, EngineError> {
        let scales = match &tensor.scales {
            BlockScales::Plain(scales) => Nf4Scales::Plain(device.floats(scales)?),
            BlockScales::Nested(nested) => Nf4Scales::Nested {
                codes: device.bytes(&nested.codes)?,
                absmax: device.floats(&nested.absmax)?,
                map: device.floats(NestedScales::map())?,
                nested_block: NestedScales::BLOCK,
                offset: nested.offset,
            },
        };
        // The kernel reads eight bytes at once.
        let mut codes = tensor.codes.to_vec();
        codes.resize(codes.len().next_multiple_of(8), 0);
        Ok(Self { rows, codes: device.bytes(&codes)?, scales, block: tensor.block })
    }

    fn buffers(&self) -> Vec<&DeviceBuffer> {
        match &self.scales {
            Nf4Scales::Plain(scales) => vec![&self.codes, scales],
            Nf4Scales::Nested { codes, absmax, map, .. } => vec![&self.codes, codes, absmax, map],
        }
    }

    fn in_buffers(&self, f: &mut dyn FnMut(&DeviceBuffer) -> DeviceBuffer) -> Self {
        let own = f(&self.codes);
        let scales = match &self.scales {
            Nf4Scales::Plain(scales) => Nf4Scales::Plain(f(scales)),
            Nf4Scales::Nested { codes, absmax, map, nested_block, offset } => Nf4Scales::Nested {
                codes: f(codes),
                absmax: f(absmax),
                map: f(map),
                nested_block: *nested_block,
                offset: *offset,
            },
        };
        Self { codes: own, scales, ..*self }
    }
}

impl DeviceMatrix {
    /// Uploads matrices stacked by rows; floats are converted to `float`, 4-bit codes stay as they are.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(device: &Device, float: Float, parts: &[&HostTensor]) -> Result<Self, EngineError> {
        let rows = parts.iter().map(|part| part.rows()).sum();
        let cols = parts.first().map_or(0, |part| part.cols());
        let codes: Option<Vec<&Nf4Tensor>> = parts
            .iter()
            .map(|part| match &part.data {
                HostData::Nf4(tensor) if tensor.block.is_power_of_two() && tensor.block >= 16 => Some(tensor),
                _ => None,
            })
            .collect();
        if let Some(tensors) = codes.filter(|tensors| !tensors.is_empty()) {
            let stored = tensors.iter().zip(parts).map(|(tensor, part)| Codes::new(device, tensor, part.rows()));
            return Ok(Self {
                rows,
                cols,
                float,
                stored: Stored::Codes(stored.collect::<Result<_, _>>()?),
                id: device.next_id(),
            });
        }
        let data = device.alloc(rows * cols, float)?;
        let mut at = 0;
        for part in parts {
            let len = part.rows() * part.cols();
            upload(device, &part.data, data.view(at, 1, len, len.max(1)))?;
            at += len;
        }
        Ok(Self { rows, cols, float, stored: Stored::Floats(data), id: device.next_id() })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes held on the GPU.
    pub fn bytes(&self) -> usize {
        match &self.stored {
            Stored::Floats(data) => data.len() * self.float.bytes(),
            Stored::Codes(parts) => parts.iter().map(|part| part.codes.len() + part.scales.bytes()).sum(),
        }
    }

    /// The buffers it consists of.
    pub fn buffers(&self) -> Vec<&DeviceBuffer> {
        match &self.stored {
            Stored::Floats(data) => vec![data],
            Stored::Codes(parts) => parts.iter().flat_map(Codes::buffers).collect(),
        }
    }

    /// The same matrix in other buffers, which `f` gives for those of [`DeviceMatrix::buffers`] in order. They must hold
    /// the same elements whenever either is used: what was widened last is taken for both.
    pub fn in_buffers(&self, f: &mut dyn FnMut(&DeviceBuffer) -> DeviceBuffer) -> Self {
        let stored = match &self.stored {
            Stored::Floats(data) => Stored::Floats(f(data)),
            Stored::Codes(parts) => Stored::Codes(parts.iter().map(|part| part.in_buffers(f)).collect()),
        };
        Self { stored, ..*self }
    }

    /// Gives the elements; 4-bit codes are widened into scratch memory first, unless they are among those widened last.
    ///
    /// # Errors
    /// Those of `f`, or if there is no memory for the scratch.
    pub fn with(
        &self,
        device: &Device,
        f: impl FnOnce(View<'_>) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        match &self.stored {
            Stored::Floats(data) => f(data.view(0, self.rows, self.cols, self.cols)),
            Stored::Codes(parts) => {
                let fill = |scratch: View<'_>| {
                    let mut row = 0;
                    parts.iter().try_for_each(|part| {
                        let to = scratch.rows(row, part.rows);
                        row += part.rows;
                        device.nf4_dequantize(&part.codes, &part.scales, part.block, to)
                    })
                };
                device.widened(self.id, self.float, (self.rows, self.cols), fill, f)
            }
        }
    }
}

fn upload(device: &Device, data: &HostData, to: View<'_>) -> Result<(), EngineError> {
    match data {
        HostData::Bf16(data) if to.float() == Float::Bf16 => device.write_halves(data, to),
        HostData::F16(data) if to.float() == Float::F16 => device.write_halves(data, to),
        HostData::F32(data) if to.float() == Float::F32 => device.write(data, to),
        _ => {
            let len = data.len();
            for from in (0..len).step_by(CHUNK) {
                let end = len.min(from + CHUNK);
                let wide: Vec<f32> = match data {
                    HostData::F32(data) => data[from..end].to_vec(),
                    HostData::Bf16(data) => data[from..end].iter().map(|x| x.to_f32()).collect(),
                    HostData::F16(data) => data[from..end].iter().map(|x| x.to_f32()).collect(),
                    HostData::Nf4(data) => (from..end).map(|i| data.at(i)).collect(),
                };
                device.write(&wide, to.columns(from, end - from))?;
            }
            Ok(())
        }
    }
}

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
    ) -> Result<Self, EngineError> {
        if config.head_dim > 128 {
            return Err(device.fail(format!(
                "heads of width {} are not supported on a GPU; expected at most 128: use --device cpu",
                config.head_dim
            )));
        }
        if config.experts.is_some() {
            return Err(device.fail("mixtures of experts are not supported on a GPU: use --device cpu".to_owned()));
        }
        let linear = |parts: &[&HostTensor], biases: &[Option<&Vec<f32>>]| -> Result<DeviceLinear, EngineError> {
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
        let layers = layers.collect::<Result<Vec<_>, EngineError>>()?;
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
    ) -> Result<Option<Self>, EngineError> {
        let (mut a, mut parts, mut first_column, mut first_rank) = (vec![], vec![], 0, 0);
        for &(projection, out) in stacked {
            if let Some(LoraPair { a: pair_a, b, rank, scale }) = layer.get(&projection) {
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
    ) -> Result<Self, EngineError> {
        let c = &model.config;
        let (q, kv, hidden, inner) = (c.q_dim(), c.kv_dim(), c.hidden_size, c.intermediate_size);
        use Projection::{Down, Gate, K, O, Q, Up, V};
        let layers = layers.iter().map(|layer| {
            Ok(DeviceLayerLora {
                qkv: DeviceLora::new(model, layer, &[(Q, q), (K, kv), (V, kv)], hidden)?,
                o: DeviceLora::new(model, layer, &[(O, hidden)], q)?,
                gate_up: DeviceLora::new(model, layer, &[(Gate, inner), (Up, inner)], hidden)?,
                down: DeviceLora::new(model, layer, &[(Down, hidden)], inner)?,
            })
        });
        let layers = layers.collect::<Result<_, EngineError>>()?;
        let matrix = |tensor: Option<&HostTensor>| {
            tensor.map(|tensor| DeviceMatrix::new(&model.device, model.float, &[tensor])).transpose()
        };
        Ok(Self { layers, embed: matrix(embed)?, head: matrix(head)? })
    }
}
