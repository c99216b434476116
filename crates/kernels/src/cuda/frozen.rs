//! Frozen matrices on a GPU.

use super::{Device, DeviceBuffer, Float, Nf4Scales, View};
use crate::{BlockScales, HostData, HostTensor, KernelError, NestedScales, Nf4Tensor};

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
    fn new(device: &Device, tensor: &Nf4Tensor, rows: usize) -> Result<Self, KernelError> {
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
    pub fn new(device: &Device, float: Float, parts: &[&HostTensor]) -> Result<Self, KernelError> {
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
        f: impl FnOnce(View<'_>) -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
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

fn upload(device: &Device, data: &HostData, to: View<'_>) -> Result<(), KernelError> {
    match data {
        HostData::Bf16(data) if to.float() == Float::Bf16 => device.write_halves(data, to),
        HostData::F16(data) if to.float() == Float::F16 => device.write_halves(data, to),
        HostData::F32(data) if to.float() == Float::F32 => device.write(data, to),
        _ => {
            let len = data.len();
            for from in (0..len).step_by(CHUNK) {
                let end = len.min(from + CHUNK);
                // A part has whole blocks.
                let wide = data.widen_range(from..end);
                device.write(&wide, to.columns(from, end - from))?;
            }
            Ok(())
        }
    }
}
