//! Matrices in codes on a GPU: what they are made of there, their elements, and products straight from the codes.

use super::{
    Device, DeviceBuffer, Float, View,
    driver::{Shape, args},
    ops::{Done, contiguous, of},
};
use crate::{
    BlockScales, CodeKind, CodedTensor, HostData, HostTensor, KernelError, NestedScales, Nf4Tensor, Scales, Zeros,
    gguf::BlockTensor,
};

/// The kernels' numbers of formats that are not ggml's.
const NF4: u32 = 64;
const NIBBLE: u32 = 65;
const E2M1: u32 = 66;
const UNSIGNED: u32 = 67;
const SIGNED: u32 = 68;
const E4M3: u32 = 69;

/// Bytes that a kernel may read behind the last code.
const BEHIND: usize = 8;

/// Rows of a product for which codes are not widened first: with more of them they would be read too often.
const FEW: usize = 32;

/// Rows of a matrix.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rows<'a> {
    /// Those from this one on.
    From(usize),
    /// Those of these numbers (32 bits), which are below the number of rows.
    Listed(&'a DeviceBuffer),
}

/// A matrix in codes on a GPU. What the fields hold depends on the format, as `Codes` of `kernels/codes.cuh` says.
#[derive(Debug)]
pub(super) struct Codes {
    pub(super) rows: usize,
    cols: usize,
    format: u32,
    codes: DeviceBuffer,
    scales: Option<DeviceBuffer>,
    more: Option<DeviceBuffer>,
    map: Option<DeviceBuffer>,
    stride: usize,
    shifts: [u32; 2],
    groups: usize,
    scale_type: u32,
    zero: i16,
    number: f32,
}

impl Codes {
    /// Uploads a tensor as it is stored; `None` if it is in floats, or in codes that the kernels do not read.
    pub(super) fn new(device: &Device, tensor: &HostTensor) -> Result<Option<Self>, KernelError> {
        let (rows, cols) = (tensor.rows(), tensor.cols());
        match &tensor.data {
            HostData::Nf4(data) if data.block.is_power_of_two() && data.block >= 16 => {
                Self::nf4(device, data, rows, cols).map(Some)
            }
            HostData::Blocks(data) if data.kind.elements() > 1 => Self::blocks(device, data, rows, cols).map(Some),
            HostData::Coded(data) => Self::coded(device, data),
            _ => Ok(None),
        }
    }

    /// Codes of which there are at least `needed` bytes, without scales.
    fn plain(
        device: &Device,
        format: u32,
        codes: &[u8],
        needed: usize,
        [rows, cols]: [usize; 2],
    ) -> Result<Self, KernelError> {
        assert!(codes.len() >= needed, "codes of all elements");
        let mut padded = Vec::with_capacity(codes.len() + BEHIND);
        padded.extend_from_slice(codes);
        padded.resize(codes.len() + BEHIND, 0);
        Ok(Self {
            rows,
            cols,
            format,
            codes: device.bytes(&padded)?,
            scales: None,
            more: None,
            map: None,
            stride: 0,
            shifts: [0, 0],
            groups: 0,
            scale_type: 0,
            zero: 0,
            number: 1.0,
        })
    }

    fn nf4(device: &Device, tensor: &Nf4Tensor, rows: usize, cols: usize) -> Result<Self, KernelError> {
        // Eight elements are read at once, also where rows do not begin with one: then all are one row.
        let len = rows * cols;
        let shape = if cols.is_multiple_of(8) { [rows, cols] } else { [1, len] };
        let mut codes = Self::plain(device, NF4, &tensor.codes, len.div_ceil(2), shape)?;
        codes.shifts[1] = tensor.block.trailing_zeros();
        let blocks = len.div_ceil(tensor.block);
        match &tensor.scales {
            BlockScales::Plain(scales) => {
                assert!(scales.len() >= blocks, "a scale a block");
                codes.scales = Some(device.floats(scales)?);
            }
            BlockScales::Nested(nested) => {
                let runs = blocks.div_ceil(NestedScales::BLOCK);
                assert!(nested.codes.len() >= blocks && nested.absmax.len() >= runs, "a scale a block");
                codes.scales = Some(device.floats(&nested.absmax)?);
                codes.more = Some(device.bytes(&nested.codes)?);
                codes.map = Some(device.floats(NestedScales::map())?);
                codes.shifts[0] = NestedScales::BLOCK.trailing_zeros();
                codes.number = nested.offset;
            }
        }
        Ok(codes)
    }

    fn blocks(device: &Device, tensor: &BlockTensor, rows: usize, cols: usize) -> Result<Self, KernelError> {
        let stride = tensor.bytes_of(cols);
        let codes = Self::plain(device, tensor.kind.code(), &tensor.bytes, rows * stride, [rows, cols])?;
        Ok(Self { stride, ..codes })
    }

    fn coded(device: &Device, tensor: &CodedTensor) -> Result<Option<Self>, KernelError> {
        let CodedTensor { kind, codes, stride, rows, cols, scales, block, zeros, order, divisor } = tensor;
        // Eight columns have one scale and zero, or each its own.
        let shift = |block: usize, of: usize| match block {
            _ if block >= of => Some(31),
            _ => block.is_power_of_two().then(|| block.trailing_zeros()),
        };
        let [Some(by_row), Some(by_column)] = [shift(block[0], *rows), shift(block[1], *cols)] else { return Ok(None) };
        let each = if matches!(kind, CodeKind::Nibble | CodeKind::E2m1) { 4 } else { 8 };
        if !cols.is_multiple_of(8) || !stride.is_multiple_of(each) || order.is_none() && by_column < 3 {
            return Ok(None);
        }
        let groups = tensor.groups();
        let zeros_fit = if let Zeros::Each(zeros) = zeros { zeros.len() == scales.len() } else { true };
        let grouped = match order {
            Some(order) => order.len() == *cols && order.iter().all(|&group| (group as usize) < groups),
            None => cols.div_ceil(block[1]) <= groups,
        };
        assert!(zeros_fit && grouped && scales.len() >= rows.div_ceil(block[0]) * groups, "scales of all codes");
        let format = match kind {
            CodeKind::Nibble => NIBBLE,
            CodeKind::E2m1 => E2M1,
            CodeKind::Unsigned => UNSIGNED,
            CodeKind::Signed => SIGNED,
            CodeKind::E4m3 => E4M3,
        };
        let (scale_type, on_device) = match scales {
            Scales::F32(data) => (0, device.bytes(data)?),
            Scales::Bf16(data) => (1, device.bytes(data)?),
            Scales::F16(data) => (2, device.bytes(data)?),
            Scales::Exponents(data) => (3, device.bytes(data)?),
        };
        let (zero, more) = match zeros {
            Zeros::Same(zero) => (*zero, None),
            Zeros::Each(zeros) => (0, Some(device.bytes(zeros)?)),
        };
        Ok(Some(Self {
            scales: Some(on_device),
            more,
            map: order.as_ref().map(|order| device.bytes(order)).transpose()?,
            stride: *stride,
            shifts: [by_row, by_column],
            groups,
            scale_type,
            zero,
            number: *divisor,
            ..Self::plain(device, format, codes, rows * stride, [*rows, *cols])?
        }))
    }

    fn optional(&self) -> [&Option<DeviceBuffer>; 3] {
        [&self.scales, &self.more, &self.map]
    }

    /// The buffers it consists of.
    pub(super) fn buffers(&self) -> impl Iterator<Item = &DeviceBuffer> {
        std::iter::once(&self.codes).chain(self.optional().into_iter().flatten())
    }

    /// The same codes in other buffers.
    pub(super) fn in_buffers(&self, f: &mut dyn FnMut(&DeviceBuffer) -> DeviceBuffer) -> Self {
        let codes = f(&self.codes);
        let [scales, more, map] = self.optional().map(|buffer| buffer.as_ref().map(&mut *f));
        Self { codes, scales, more, map, ..*self }
    }

    /// Number of elements.
    pub(super) fn elements(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether single rows can be read.
    pub(super) fn has_rows(&self) -> bool {
        self.format != NF4 || self.cols.is_multiple_of(8)
    }
}

/// The arguments that all kernels on codes begin with, and the others.
macro_rules! with_codes {
    ($codes:expr, $($rest:tt)+) => {{
        let codes = $codes;
        let [scales, more, map] = codes.optional().map(|buffer| buffer.as_ref().map_or(0, DeviceBuffer::ptr));
        let [by_row, by_column] = codes.shifts;
        args![
            codes.codes.ptr(), scales, more, map, codes.format, codes.cols, codes.stride, by_row, by_column,
            codes.groups, codes.scale_type, i64::from(codes.zero), codes.number, $($rest)+
        ]
    }};
}

impl Device {
    /// The elements of some rows, to contiguous ones.
    pub(super) fn widen_codes(&self, codes: &Codes, which: Rows<'_>, out: View<'_>) -> Done {
        let n = out.rows * out.cols;
        let rows = n / codes.cols.max(1);
        assert!(contiguous(&out) && rows * codes.cols == n && n / 8 < u32::MAX as usize, "contiguous rows of elements");
        let (list, from) = match which {
            Rows::From(from) => {
                assert!(from + rows <= codes.rows, "rows of the matrix");
                (0, from)
            }
            Rows::Listed(list) => {
                assert!(list.len() >= 4 * rows && codes.has_rows(), "an index a row");
                (list.ptr(), 0)
            }
        };
        let groups = rows * codes.cols.div_ceil(8);
        self.launch(of!(out.float, "widen_codes"), self.spread(groups), &with_codes!(codes, list, from, rows, out.ptr))
    }

    /// Whether a product with these rows can be computed without widening codes.
    pub(super) fn multiplies_codes(codes: &Codes, x: &View<'_>) -> bool {
        x.float != Float::F32
            && x.rows <= FEW
            && codes.has_rows()
            && codes.cols.is_multiple_of(32)
            && x.pitch.is_multiple_of(8)
            && x.ptr.is_multiple_of(16)
    }

    /// `y = x Wᵀ` for few rows: each element of the matrix is rounded to the type of `x`, sums are of f32. A row of `y` does
    /// not depend on the others.
    pub(super) fn multiply_codes(&self, codes: &Codes, x: View<'_>, y: View<'_>) -> Done {
        let fits = x.cols == codes.cols && y.cols == codes.rows && x.rows == y.rows && !x.transposed && !y.transposed;
        assert!(fits && Self::multiplies_codes(codes, &x), "shapes of a product");
        assert!(y.float == x.float || y.float == Float::F32, "sums in the type of the rows, or in f32");
        // More rows of W a block read x less often, if all multiprocessors still get work twice.
        let high = if x.rows > 16 && codes.rows >= 64 * self.0.multiprocessors as usize { 2 } else { 1 };
        let tiles = x.rows.div_ceil(8).next_power_of_two().min(4);
        let name = match (tiles, high, x.float) {
            (1, _, Float::F16) => "multiply_codes_1_1_f16",
            (1, ..) => "multiply_codes_1_1_bf16",
            (2, _, Float::F16) => "multiply_codes_2_1_f16",
            (2, ..) => "multiply_codes_2_1_bf16",
            (_, 1, Float::F16) => "multiply_codes_4_1_f16",
            (_, 1, _) => "multiply_codes_4_1_bf16",
            (_, _, Float::F16) => "multiply_codes_4_2_f16",
            _ => "multiply_codes_4_2_bf16",
        };
        let grid = (codes.rows.div_ceil(16 * high), x.rows.div_ceil(8 * tiles));
        let shape = Shape { grid, block: (256, 1), shared: 0 };
        let args = with_codes!(codes, codes.rows, [x], x.rows, [y], y.float == Float::F32);
        self.launch(name, shape, &args)
    }
}
