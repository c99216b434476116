//! How a device takes part in a run of several ranks.

use std::sync::Arc;

use harness_decoder::LayerWeights;

use super::{Collective, Exchange, Sharded};
use crate::{
    TrainingError,
    backend::{Backend, CpuBackend},
    block::WeightSource,
};

/// A device whose buffers ranks exchange, and whose frozen blocks they share.
pub trait Distribute: Backend + Clone {
    /// How ranks exchange buffers of this device; `control` does it through host memory.
    ///
    /// # Errors
    /// If the devices cannot be connected.
    fn connect(&self, control: Arc<dyn Collective<Self>>) -> Result<Arc<dyn Collective<Self>>, TrainingError> {
        Ok(control)
    }
    /// Keeps this rank's part of frozen blocks, which are gathered when they are needed; `backward` says of each whether
    /// gradients flow through it. `exchange` is used for nothing else.
    ///
    /// # Errors
    /// If the devices cannot be connected, or there is not enough memory.
    fn shard(
        &self,
        layers: &[LayerWeights],
        backward: &[bool],
        exchange: Box<dyn Exchange>,
    ) -> Result<Box<dyn WeightSource<Self>>, TrainingError> {
        Ok(Box::new(Sharded::new(self, layers, backward, exchange)))
    }
    /// Runs something that uses the backend, as one of these ranks; the others hear of a failure of the device.
    ///
    /// # Errors
    /// What `f` returns; another rank's failure, if this one came of it.
    fn guard<T>(
        ranks: &dyn Collective<Self>,
        f: impl FnOnce() -> Result<T, TrainingError>,
    ) -> Result<T, TrainingError> {
        f().inspect_err(|error| {
            if matches!(error, TrainingError::Backend(_)) {
                ranks.abort(&error.to_string());
            }
        })
    }
}

/// Everything goes through host memory.
impl Distribute for CpuBackend {}
