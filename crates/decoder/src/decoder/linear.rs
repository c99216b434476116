//! Linears: packed weights, several side by side where they share an input, with low-rank additions.

use std::{collections::BTreeMap, ops::Range};

use crate::{AdapterLayer, DecoderError, ExpertPairs, LoraPair, Projection};
use rayon::prelude::*;

use harness_kernels::{
    HostData, HostTensor,
    cpu::{MatMut, MatRef, PackedMatrix, elementwise::add_bias, gemm_packed},
};

/// `y = x · Wᵀ + bias` for one weight or for several stacked by output.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: PackedMatrix,
    bias: Option<Vec<f32>>,
    quantised: bool,
}

impl Linear {
    /// Packs the weights of linears that share an input; the outputs stand side by side in the order given.
    pub(crate) fn pack(weights: &[&HostTensor], biases: &[Option<&Vec<f32>>]) -> Self {
        let bias = biases.iter().any(Option::is_some).then(|| {
            weights
                .iter()
                .zip(biases)
                .flat_map(|(w, b)| b.map_or_else(|| vec![0.0; w.rows()], |b| b.to_vec()))
                .collect()
        });
        let float = |w: &&HostTensor| matches!(w.data, HostData::F32(_) | HostData::Bf16(_) | HostData::F16(_));
        Self { weight: PackedMatrix::stacked(weights), bias, quantised: !weights.iter().all(float) }
    }

    /// Output width.
    pub(crate) fn out(&self) -> usize {
        self.weight.cols()
    }

    /// Input width.
    pub(crate) fn inputs(&self) -> usize {
        self.weight.rows()
    }

    /// Whether the weights are in blocks or codes.
    pub(crate) fn is_quantised(&self) -> bool {
        self.quantised
    }

    /// The rows of the weight that belong to a run of outputs, one after another.
    pub(crate) fn weight_rows(&self, outputs: Range<usize>) -> Vec<f32> {
        let mut rows = vec![0.0; outputs.len() * self.inputs()];
        for (output, row) in outputs.zip(rows.chunks_exact_mut(self.inputs())) {
            self.weight.weight_row(output, row);
        }
        rows
    }

    /// Bytes held by the weights.
    pub(crate) fn bytes(&self) -> usize {
        self.weight.bytes()
    }

    /// `y (+)= x · Wᵀ + bias` for rows of `x`, with the additions of adapters to the rows that are theirs. `add` keeps what
    /// is in `y`.
    pub(crate) fn forward(&self, x: &[f32], rows: usize, lora: &[RowsLora<'_>], add: bool, y: &mut [f32]) {
        let (inputs, width) = (self.inputs(), self.out());
        let scaled = || lora.iter().filter_map(|(rows, lora)| Some((rows, lora.factors.as_ref()?)));
        // Where a magnitude scales the product, what is there before is added to it afterwards.
        let before: Vec<Vec<f32>> = scaled()
            .map(|(rows, _)| {
                let y = &mut y[rows.start * width..rows.end * width];
                let before = if add { y.to_vec() } else { vec![0.0; y.len()] };
                y.fill(0.0);
                before
            })
            .collect();
        let beta = if add { 1.0 } else { 0.0 };
        gemm_packed(1.0, MatRef::new(x, rows, inputs), &self.weight, beta, MatMut::new(y, rows, width));
        for ((rows, factors), before) in scaled().zip(before) {
            let y = &mut y[rows.start * width..rows.end * width];
            for (y, before) in y.chunks_exact_mut(width).zip(before.chunks_exact(width)) {
                y.iter_mut().zip(before).zip(factors).for_each(|((y, before), factor)| *y = before + *y * factor);
            }
        }
        if let Some(bias) = &self.bias {
            add_bias(&mut y[..rows * bias.len()], bias);
        }
        for (rows, lora) in lora {
            let x = MatRef::new(&x[rows.start * inputs..rows.end * inputs], rows.len(), inputs);
            lora.add(x, &mut y[rows.start * width..rows.end * width], width);
        }
    }
}

/// A linear and the projections whose outputs stand side by side in it.
pub(crate) type Stacked<'a> = (&'a Linear, Vec<Projection>);

/// The low-rank additions to one [`Linear`]: `y[:, columns] += scale · (x · Aᵀ) · Bᵀ` for each part.
#[derive(Debug)]
pub(crate) struct LoraLinear {
    a: PackedMatrix,
    parts: Vec<LoraPart>,
    /// Factors on the outputs of the linear itself, where there is a magnitude.
    factors: Option<Vec<f32>>,
    /// Added to the outputs.
    bias: Option<Vec<f32>>,
}

/// The additions of an adapter to one block.
#[derive(Debug, Default)]
pub(crate) struct LayerLora {
    /// By the first of the projections that stand side by side.
    pub(crate) linears: BTreeMap<Projection, LoraLinear>,
    /// Of every expert: to gate and up, and to down.
    pub(crate) experts: Vec<[Option<LoraLinear>; 2]>,
}

/// The additions to a run of rows.
pub(crate) type RowsLora<'a> = (Range<usize>, &'a LoraLinear);

/// The additions of adapters to one block, each to a run of rows.
#[derive(Clone, Default)]
pub(crate) struct Lora<'a>(pub(crate) Vec<(Range<usize>, &'a LayerLora)>);

impl<'a> Lora<'a> {
    /// The additions to the linear whose first projection is this.
    pub(crate) fn at(&self, first: Projection) -> Vec<RowsLora<'a>> {
        self.0.iter().filter_map(|(rows, lora)| Some((rows.clone(), lora.linears.get(&first)?))).collect()
    }

    /// The additions to an expert that is given these rows, ascending: to gate and up, and to down. Rows are counted among
    /// those that it is given.
    pub(crate) fn expert(&self, number: usize, given: impl Fn(usize) -> usize) -> [Vec<RowsLora<'a>>; 2] {
        [0, 1].map(|part| {
            let of = |(rows, lora): &(Range<usize>, &'a LayerLora)| {
                let rows = given(rows.start)..given(rows.end);
                let lora = lora.experts.get(number)?[part].as_ref()?;
                (!rows.is_empty()).then_some((rows, lora))
            };
            self.0.iter().filter_map(of).collect()
        })
    }
}

#[derive(Debug)]
struct LoraPart {
    first_rank: usize,
    rank: usize,
    first_column: usize,
    b: PackedMatrix,
    scale: f32,
}

impl LoraLinear {
    /// Packs the pairs of the projections that are stacked in `base`, with their widths; `None` if there are none.
    pub(crate) fn pack(stacked: &[(Option<&LoraPair>, usize)], base: &Linear) -> Option<Self> {
        if stacked.iter().all(|(pair, _)| pair.is_none()) {
            return None;
        }
        let inp = base.weight.rows();
        let (mut a, mut parts, mut column) = (vec![], vec![], 0);
        let mut first_rank = 0;
        let pairs = || stacked.iter().filter_map(|(pair, _)| *pair);
        let mut factors = pairs().any(|pair| pair.magnitude.is_some()).then(|| vec![1.0; base.out()]);
        let mut bias = pairs().any(|pair| pair.bias.is_some()).then(|| vec![0.0; base.out()]);
        for &(pair, out) in stacked {
            if let Some(pair) = pair {
                let mut b = pair.b.clone();
                if let (Some(magnitude), Some(factors)) = (&pair.magnitude, &mut factors) {
                    let factors = &mut factors[column..column + out];
                    let of = |row: usize| magnitude[row] / changed_norm(base, column + row, pair, row);
                    factors.par_iter_mut().enumerate().for_each(|(row, factor)| *factor = of(row));
                    for (b, factor) in b.chunks_exact_mut(pair.rank).zip(factors) {
                        b.iter_mut().for_each(|b| *b *= *factor);
                    }
                }
                if let (Some(own), Some(bias)) = (&pair.bias, &mut bias) {
                    bias[column..column + out].iter_mut().zip(own).for_each(|(to, own)| *to = own * pair.scale);
                }
                a.extend_from_slice(&pair.a);
                let b = PackedMatrix::weight_f32(&b, out, pair.rank);
                parts.push(LoraPart { first_rank, rank: pair.rank, first_column: column, b, scale: pair.scale });
                first_rank += pair.rank;
            }
            column += out;
        }
        let a = PackedMatrix::weight_f32(&a, first_rank, inp);
        Some(Self { a, parts, factors, bias })
    }

    /// Packs one pair, whose outputs are all of a linear's.
    pub(crate) fn of(pair: &LoraPair) -> Self {
        let (inp, out) = (pair.a.len() / pair.rank, pair.b.len() / pair.rank);
        let b = PackedMatrix::weight_f32(&pair.b, out, pair.rank);
        let part = LoraPart { first_rank: 0, rank: pair.rank, first_column: 0, b, scale: pair.scale };
        let a = PackedMatrix::weight_f32(&pair.a, pair.rank, inp);
        Self { a, parts: vec![part], factors: None, bias: None }
    }

    fn add(&self, x: MatRef<'_>, y: &mut [f32], width: usize) {
        let (rows, ranks) = (x.rows(), self.a.cols());
        let mut u = vec![0.0; rows * ranks];
        gemm_packed(1.0, x, &self.a, 0.0, MatMut::new(&mut u, rows, ranks));
        for part in &self.parts {
            if rows == 0 {
                continue;
            }
            let u = MatRef::with_strides(&u[part.first_rank..], rows, part.rank, ranks, 1);
            let y = MatMut::with_stride(&mut y[part.first_column..], rows, part.b.cols(), width);
            gemm_packed(part.scale, u, &part.b, 1.0, y);
        }
        if let Some(bias) = &self.bias {
            add_bias(&mut y[..rows * bias.len()], bias);
        }
    }
}

/// The length of a row of a weight with its low-rank addition.
fn changed_norm(base: &Linear, column: usize, pair: &LoraPair, row: usize) -> f32 {
    let inp = base.weight.rows();
    let mut weight = vec![0.0; inp];
    base.weight.weight_row(column, &mut weight);
    for (k, b) in pair.b[row * pair.rank..(row + 1) * pair.rank].iter().enumerate() {
        let a = &pair.a[k * inp..(k + 1) * inp];
        weight.iter_mut().zip(a).for_each(|(w, a)| *w += pair.scale * b * a);
    }
    weight.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>().sqrt() as f32
}

/// A tensor of the embedding: rows are looked up by token.
#[derive(Debug)]
pub(crate) struct Embedding {
    table: HostTensor,
}

impl Embedding {
    pub(crate) fn new(table: HostTensor) -> Self {
        Self { table }
    }

    /// The rows of `tokens`, one after the other.
    pub(crate) fn lookup(&self, tokens: impl Iterator<Item = u32>, out: &mut Vec<f32>) -> Result<(), DecoderError> {
        let (rows, width) = (self.table.rows(), self.table.cols());
        for token in tokens {
            let token = token as usize;
            if token >= rows {
                return Err(DecoderError::TokenOutOfRange { token, vocab_size: rows });
            }
            let range = token * width..(token + 1) * width;
            match &self.table.data {
                HostData::F32(data) => out.extend_from_slice(&data[range]),
                HostData::Bf16(data) => out.extend(data[range].iter().map(|x| x.to_f32())),
                HostData::F16(data) => out.extend(data[range].iter().map(|x| x.to_f32())),
                HostData::Nf4(data) => out.extend(range.map(|i| data.at(i))),
                data @ (HostData::Blocks(_) | HostData::Coded(_)) => out.extend(data.widen_range(range)),
            }
        }
        Ok(())
    }
}

/// Whether no pair of an adapter changes anything: some factor of each is zero throughout.
pub(crate) fn is_zero(layers: &[AdapterLayer], experts: &[ExpertPairs]) -> bool {
    let zero = |data: &[f32]| data.iter().all(|&x| x == 0.0);
    let experts = experts.iter().flatten().flatten().flatten();
    layers
        .iter()
        .flat_map(AdapterLayer::values)
        .chain(experts)
        .all(|pair| pair.is_plain() && (pair.scale == 0.0 || zero(&pair.a) || zero(&pair.b)))
}

fn experts(layer: &crate::LayerWeights) -> impl Iterator<Item = &HostTensor> {
    layer.experts.iter().flat_map(|mixture| mixture.experts.iter().flatten())
}

/// The types the weights of the blocks are kept in, e.g. `bf16`.
pub(crate) fn storage_name(weights: &crate::Weights) -> String {
    let mut names: Vec<&str> = weights
        .layers
        .iter()
        .flat_map(|l| [&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down].into_iter().chain(experts(l)))
        .filter(|tensor| !tensor.data.is_empty())
        .map(|tensor| tensor.data.dtype())
        .collect();
    names.sort_unstable();
    names.dedup();
    names.join("+")
}
