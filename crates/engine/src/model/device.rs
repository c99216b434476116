//! Where a model is computed.

use crate::{ComputeType, EngineError, Placement};

/// What a model is computed on.
pub(super) enum ModelDevice {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda(crate::cuda::Device, crate::cuda::Float),
}

impl ModelDevice {
    pub(super) fn open(placement: Placement, compute: Option<ComputeType>) -> Result<Self, EngineError> {
        match placement {
            Placement::Cpu if compute == Some(ComputeType::Bf16) => Err(EngineError::Device {
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
                let float = match compute {
                    Some(ComputeType::F32) => crate::cuda::Float::F32,
                    None | Some(ComputeType::Bf16) => crate::cuda::Float::Bf16,
                };
                Ok(Self::Cuda(crate::cuda::Device::open(ordinal)?, float))
            }
        }
    }
}
