//! Where a model is computed, and in which type.

use std::{fmt, str::FromStr};

use harness_kernels::KernelError;

use crate::schedule::Limits;

/// A device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Placement {
    /// The processor.
    #[default]
    Cpu,
    /// The NVIDIA GPU with this number, in a program built with the feature `cuda`.
    Cuda(usize),
}

/// The type that weights and activations are held in; sums are f32 or wider with both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ComputeType {
    /// 32 bits.
    F32,
    /// bfloat16; on a GPU only.
    Bf16,
}

impl FromStr for Placement {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("unknown device {text:?}; expected cpu, cuda, or cuda:N for the GPU with number N");
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", number)) => number.parse().map(Self::Cuda).map_err(|_| error()),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl FromStr for ComputeType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" | "fp32" | "float32" => Ok(Self::F32),
            "bf16" | "bfloat16" => Ok(Self::Bf16),
            _ => Err(format!("unknown type {text:?}; expected f32 or bf16")),
        }
    }
}

impl Placement {
    /// Whether this program can use the device here.
    ///
    /// # Errors
    /// If it was built without support for GPUs, or driver, GPU or libraries are missing or too old.
    pub fn check(self) -> Result<(), KernelError> {
        match self {
            Self::Cpu => Ok(()),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(ordinal) => Err(KernelError::without_cuda(ordinal)),
            #[cfg(feature = "cuda")]
            Self::Cuda(ordinal) => harness_kernels::cuda::Gpu::find(ordinal).map(drop),
        }
    }

    /// Whether several ranks can compute together on such devices, `here` of them on this host: from this device on, one
    /// each.
    ///
    /// # Errors
    /// As [`Placement::check`]; if NCCL is missing or too old, this program was built without it, or there are fewer GPUs.
    #[cfg_attr(not(feature = "nccl"), allow(unused_variables, reason = "such ranks are refused"))]
    pub fn check_ranks(self, here: usize) -> Result<(), KernelError> {
        match self {
            Self::Cpu => Ok(()),
            #[cfg(not(feature = "nccl"))]
            Self::Cuda(ordinal) => Err(KernelError::without_nccl(ordinal)),
            #[cfg(feature = "nccl")]
            Self::Cuda(ordinal) => {
                self.check()?;
                let (device, left) =
                    (self.to_string(), harness_kernels::cuda::Device::count()?.saturating_sub(ordinal));
                harness_kernels::cuda::Communicator::present(&device)?;
                if here <= left {
                    return Ok(());
                }
                let there = if left == 1 { "there is 1".to_owned() } else { format!("there are {left}") };
                let reason =
                    format!("{here} ranks need a GPU each, and from here on {there} on this host; use --nproc {left}");
                Err(KernelError::Device { device, reason })
            }
        }
    }

    /// Bounds that suit the device: those of [`Limits::default`] for the processor; 16,384 tokens a pass, keys and values in
    /// what is free of the memory and 256 sequences generated together for a GPU.
    pub fn limits(self) -> Limits {
        match self {
            Self::Cpu => Limits::default(),
            Self::Cuda(ordinal) => {
                Limits { batch_tokens: 16 << 10, kv_bytes: gpu_memory(ordinal), batch_sequences: 256 }
            }
        }
    }
}

/// Bytes of a GPU's memory; 64 GiB where there is none, as whoever uses it is told.
#[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "there is none"))]
fn gpu_memory(ordinal: usize) -> usize {
    #[cfg(feature = "cuda")]
    if let Ok(gpu) = harness_kernels::cuda::Gpu::find(ordinal) {
        return gpu.memory();
    }
    64 << 30
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_by_name() {
        let read = |text: &str| text.parse::<Placement>();
        assert_eq!(
            (read("cpu"), read("cuda"), read("cuda:3")),
            (Ok(Placement::Cpu), Ok(Placement::Cuda(0)), Ok(Placement::Cuda(3)))
        );
        assert_eq!(read("cuda:3").unwrap().to_string(), "cuda:3");
        for text in ["gpu", "cuda:", "cuda:x", "cpu:1", ""] {
            assert!(read(text).unwrap_err().contains("expected cpu, cuda"), "{text}");
        }
        assert!(Placement::Cpu.check().is_ok());
        assert_eq!("bf16".parse(), Ok(ComputeType::Bf16));
        assert!("fp16".parse::<ComputeType>().unwrap_err().contains("bf16"));
    }

    #[cfg(not(feature = "nccl"))]
    #[test]
    fn ranks_need_a_program_with_nccl() {
        assert!(Placement::Cpu.check_ranks(4).is_ok());
        let error = Placement::Cuda(0).check_ranks(2).unwrap_err().to_string();
        assert!(error.contains("without NCCL") && error.contains("--features nccl"), "{error}");
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_program_without_support_says_how_to_get_it() {
        let error = Placement::Cuda(1).check().unwrap_err().to_string();
        assert!(
            error.contains("cuda:1") && error.contains("--features cuda") && error.contains("--device cpu"),
            "{error}"
        );
    }
}
