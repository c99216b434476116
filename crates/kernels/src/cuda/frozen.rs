//! Frozen matrices on a GPU.

use super::{
    Device, DeviceBuffer, Float, View,
    codes::{Codes, Rows},
    ops::contiguous,
};
use crate::{HostData, HostTensor, KernelError};

/// Elements converted at once when weights are narrowed.
const CHUNK: usize = 64 << 20;

/// Elements widened at once for a product.
const SLAB: usize = 32 << 20;

/// A frozen matrix `[rows, cols]` on a GPU: floats of one type, or codes that stay as they are stored and are widened for
/// every use.
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

impl DeviceMatrix {
    /// Uploads matrices stacked by rows. Floats are converted to `float`; codes and blocks stay as they are, if all are in
    /// some that the kernels read.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(device: &Device, float: Float, parts: &[&HostTensor]) -> Result<Self, KernelError> {
        let rows = parts.iter().map(|part| part.rows()).sum();
        let cols = parts.first().map_or(0, |part| part.cols());
        let codes: Option<Vec<Codes>> = parts
            .iter()
            .map(|part| Codes::new(device, part).transpose())
            .collect::<Option<Result<_, _>>>()
            .transpose()?;
        if let Some(codes) = codes.filter(|codes| !codes.is_empty()) {
            return Ok(Self { rows, cols, float, stored: Stored::Codes(codes), id: device.next_id() });
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

    /// Whether the elements are in codes.
    pub fn is_quantised(&self) -> bool {
        matches!(self.stored, Stored::Codes(_))
    }

    /// Where the elements are, if they are floats of 16 bits.
    pub(super) fn place(&self) -> Option<u64> {
        match &self.stored {
            Stored::Floats(data) if self.float != Float::F32 => Some(data.ptr()),
            _ => None,
        }
    }

    /// Bytes held on the GPU.
    pub fn bytes(&self) -> usize {
        match &self.stored {
            Stored::Floats(data) => data.len() * self.float.bytes(),
            Stored::Codes(parts) => parts.iter().flat_map(Codes::buffers).map(DeviceBuffer::bytes).sum(),
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

    /// Gives the elements; codes are widened into scratch memory first, unless they are among those widened last.
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
                        let height = part.elements() / self.cols;
                        let to = scratch.rows(row, height);
                        row += height;
                        device.widen_codes(part, Rows::From(0), to)
                    })
                };
                device.widened(self.id, self.float, (self.rows, self.cols), fill, f)
            }
        }
    }

    /// `y = x Wᵀ`, summed in f32; `y` may be of another type than `x`. Few rows are multiplied with codes as they are read,
    /// more with codes that are widened a slab at a time.
    ///
    /// # Errors
    /// If there is no memory for the scratch, or the driver fails.
    ///
    /// # Panics
    /// If shapes or types do not fit.
    pub fn multiply(&self, device: &Device, x: View<'_>, y: View<'_>) -> Result<(), KernelError> {
        let Stored::Codes(parts) = &self.stored else {
            return self.with(device, |w| device.gemm(1.0, x, w.t(), 0.0, y));
        };
        if !parts.iter().all(Codes::has_rows) {
            return self.with(device, |w| device.gemm(1.0, x, w.t(), 0.0, y));
        }
        let mut column = 0;
        for part in parts {
            let to = y.columns(column, part.rows);
            column += part.rows;
            if Device::multiplies_codes(part, &x) {
                device.multiply_codes(part, x, to)?;
                continue;
            }
            let most = (SLAB / self.cols.max(1)).clamp(1, part.rows.max(1));
            let slab = device.alloc(most * self.cols, x.float())?;
            for from in (0..part.rows).step_by(most) {
                let rows = most.min(part.rows - from);
                let slab = slab.view(0, rows, self.cols, self.cols);
                device.widen_codes(part, Rows::From(from), slab)?;
                device.gemm(1.0, x, slab.t(), 0.0, to.columns(from, rows))?;
            }
        }
        Ok(())
    }

    /// `y[i] = W[rows[i]]`.
    ///
    /// # Errors
    /// If there is no memory for the scratch, or the driver fails.
    pub fn look_up(&self, device: &Device, rows: &DeviceBuffer, y: View<'_>) -> Result<(), KernelError> {
        match &self.stored {
            Stored::Codes(parts) if parts.len() == 1 && parts[0].has_rows() && contiguous(&y) => {
                device.widen_codes(&parts[0], Rows::Listed(rows), y)
            }
            _ => self.with(device, |table| device.gather(table, rows, y)),
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
