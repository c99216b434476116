//! How GPUs take part in a run of several ranks.

#[cfg(feature = "nccl")]
mod nccl;
#[cfg(feature = "nccl")]
mod sharded;

#[cfg(feature = "nccl")]
use std::sync::Arc;
use std::{thread, time::Duration};

#[cfg(feature = "nccl")]
use harness_decoder::LayerWeights;

#[cfg(feature = "nccl")]
use super::exchange::Exchange;
use super::{collective::Collective, distribute::Distribute};
#[cfg(feature = "nccl")]
use crate::block::WeightSource;
use crate::{TrainingError, backend::CudaBackend};

/// Through NCCL, where the program is built with it; else through host memory.
impl Distribute for CudaBackend {
    #[cfg(feature = "nccl")]
    fn connect(&self, control: Arc<dyn Collective<Self>>) -> Result<Arc<dyn Collective<Self>>, TrainingError> {
        if control.world() == 1 {
            return Ok(control);
        }
        Ok(Arc::new(nccl::Nccl::meet(self, control)?))
    }

    #[cfg(feature = "nccl")]
    fn shard(
        &self,
        layers: &[LayerWeights],
        backward: &[bool],
        exchange: Box<dyn Exchange>,
    ) -> Result<Box<dyn WeightSource<Self>>, TrainingError> {
        Ok(Box::new(sharded::Gathered::new(self, layers, backward, Arc::from(exchange))?))
    }

    fn guard<T>(
        ranks: &dyn Collective<Self>,
        f: impl FnOnce() -> Result<T, TrainingError>,
    ) -> Result<T, TrainingError> {
        use TrainingError::{Launch, Mismatch, Peer};
        let error = match f() {
            Ok(value) => return Ok(value),
            // All ranks have these, or one has them from another.
            Err(error @ (Peer { .. } | Mismatch { .. } | Launch { .. })) => return Err(error),
            Err(error) => error,
        };
        // A GPU can notice that another is gone before the control connection does.
        for _ in 0..if ranks.world() > 1 { 25 } else { 0 } {
            if let Some((rank, message)) = ranks.failure() {
                return Err(Peer { rank, message });
            }
            thread::sleep(Duration::from_millis(20));
        }
        ranks.abort(&error.to_string());
        Err(error)
    }
}
