//! Where a model is computed.

use super::{LoadedBase, ModelOptions};
#[cfg(feature = "cuda")]
use crate::BaseModel;
use crate::{ComputeType, EngineError, ModelFiles, Placement};

/// What a model is computed on.
pub(super) enum ModelDevice {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda(crate::cuda::Device, crate::cuda::Float),
}

impl ModelDevice {
    pub(super) fn open(options: &ModelOptions) -> Result<Self, EngineError> {
        match options.placement {
            Placement::Cpu if options.compute == Some(ComputeType::Bf16) => Err(EngineError::Device {
                device: "cpu".to_owned(),
                reason:
                    "the processor computes in f32 (weights may be stored in 16 bits); leave the type out, or use a \
                         GPU"
                    .to_owned(),
            }),
            Placement::Cpu => Ok(Self::Cpu),
            #[cfg(not(feature = "cuda"))]
            Placement::Cuda(ordinal) => Err(EngineError::without_cuda(ordinal)),
            #[cfg(feature = "cuda")]
            Placement::Cuda(ordinal) => {
                let float = match options.compute {
                    Some(ComputeType::F32) => crate::cuda::Float::F32,
                    None | Some(ComputeType::Bf16) => crate::cuda::Float::Bf16,
                };
                Ok(Self::Cuda(crate::cuda::Device::open(ordinal)?, float))
            }
        }
    }

    pub(super) fn place(self, files: ModelFiles, options: ModelOptions) -> Result<LoadedBase, EngineError> {
        match self {
            Self::Cpu => Ok(LoadedBase::new(files, options)),
            #[cfg(feature = "cuda")]
            Self::Cuda(device, float) => LoadedBase::with_model(files, options, |config, weights, max_length| {
                BaseModel::on_device(config, &weights, max_length, device, float)
            }),
        }
    }
}
