//! What can go wrong on a device.

use std::fmt;

use harness_kernels::KernelError;

/// What an operation of a device returns.
pub type Result<T, E = BackendError> = std::result::Result<T, E>;

/// Why an operation of a device failed; whatever it was to write is undefined then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// There is no more memory.
    #[error("out of memory: {0}")]
    OutOfMemory(OutOfMemory),
    /// A GPU failed, or has no more memory.
    #[error(transparent)]
    Device(Box<KernelError>),
}

impl BackendError {
    /// How much memory was missing, if that is what went wrong.
    pub fn out_of_memory(&self) -> Option<OutOfMemory> {
        match self {
            Self::OutOfMemory(missing) => Some(*missing),
            Self::Device(error) => match **error {
                KernelError::DeviceMemory { asked, used, .. } => Some(OutOfMemory { asked, used }),
                _ => None,
            },
        }
    }
}

impl From<OutOfMemory> for BackendError {
    fn from(missing: OutOfMemory) -> Self {
        Self::OutOfMemory(missing)
    }
}

impl From<KernelError> for BackendError {
    fn from(error: KernelError) -> Self {
        Self::Device(Box::new(error))
    }
}

/// Memory that was asked for and is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Bytes that were asked for.
    pub asked: usize,
    /// Bytes of buffers in use.
    pub used: usize,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let (asked, used) = (mib(self.asked), mib(self.used));
        write!(f, "{asked:.1} MiB more are needed beside {used:.1} MiB of buffers in use")
    }
}
