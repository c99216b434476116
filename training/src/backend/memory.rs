//! The memory of a device.

use std::fs;

use harness_kernels::HostTensor;

use super::{
    error::Result,
    views::{Span, SpanMut},
};

/// Bytes that could be taken from the host without swapping, as the system estimates it; `None` where it does not say.
fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// What a device holds, and how it gets there.
///
/// # Errors
/// Operations fail if there is no memory for what they make, or if the device has failed. What a failed operation was to
/// write is undefined; all other buffers stay as they are.
pub trait Memory: Send + Sync + 'static {
    /// A flat run of floats on the device.
    type Buf: Send + Sync + std::fmt::Debug;
    /// A flat run of `u32` on the device.
    type Ints: Send + Sync + std::fmt::Debug;
    /// A frozen matrix `[out, in]`, prepared for products.
    type Frozen: Send + Sync + std::fmt::Debug;
    /// Whether the device has memory of its own, apart from the host's.
    const OWN_MEMORY: bool = false;

    /// A buffer whose contents are unspecified.
    fn alloc(&self, len: usize) -> Result<Self::Buf>;
    /// A buffer whose contents are unspecified, for sums that are kept in f32 whatever activations are kept in.
    fn alloc_statistics(&self, len: usize) -> Result<Self::Buf> {
        self.alloc(len)
    }
    /// A buffer of zeros.
    fn zeros(&self, len: usize) -> Result<Self::Buf>;
    /// A buffer with these contents.
    fn upload(&self, data: &[f32]) -> Result<Self::Buf>;
    /// Overwrites a part of a buffer.
    fn write(&self, data: &[f32], to: SpanMut<'_, Self::Buf>) -> Result<()>;
    /// The contents of a part of a buffer.
    fn read(&self, from: Span<'_, Self::Buf>) -> Result<Vec<f32>>;
    /// Another buffer with the same contents.
    fn duplicate(&self, buf: &Self::Buf) -> Result<Self::Buf>;
    /// Integers on the device.
    fn ints(&self, data: &[u32]) -> Result<Self::Ints>;
    /// A frozen matrix whose rows are those of the given ones, one after another; `backward`: whether gradients will
    /// flow through it.
    fn frozen(&self, parts: &[&HostTensor], backward: bool) -> Result<Self::Frozen>;
    /// Elements of activations that fit into the free memory.
    fn room(&self) -> usize {
        available().map_or(usize::MAX, |bytes| bytes as usize / size_of::<f32>())
    }
    /// The most bytes that were ever held at once: frozen matrices and buffers in use.
    fn peak_bytes(&self) -> usize;
    /// Gives memory that is kept for later back to the system.
    fn release(&self) {}
    /// Fills with zeros.
    fn clear(&self, buf: &mut Self::Buf) -> Result<()>;
}
