//! Tensors in host memory, in the type in which they are stored.

use std::{borrow::Cow, ops::Range};

use half::{bf16, f16};

use crate::{Buffer, CodedTensor, Nf4Tensor, Scales, gguf::BlockTensor};

/// Elements of a tensor, row-major, in the type in which they are stored.
#[derive(Clone, Debug)]
pub enum HostData {
    /// 32-bit floats.
    F32(Buffer<f32>),
    /// bfloat16.
    Bf16(Buffer<bf16>),
    /// IEEE half precision.
    F16(Buffer<f16>),
    /// 4-bit codes with a scale for every block.
    Nf4(Nf4Tensor),
    /// ggml's blocks.
    Blocks(BlockTensor),
    /// Codes of four or eight bits with scales, as other tools store them.
    Coded(CodedTensor),
}

impl HostData {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::Bf16(data) => data.len(),
            Self::F16(data) => data.len(),
            Self::Nf4(data) => data.len,
            Self::Blocks(data) => data.len,
            Self::Coded(data) => data.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Name of the element type: `f32`, `bf16`, `f16`, `nf4`, one of ggml's, as `q4_k`, `int4`, `int8`, `fp4` or `fp8`.
    pub fn dtype(&self) -> &'static str {
        match self {
            Self::F32(_) => "f32",
            Self::Bf16(_) => "bf16",
            Self::F16(_) => "f16",
            Self::Nf4(_) => "nf4",
            Self::Blocks(data) => data.kind.name(),
            Self::Coded(data) => data.name(),
        }
    }

    /// Bytes of the elements, with scales.
    pub fn bytes(&self) -> usize {
        match self {
            Self::F32(data) => 4 * data.len(),
            Self::Bf16(data) => 2 * data.len(),
            Self::F16(data) => 2 * data.len(),
            Self::Nf4(data) => data.bytes(),
            Self::Blocks(data) => data.bytes.len(),
            Self::Coded(data) => data.bytes(),
        }
    }

    /// Floats as the scales of codes; `None` of what is quantised.
    pub fn scales(&self) -> Option<Scales> {
        Some(match self {
            Self::F32(data) => Scales::F32(data.clone()),
            Self::Bf16(data) => Scales::Bf16(data.clone()),
            Self::F16(data) => Scales::F16(data.clone()),
            Self::Nf4(_) | Self::Blocks(_) | Self::Coded(_) => return None,
        })
    }

    /// Elements of a range in f32; of ggml's blocks whole ones.
    pub fn widen_range(&self, range: Range<usize>) -> Vec<f32> {
        match self {
            Self::F32(data) => data[range].to_vec(),
            Self::Bf16(data) => data[range].iter().map(|x| x.to_f32()).collect(),
            Self::F16(data) => data[range].iter().map(|x| x.to_f32()).collect(),
            Self::Nf4(data) => range.map(|i| data.at(i)).collect(),
            Self::Blocks(data) => data.kind.widen(&data.bytes[data.bytes_of(range.start)..data.bytes_of(range.end)]),
            Self::Coded(data) => data.widen_range(range),
        }
    }
}

/// A floating-point type that weights are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FloatType {
    /// 32 bits.
    F32,
    /// 16 bits with the exponent range of f32.
    Bf16,
    /// 16 bits of IEEE half precision.
    F16,
}

impl FloatType {
    /// `f32`, `bf16` or `f16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// A tensor in host memory; cloning shares the elements.
#[derive(Clone, Debug)]
pub struct HostTensor {
    /// Length of every dimension, outermost first.
    pub shape: Vec<usize>,
    /// The elements; as many as the product of `shape`.
    pub data: HostData,
}

impl HostTensor {
    /// A tensor of 32-bit floats that owns its elements.
    pub fn from_f32(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Self {
        Self { shape: shape.into(), data: HostData::F32(data.into()) }
    }

    /// The elements as 32-bit floats; borrowed where they are stored so. Widening is exact.
    pub fn to_f32(&self) -> Cow<'_, [f32]> {
        match &self.data {
            HostData::F32(data) => Cow::Borrowed(data),
            HostData::Bf16(data) => Cow::Owned(data.iter().map(|x| x.to_f32()).collect()),
            HostData::F16(data) => Cow::Owned(data.iter().map(|x| x.to_f32()).collect()),
            HostData::Nf4(data) => Cow::Owned(data.dequantise()),
            HostData::Blocks(data) => Cow::Owned(data.widen()),
            HostData::Coded(data) => Cow::Owned(data.widen()),
        }
    }

    /// The same tensor stored in another type, rounded to nearest even; 4-bit codes stay as they are. `None` if an element
    /// is beyond the range of the type.
    pub fn stored_as(&self, dtype: FloatType) -> Option<Self> {
        if matches!(self.data, HostData::Nf4(_)) || self.data.dtype() == dtype.name() {
            return Some(self.clone());
        }
        let wide = self.to_f32();
        let data = match dtype {
            FloatType::F32 => HostData::F32(wide.into_owned().into()),
            FloatType::Bf16 => HostData::Bf16(wide.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>().into()),
            FloatType::F16 => {
                let narrow: Vec<f16> = wide.iter().map(|&x| f16::from_f32(x)).collect();
                if narrow.iter().zip(wide.iter()).any(|(a, b)| !a.is_finite() && b.is_finite()) {
                    return None;
                }
                HostData::F16(narrow.into())
            }
        };
        Some(Self { shape: self.shape.clone(), data })
    }

    /// Length of the first dimension (output features of a linear); 1 for a scalar.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Matrix number `index` of a tensor that stacks several, copied.
    pub fn matrix(&self, index: usize, rows: usize, cols: usize) -> Self {
        let range = index * rows * cols..(index + 1) * rows * cols;
        let data = match &self.data {
            HostData::F32(data) => HostData::F32(data[range].to_vec().into()),
            HostData::Bf16(data) => HostData::Bf16(data[range].to_vec().into()),
            HostData::F16(data) => HostData::F16(data[range].to_vec().into()),
            HostData::Nf4(_) | HostData::Coded(_) => HostData::F32(self.data.widen_range(range).into()),
            HostData::Blocks(data) => {
                let bytes = data.bytes[data.bytes_of(range.start)..data.bytes_of(range.end)].to_vec();
                HostData::Blocks(BlockTensor { bytes: bytes.into(), len: range.len(), ..*data })
            }
        };
        Self { shape: vec![rows, cols], data }
    }

    /// Runs of rows, one after the other, copied. 4-bit codes are widened.
    pub fn select_rows(&self, runs: impl Iterator<Item = Range<usize>> + Clone) -> Self {
        fn pick<T: Copy>(data: &[T], runs: impl Iterator<Item = Range<usize>>, cols: usize) -> Vec<T> {
            runs.flat_map(|run| data[run.start * cols..run.end * cols].iter().copied()).collect()
        }
        let cols = self.cols();
        let data = match &self.data {
            HostData::F32(data) => HostData::F32(pick(data, runs.clone(), cols).into()),
            HostData::Bf16(data) => HostData::Bf16(pick(data, runs.clone(), cols).into()),
            HostData::F16(data) => HostData::F16(pick(data, runs.clone(), cols).into()),
            HostData::Nf4(data) => HostData::F32(pick(&data.dequantise(), runs.clone(), cols).into()),
            HostData::Blocks(data) => {
                let row = data.bytes_of(cols);
                let bytes = pick(&data.bytes, runs.clone(), row);
                let len = bytes.len() / row.max(1) * cols;
                HostData::Blocks(BlockTensor { bytes: bytes.into(), len, ..*data })
            }
            HostData::Coded(data) => HostData::Coded(data.select_rows(runs.clone())),
        };
        let mut shape = self.shape.clone();
        if let Some(rows) = shape.first_mut() {
            *rows = runs.map(|run| run.len()).sum();
        }
        Self { shape, data }
    }

    /// The same elements in another shape.
    #[must_use]
    pub fn reshaped(self, shape: &[usize]) -> Self {
        debug_assert_eq!(self.data.len(), shape.iter().product::<usize>(), "as many elements");
        Self { shape: shape.to_vec(), ..self }
    }

    /// A matrix with rows and columns exchanged, copied. 4-bit codes are widened.
    pub fn transposed(&self) -> Self {
        fn turn<T: Copy>(data: &[T], rows: usize, cols: usize) -> Vec<T> {
            (0..cols).flat_map(|col| (0..rows).map(move |row| data[row * cols + col])).collect()
        }
        let (rows, cols) = (self.rows(), self.cols());
        let data = match &self.data {
            HostData::F32(data) => HostData::F32(turn(data, rows, cols).into()),
            HostData::Bf16(data) => HostData::Bf16(turn(data, rows, cols).into()),
            HostData::F16(data) => HostData::F16(turn(data, rows, cols).into()),
            HostData::Nf4(data) => HostData::F32(turn(&data.dequantise(), rows, cols).into()),
            HostData::Blocks(_) | HostData::Coded(_) => HostData::F32(turn(&self.to_f32(), rows, cols).into()),
        };
        Self { shape: vec![cols, rows], data }
    }

    /// Elements of a row (input features of a linear).
    pub fn cols(&self) -> usize {
        self.shape.iter().skip(1).product()
    }
}
