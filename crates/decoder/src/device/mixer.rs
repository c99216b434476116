//! What lets positions see each other, on a GPU: attention, latent attention, short convolutions.

use harness_kernels::{
    KernelError,
    cuda::{Device, DeviceBuffer, Float, HeadNorm, LatentParts, View},
};

use super::{
    adapter::BlockLora,
    linear::{DeviceLinear, DeviceNorm, Done, Stacked},
};
use crate::{
    DecoderConfig, Latent, LatentWeights, LayerWeights, NormWeight,
    Projection::{ConvIn, ConvOut, K, KvDown, KvUp, O, Q, QDown, QUp, V},
};

/// The mixer of one block.
#[derive(Debug)]
pub(super) enum DeviceMixer {
    Attention(Box<DeviceAttention>),
    Convolution(Box<DeviceConvolution>),
}

/// An attention.
#[derive(Debug)]
pub(super) struct DeviceAttention {
    pub(super) projections: DeviceProjections,
    pub(super) q_norm: Option<DeviceNorm>,
    pub(super) k_norm: Option<DeviceNorm>,
    pub(super) o: DeviceLinear,
    pub(super) sinks: Option<DeviceBuffer>,
}

/// How queries, keys and values are made.
#[derive(Debug)]
pub(super) enum DeviceProjections {
    Merged(DeviceLinear),
    Latent(Box<DeviceLatent>),
}

/// A short convolution.
#[derive(Debug)]
pub(super) struct DeviceConvolution {
    pub(super) input: DeviceLinear,
    pub(super) taps: DeviceBuffer,
    pub(super) bias: Option<DeviceBuffer>,
    pub(super) output: DeviceLinear,
}

impl DeviceMixer {
    /// Uploads the mixer of a layer.
    pub(super) fn new(
        device: &Device,
        float: Float,
        w: &LayerWeights,
        config: &DecoderConfig,
    ) -> Result<Self, KernelError> {
        let more = &w.more;
        let floats = |data: &[f32]| (!data.is_empty()).then(|| device.floats(data)).transpose();
        if let Some(weights) = &more.convolution {
            return Ok(Self::Convolution(Box::new(DeviceConvolution {
                input: DeviceLinear::new(device, float, &[&weights.input], &[weights.input_bias.as_ref()])?,
                taps: device.floats(&weights.taps)?,
                bias: floats(&weights.bias)?,
                output: DeviceLinear::new(device, float, &[&weights.output], &[weights.output_bias.as_ref()])?,
            })));
        }
        let projections = match (&more.latent, config.block.latent) {
            (Some(weights), Some(shape)) => DeviceProjections::Latent(Box::new(DeviceLatent::new(
                device,
                float,
                w,
                weights,
                shape,
                config.num_heads,
            )?)),
            _ => {
                let biases = [w.q_bias.as_ref(), w.k_bias.as_ref(), w.v_bias.as_ref()];
                DeviceProjections::Merged(DeviceLinear::new(device, float, &[&w.q, &w.k, &w.v], &biases)?)
            }
        };
        let norm = |weight: &Option<Vec<f32>>, bias: &[f32]| {
            let there = config.block.qk_norm.filter(|norm| norm.norm.weight == NormWeight::None || weight.is_some());
            there.map(|_| DeviceNorm::new(device, weight.as_deref().unwrap_or_default(), bias)).transpose()
        };
        Ok(Self::Attention(Box::new(DeviceAttention {
            projections,
            q_norm: norm(&w.q_norm, &more.q_norm_bias)?,
            k_norm: norm(&w.k_norm, &more.k_norm_bias)?,
            o: DeviceLinear::new(device, float, &[&w.o], &[w.o_bias.as_ref()])?,
            sinks: floats(&more.sinks)?,
        })))
    }

    /// The linears that every row passes, as far as adapters can change them.
    pub(super) fn linears(&self) -> Vec<Stacked<'_>> {
        match self {
            Self::Attention(layer) => {
                let mut linears = match &layer.projections {
                    DeviceProjections::Merged(linear) => vec![(linear, vec![Q, K, V])],
                    DeviceProjections::Latent(latent) => latent.linears(),
                };
                linears.push((&layer.o, vec![O]));
                linears
            }
            Self::Convolution(layer) => vec![(&layer.input, vec![ConvIn]), (&layer.output, vec![ConvOut])],
        }
    }

    /// Bytes of the weights.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Attention(layer) => {
                let projections = match &layer.projections {
                    DeviceProjections::Merged(linear) => linear.bytes(),
                    DeviceProjections::Latent(latent) => latent.bytes(),
                };
                projections + layer.o.bytes()
            }
            Self::Convolution(layer) => layer.input.bytes() + layer.output.bytes(),
        }
    }
}

/// The projections of latent attention (DeepSeek-AI 2024), widened to queries, keys and values of all heads.
#[derive(Debug)]
pub(super) struct DeviceLatent {
    /// Into the narrow layer of queries and its norm, where there is one.
    q_down: Option<(DeviceLinear, DeviceBuffer)>,
    q_up: DeviceLinear,
    kv_down: DeviceLinear,
    kv_norm: DeviceBuffer,
    kv_up: DeviceLinear,
    shape: Latent,
    heads: usize,
}

impl DeviceLatent {
    fn new(
        device: &Device,
        float: Float,
        layer: &LayerWeights,
        weights: &LatentWeights,
        shape: Latent,
        heads: usize,
    ) -> Result<Self, KernelError> {
        let linear = |tensor, bias| DeviceLinear::new(device, float, &[tensor], &[bias]);
        let (q_down, q_up) = match &weights.q {
            Some((down, norm, up)) => {
                (Some((linear(down, weights.q_bias.as_ref())?, device.floats(norm)?)), linear(up, None)?)
            }
            None => (None, linear(&layer.q, None)?),
        };
        Ok(Self {
            q_down,
            q_up,
            kv_down: linear(&weights.kv_down, weights.kv_down_bias.as_ref())?,
            kv_norm: device.floats(&weights.kv_norm)?,
            kv_up: linear(&weights.kv_up, None)?,
            shape,
            heads,
        })
    }

    /// What stands for the queries' last linear.
    fn queries(&self) -> crate::Projection {
        if self.q_down.is_some() { QUp } else { Q }
    }

    fn linears(&self) -> Vec<Stacked<'_>> {
        let down = self.q_down.iter().map(|(down, _)| (down, vec![QDown]));
        let rest = [(&self.q_up, vec![self.queries()]), (&self.kv_down, vec![KvDown]), (&self.kv_up, vec![KvUp])];
        down.chain(rest).collect()
    }

    fn bytes(&self) -> usize {
        let q_down = self.q_down.as_ref().map_or(0, |(down, _)| down.bytes());
        q_down + self.q_up.bytes() + self.kv_down.bytes() + self.kv_up.bytes()
    }

    /// Queries, keys and values of rows of the input, side by side: in every head the part to be rotated comes first, and
    /// values are filled up with zeros.
    pub(super) fn project(&self, device: &Device, lora: BlockLora<'_>, x: View<'_>, out: View<'_>) -> Done {
        let Latent { kv_rank, nope, rope, value, eps, .. } = self.shape;
        let (rows, float) = (x.height(), x.float());
        let norm = |weight| HeadNorm { kind: Default::default(), heads: 1, weight: Some(weight), bias: None, eps };
        let narrow;
        let mut input = x;
        if let Some((down, weight)) = &self.q_down {
            let rank = down.out();
            narrow = device.alloc(rows * rank, float)?;
            input = narrow.view(0, rows, rank, rank);
            down.forward(device, lora.at(QDown), x, input)?;
            device.norm(input, norm(weight.row()), input)?;
        }
        let alloc = |width: usize| device.alloc(rows * width, float);
        let (q_width, kv_width) = (self.heads * (nope + rope), self.heads * (nope + value));
        let (q, latent) = (alloc(q_width)?, alloc(kv_rank + rope)?);
        let (compressed, kv) = (alloc(kv_rank)?, alloc(kv_width)?);
        let (q, latent) = (q.view(0, rows, q_width, q_width), latent.view(0, rows, kv_rank + rope, kv_rank + rope));
        let (compressed, kv) = (compressed.view(0, rows, kv_rank, kv_rank), kv.view(0, rows, kv_width, kv_width));
        self.q_up.forward(device, lora.at(self.queries()), input, q)?;
        self.kv_down.forward(device, lora.at(KvDown), x, latent)?;
        device.norm(latent.columns(0, kv_rank), norm(self.kv_norm.row()), compressed)?;
        self.kv_up.forward(device, lora.at(KvUp), compressed, kv)?;
        let parts = LatentParts { heads: self.heads, nope, rope, value };
        device.latent_heads([q, latent.columns(kv_rank, rope), kv], parts, out)
    }
}
