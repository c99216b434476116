//! Buffers of activations.

use std::sync::Arc;

use crate::backend::{Backend, Result};

/// The buffer itself where nobody else holds it, else a copy.
pub(super) fn own<B: Backend>(backend: &B, held: Arc<B::Buf>) -> Result<B::Buf> {
    Arc::try_unwrap(held).or_else(|held| backend.duplicate(&held))
}

/// Activations that are all 0.
pub(super) fn zeroed<B: Backend>(backend: &B, len: usize) -> Result<B::Buf> {
    let mut buf = backend.alloc(len)?;
    backend.clear(&mut buf)?;
    Ok(buf)
}
