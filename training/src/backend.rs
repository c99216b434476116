//! What training needs of a device, apart from where it runs.
//!
//! [`Memory`] holds buffers, [`Kernels`] compute a block, [`Updates`] an optimizer; a [`Backend`] is all three, and
//! [`crate::block`] and [`crate::model`] own the formulas. Whatever can fail returns a [`Result`]. How several devices share a run is
//! [`crate::parallel::Distribute`]. Buffers are flat runs of floats; matrices are views into them with a row pitch, so that
//! merged projections (q, k and v in one product) need no copies.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod dropout;
mod error;
mod kernels;
mod memory;
mod updates;
mod views;

pub use cpu::{CpuBackend, CpuBuf};
#[cfg(feature = "nccl")]
pub(crate) use cuda::Exact;
#[cfg(feature = "cuda")]
pub use cuda::{CudaBackend, CudaBuf, CudaInts};
pub use dropout::DropoutKey;
pub(crate) use dropout::mix64;
pub use error::{BackendError, OutOfMemory, Result};
pub use kernels::{
    Activation, AttentionScores, AttentionShape, FrozenNorm, HeadRuns, Kernels, NormKind, RotaryShape, Weight,
};
pub use memory::Memory;
pub use updates::{AdamWStep, Updates};
pub use views::{Mat, MatMut, Span, SpanMut};

/// A device that a decoder is trained on.
pub trait Backend: Kernels + Updates {
    /// The type that is computed in, by its name in a run's record.
    fn compute(&self) -> &'static str {
        "float32"
    }
    /// What is computed with, in words.
    fn describe(&self) -> String {
        "f32".to_owned()
    }
}
