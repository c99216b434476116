//! Linears and norms on a GPU, with low-rank additions.

use std::ops::Range;

use harness_kernels::{
    HostTensor, KernelError,
    cuda::{By, Device, DeviceBuffer, DeviceMatrix, FewLinear, Float, HeadNorm, LoraRows, LoraTable, View},
};

use crate::{LoraPair, Norm, Projection};

pub(super) type Done = Result<(), KernelError>;

/// `y = x · Wᵀ + bias` for one weight or for several stacked by output.
#[derive(Debug)]
pub(super) struct DeviceLinear {
    weight: DeviceMatrix,
    bias: Option<DeviceBuffer>,
}

impl DeviceLinear {
    /// Uploads the weights of linears that share an input; the outputs stand side by side in the order given.
    pub(super) fn new(
        device: &Device,
        float: Float,
        parts: &[&HostTensor],
        biases: &[Option<&Vec<f32>>],
    ) -> Result<Self, KernelError> {
        let bias: Option<Vec<f32>> = biases.iter().any(Option::is_some).then(|| {
            let filled = parts.iter().zip(biases);
            filled.flat_map(|(w, b)| b.map_or_else(|| vec![0.0; w.rows()], |b| b.to_vec())).collect()
        });
        let bias = bias.map(|bias| device.floats(&bias)).transpose()?;
        Ok(Self { weight: DeviceMatrix::new(device, float, parts)?, bias })
    }

    /// Output width.
    pub(super) fn out(&self) -> usize {
        self.weight.rows()
    }

    /// For products of few rows; `None` where they cannot be made in one kernel with what stands around them.
    pub(super) fn few(&self, addition: Addition<'_>) -> Option<FewLinear<'_>> {
        let plain = matches!(addition, Addition::None) && !self.weight.is_quantised();
        plain.then_some(FewLinear { weight: &self.weight, bias: self.bias.as_ref() })
    }

    /// Bytes of the weight.
    pub(super) fn bytes(&self) -> usize {
        self.weight.bytes()
    }

    /// Input width.
    pub(super) fn inputs(&self) -> usize {
        self.weight.cols()
    }

    /// The rows of the weight that belong to a run of outputs, one after another; `None` if they are quantised.
    pub(super) fn weight_rows(&self, device: &Device, outputs: Range<usize>) -> Result<Option<Vec<f32>>, KernelError> {
        if self.weight.is_quantised() {
            return Ok(None);
        }
        rows_of(device, &self.weight, outputs).map(Some)
    }

    /// `y = x · Wᵀ + bias`, with the additions of adapters.
    pub(super) fn forward(&self, device: &Device, addition: Addition<'_>, x: View<'_>, y: View<'_>) -> Done {
        self.weight.multiply(device, x, y)?;
        if let Addition::One(DeviceLora { factors: Some(factors), .. }) = addition {
            device.scale_by(factors, By::Column, y)?;
        }
        if let Some(bias) = &self.bias {
            device.add_bias(bias.row(), y)?;
        }
        match addition {
            Addition::None => Ok(()),
            Addition::One(lora) => lora.add(device, x, y),
            Addition::Rows(table, owners) => device.add_loras(table, owners, x, y),
        }
    }
}

/// What adapters add to a linear.
#[derive(Clone, Copy)]
pub(super) enum Addition<'a> {
    None,
    /// To all rows.
    One(&'a DeviceLora),
    /// To tiles of rows, each of its adapter.
    Rows(&'a LoraTable, &'a DeviceBuffer),
}

impl<'a> From<Option<&'a DeviceLora>> for Addition<'a> {
    fn from(lora: Option<&'a DeviceLora>) -> Self {
        lora.map_or(Self::None, Self::One)
    }
}

/// A linear and the projections whose outputs stand side by side in it.
pub(super) type Stacked<'a> = (&'a DeviceLinear, Vec<Projection>);

/// Weight and bias of a norm; what is not there changes nothing.
#[derive(Debug)]
pub(super) struct DeviceNorm {
    weight: Option<DeviceBuffer>,
    bias: Option<DeviceBuffer>,
    /// The weight in bf16, where that is exact.
    short: Option<DeviceBuffer>,
}

impl DeviceNorm {
    pub(super) fn new(device: &Device, weight: &[f32], bias: &[f32]) -> Result<Self, KernelError> {
        let upload = |data: &[f32]| (!data.is_empty()).then(|| device.floats(data)).transpose();
        let is_exact = !weight.is_empty() && weight.iter().all(|w| w.to_bits().trailing_zeros() >= 16);
        let short = is_exact.then(|| device.alloc(weight.len(), Float::Bf16)).transpose()?;
        if let Some(short) = &short {
            device.write(weight, short.row())?;
        }
        Ok(Self { weight: upload(weight)?, bias: upload(bias)?, short })
    }

    /// As [`DeviceNorm::new`]; `None` where there is no weight.
    pub(super) fn of(device: &Device, weight: &[f32]) -> Result<Option<Self>, KernelError> {
        (!weight.is_empty()).then(|| Self::new(device, weight, &[])).transpose()
    }

    /// The weight of a plain RMS norm.
    pub(super) fn plain(&self, norm: Norm) -> Option<View<'_>> {
        let plain = norm.kind == Norm::RMS.kind && self.bias.is_none();
        self.weight.as_ref().filter(|_| plain).map(DeviceBuffer::row)
    }

    /// The weight of a plain RMS norm in bf16, where that is exact.
    pub(super) fn short(&self, norm: Norm) -> Option<&DeviceBuffer> {
        self.plain(norm).and(self.short.as_ref())
    }

    /// Norms every head of every row; `y` may be `x`.
    pub(super) fn run(&self, device: &Device, norm: Norm, heads: usize, eps: f32, x: View<'_>, y: View<'_>) -> Done {
        let [weight, bias] = [&self.weight, &self.bias].map(|buffer| buffer.as_ref().map(DeviceBuffer::row));
        device.norm(x, HeadNorm { kind: norm.kind, heads, weight, bias, eps }, y)
    }
}

/// Low-rank additions to a linear: `y[:, columns] += scale · (x · Aᵀ) · Bᵀ` for each part.
#[derive(Debug)]
pub(super) struct DeviceLora {
    a: DeviceMatrix,
    parts: Vec<DeviceLoraPart>,
    /// Factors on the outputs of the linear itself, where there is a magnitude.
    factors: Option<DeviceBuffer>,
    /// Added to the outputs.
    bias: Option<DeviceBuffer>,
}

#[derive(Debug)]
struct DeviceLoraPart {
    first_rank: usize,
    first_column: usize,
    b: DeviceMatrix,
    scale: f32,
}

impl DeviceLoraPart {
    fn rows(&self) -> LoraRows<'_> {
        let Self { first_rank, first_column, ref b, scale } = *self;
        LoraRows { b, first_rank, first_column, scale }
    }
}

impl DeviceLora {
    /// Uploads the pairs of the projections that are stacked in `base`, with their widths; `None` if there are none.
    pub(super) fn new(
        device: &Device,
        float: Float,
        pairs: &[(Option<&LoraPair>, usize)],
        base: &DeviceLinear,
    ) -> Result<Option<Self>, KernelError> {
        let there = || pairs.iter().filter_map(|(pair, _)| *pair);
        let mut factors = there().any(|pair| pair.magnitude.is_some()).then(|| vec![1.0; base.out()]);
        let mut bias = there().any(|pair| pair.bias.is_some()).then(|| vec![0.0; base.out()]);
        let (mut a, mut parts, mut first_column, mut first_rank) = (vec![], vec![], 0, 0);
        for &(pair, out) in pairs {
            if let Some(pair) = pair {
                let mut b = pair.b.clone();
                if let (Some(magnitude), Some(factors)) = (&pair.magnitude, &mut factors) {
                    let lengths = changed_norms(device, base, first_column, pair, out)?;
                    let own = &mut factors[first_column..first_column + out];
                    for (((factor, b), magnitude), length) in
                        own.iter_mut().zip(b.chunks_exact_mut(pair.rank)).zip(magnitude).zip(lengths)
                    {
                        *factor = magnitude / length;
                        b.iter_mut().for_each(|b| *b *= *factor);
                    }
                }
                if let (Some(own), Some(bias)) = (&pair.bias, &mut bias) {
                    let to = bias[first_column..first_column + out].iter_mut();
                    to.zip(own).for_each(|(to, own)| *to = own * pair.scale);
                }
                a.extend_from_slice(&pair.a);
                let b = DeviceMatrix::new(device, float, &[&HostTensor::from_f32([out, pair.rank], b)])?;
                parts.push(DeviceLoraPart { first_rank, first_column, b, scale: pair.scale });
                first_rank += pair.rank;
            }
            first_column += out;
        }
        if parts.is_empty() {
            return Ok(None);
        }
        let upload = |data: Option<Vec<f32>>| data.map(|data| device.floats(&data)).transpose();
        let a = HostTensor::from_f32([first_rank, base.weight.cols()], a);
        let a = DeviceMatrix::new(device, float, &[&a])?;
        Ok(Some(Self { a, parts, factors: upload(factors)?, bias: upload(bias)? }))
    }

    /// The same for products whose rows have several adapters; `None` if it is more than a sum of products.
    pub(super) fn rows(&self) -> Option<(&DeviceMatrix, Vec<LoraRows<'_>>)> {
        let plain = self.factors.is_none() && self.bias.is_none();
        plain.then(|| (&self.a, self.parts.iter().map(DeviceLoraPart::rows).collect()))
    }

    fn add(&self, device: &Device, x: View<'_>, y: View<'_>) -> Done {
        let (rows, ranks) = (x.height(), self.a.rows());
        let u = device.alloc(rows * ranks, x.float())?;
        let u = u.view(0, rows, ranks, ranks);
        self.a.multiply(device, x, u)?;
        self.parts.iter().try_for_each(|part| {
            let u = u.columns(part.first_rank, part.b.cols());
            let y = y.columns(part.first_column, part.b.rows());
            part.b.with(device, |b| device.gemm(part.scale, u, b.t(), 1.0, y))
        })?;
        self.bias.as_ref().map_or(Ok(()), |bias| device.add_bias(bias.row(), y))
    }
}

/// Rows of a matrix in f32.
pub(super) fn rows_of(device: &Device, matrix: &DeviceMatrix, rows: Range<usize>) -> Result<Vec<f32>, KernelError> {
    let cols = matrix.cols();
    let wide = device.alloc(rows.len() * cols, Float::F32)?;
    let to = wide.view(0, rows.len(), cols, cols);
    matrix.with(device, |w| device.cast(w.rows(rows.start, rows.len()), to))?;
    device.read(wide.row())
}

/// The lengths of rows of a weight with its low-rank addition, in f32.
fn changed_norms(
    device: &Device,
    base: &DeviceLinear,
    first: usize,
    pair: &LoraPair,
    out: usize,
) -> Result<Vec<f32>, KernelError> {
    let (inp, rank) = (base.weight.cols(), pair.rank);
    let changed = device.alloc(out * inp, Float::F32)?;
    base.weight.with(device, |w| device.cast(w.rows(first, out), changed.view(0, out, inp, inp)))?;
    let (a, b) = (device.floats(&pair.a)?, device.floats(&pair.b)?);
    let changed = changed.view(0, out, inp, inp);
    device.gemm(pair.scale, b.view(0, out, rank, rank), a.view(0, rank, inp, inp), 1.0, changed)?;
    let norms = device.alloc(out, Float::F32)?;
    device.row_norms(changed, &norms)?;
    device.read(norms.row())
}
