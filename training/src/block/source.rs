//! Where frozen blocks come from.

use std::sync::Arc;

use super::frozen::FrozenLayer;
use crate::{TrainingError, backend::Backend};

/// Which way the computation goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// First block to last.
    Forward,
    /// Last block to first.
    Backward,
}

/// Gives the frozen weights of one block at a time: all resident, widened from a quantised form, or gathered from other
/// ranks. A block is released when the last handle is dropped.
pub trait WeightSource<B: Backend>: Send + Sync {
    /// The weights of a block for one pass.
    ///
    /// # Errors
    /// If they cannot be had, e.g. because another rank is gone.
    fn acquire(&self, layer: usize, pass: Pass) -> Result<Arc<FrozenLayer<B>>, TrainingError>;
    /// Says which block comes next; a source may begin to prepare it.
    ///
    /// # Errors
    /// As those of [`WeightSource::acquire`].
    fn prefetch(&self, _: usize, _: Pass) -> Result<(), TrainingError> {
        Ok(())
    }
}

/// All blocks stay on the device.
#[derive(Debug)]
pub struct Resident<B: Backend>(Vec<Arc<FrozenLayer<B>>>);

impl<B: Backend> Resident<B> {
    /// The source of these blocks.
    pub fn new(layers: Vec<Arc<FrozenLayer<B>>>) -> Self {
        Self(layers)
    }
}

impl<B: Backend> WeightSource<B> for Resident<B> {
    fn acquire(&self, layer: usize, _: Pass) -> Result<Arc<FrozenLayer<B>>, TrainingError> {
        Ok(self.0[layer].clone())
    }
}
