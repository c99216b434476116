//! Where a model is computed.

use harness_kernels::KernelError;

use crate::{ComputeType, Placement};

/// What a model is computed on.
pub(super) enum ModelDevice {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda(harness_kernels::cuda::Device, harness_kernels::cuda::Float),
}

impl ModelDevice {
    pub(super) fn open(placement: Placement, compute: Option<ComputeType>) -> Result<Self, KernelError> {
        match placement {
            Placement::Cpu if compute == Some(ComputeType::Bf16) => Err(KernelError::Device {
                device: "cpu".to_owned(),
                reason:
                    "the processor computes in f32 (weights may be stored in 16 bits); leave the type out, or use a \
                         GPU"
                    .to_owned(),
            }),
            Placement::Cpu => Ok(Self::Cpu),
            #[cfg(not(feature = "cuda"))]
            Placement::Cuda(ordinal) => Err(KernelError::without_cuda(ordinal)),
            #[cfg(feature = "cuda")]
            Placement::Cuda(ordinal) => {
                let float = match compute {
                    Some(ComputeType::F32) => harness_kernels::cuda::Float::F32,
                    None | Some(ComputeType::Bf16) => harness_kernels::cuda::Float::Bf16,
                };
                Ok(Self::Cuda(harness_kernels::cuda::Device::open(ordinal)?, float))
            }
        }
    }
}
