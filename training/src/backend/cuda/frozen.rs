//! Frozen matrices on a GPU.

use harness_engine::{
    EngineError, HostData, HostTensor,
    cuda::{Device, DeviceBuffer, Float, View},
};

/// A frozen matrix `[rows, cols]`.
#[derive(Debug)]
pub struct CudaFrozen {
    rows: usize,
    cols: usize,
    data: DeviceBuffer,
}

/// Elements converted at once when weights are narrowed on the GPU.
const CHUNK: usize = 64 << 20;

impl CudaFrozen {
    pub(super) fn new(device: &Device, float: Float, parts: &[&HostTensor]) -> Result<Self, EngineError> {
        let rows = parts.iter().map(|part| part.rows()).sum();
        let cols = parts.first().map_or(0, |part| part.cols());
        let data = device.alloc(rows * cols, float)?;
        let mut at = 0;
        for part in parts {
            let len = part.rows() * part.cols();
            upload(device, &part.data, data.view(at, 1, len, len.max(1)))?;
            at += len;
        }
        Ok(Self { rows, cols, data })
    }

    /// Gives the elements in the backend's type.
    pub(super) fn with(
        &self,
        _: &Device,
        f: impl FnOnce(View<'_>) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        f(self.data.view(0, self.rows, self.cols, self.cols))
    }
}

fn upload(device: &Device, data: &HostData, to: View<'_>) -> Result<(), EngineError> {
    match data {
        HostData::Bf16(data) if to.float() == Float::Bf16 => device.write_bf16(data, to),
        HostData::F32(data) if to.float() == Float::F32 => device.write(data, to),
        _ => {
            let len = data.len();
            for from in (0..len).step_by(CHUNK) {
                let end = len.min(from + CHUNK);
                let wide: Vec<f32> = match data {
                    HostData::F32(data) => data[from..end].to_vec(),
                    HostData::Bf16(data) => data[from..end].iter().map(|x| x.to_f32()).collect(),
                    HostData::F16(data) => data[from..end].iter().map(|x| x.to_f32()).collect(),
                };
                device.write(&wide, to.columns(from, end - from))?;
            }
            Ok(())
        }
    }
}
