//! What training needs of a device, apart from where it runs.
//!
//! [`Memory`] holds buffers, [`Kernels`] compute a block, [`Updates`] an optimizer; a [`Backend`] is all three, and
//! [`crate::block`] and [`crate::model`] own the formulas. How several devices share a run is
//! [`crate::parallel::Distribute`]. Buffers are flat runs of floats; matrices are views into them with a row pitch, so that
//! merged projections (q, k and v in one product) need no copies.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod dropout;
mod kernels;
mod memory;
mod updates;
mod views;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

pub use cpu::{CpuBackend, CpuBuf};
#[cfg(feature = "nccl")]
pub(crate) use cuda::Exact;
#[cfg(feature = "cuda")]
pub use cuda::{CudaBackend, CudaBuf, CudaInts, DeviceFailure};
pub use dropout::DropoutKey;
pub(crate) use dropout::mix64;
pub use kernels::{AttentionShape, Kernels, Weight};
pub use memory::{Memory, OutOfMemory};
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

/// The result of `f`; what is said of memory, in words, if it ran out.
pub(crate) fn with_memory<B: Backend, T>(f: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| match B::out_of_memory(&*payload) {
        Some(message) => message,
        None => resume_unwind(payload),
    })
}
