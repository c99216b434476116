//! Why a device cannot compute.

/// Why a device cannot be used, or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A GPU cannot be used, or failed.
    #[error("{device}: {reason}")]
    Device {
        /// The device as it is named on the command line, e.g. `cuda:0`.
        device: String,
        /// What happened and what to do.
        reason: String,
    },
    /// A GPU's memory is used up.
    #[error(
        "{device}: out of memory: {:.2} GiB more are needed beside {:.2} GiB in use; use smaller batches or shorter rows, \
         keep less for the backward pass (gradient_checkpointing = \"layer\"), quantise the base (nf4), or lower kv_bytes \
         and batch_tokens",
        gib(*asked),
        gib(*used)
    )]
    DeviceMemory {
        /// The device as it is named on the command line.
        device: String,
        /// Bytes that were asked for.
        asked: usize,
        /// Bytes of buffers in use.
        used: usize,
    },
}

impl KernelError {
    /// A GPU is asked of a program that cannot use any.
    #[cfg(not(feature = "cuda"))]
    pub fn without_cuda(ordinal: usize) -> Self {
        let reason = "this program was built without support for GPUs; build it with `cargo build --release --features \
                      cuda`, or use --device cpu";
        Self::Device { device: format!("cuda:{ordinal}"), reason: reason.to_owned() }
    }

    /// Several GPUs are asked of a program that cannot use them together.
    #[cfg(not(feature = "nccl"))]
    pub fn without_nccl(ordinal: usize) -> Self {
        let reason = "this program was built without NCCL, through which several GPUs compute together; build it with \
                      `cargo build --release --features nccl`, or use one rank, or --device cpu";
        Self::Device { device: format!("cuda:{ordinal}"), reason: reason.to_owned() }
    }
}

fn gib(bytes: usize) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}
