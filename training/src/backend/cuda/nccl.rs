//! The operations of all ranks on GPUs, through NCCL; what is small goes over the control connection.

use std::sync::Arc;

use harness_engine::{
    EngineError,
    cuda::{Communicator, MeetingPoint, View},
};

use super::{CudaBackend, CudaBuf};
use crate::{
    TrainingError,
    parallel::{Bytes, Collective, Partition},
};

/// A rank's place among GPUs.
pub(super) struct Nccl {
    communicator: Communicator,
    control: Arc<dyn Collective<CudaBackend>>,
}

fn failed(error: EngineError) -> TrainingError {
    TrainingError::Engine(Box::new(error))
}

impl Nccl {
    /// Meets the other ranks, which are told where over the control connection.
    pub(super) fn meet(
        backend: &CudaBackend,
        control: Arc<dyn Collective<CudaBackend>>,
    ) -> Result<Self, TrainingError> {
        let device = backend.device();
        let point: Bytes = match control.rank() {
            0 => Arc::from(Communicator::meeting_point(device).map_err(failed)?.as_slice()),
            _ => Arc::from([].as_slice()),
        };
        let all = control.all_gather_bytes(point)?;
        let point: MeetingPoint = all[0].as_ref().try_into().map_err(|_| TrainingError::Peer {
            rank: 0,
            message: format!("sent {} bytes where 128 were expected; do all ranks run the same build?", all[0].len()),
        })?;
        let communicator = Communicator::meet(device, &point, control.rank(), control.world()).map_err(failed)?;
        Ok(Self { communicator, control })
    }

    fn part<'a>(buf: &'a CudaBuf, range: &std::ops::Range<usize>) -> View<'a> {
        buf.matrix(range.start, 1, range.len(), range.len().max(1), false)
    }
}

impl Collective<CudaBackend> for Nccl {
    fn rank(&self) -> usize {
        self.control.rank()
    }

    fn world(&self) -> usize {
        self.control.world()
    }

    fn reduce_scatter_sum(
        &self,
        backend: &CudaBackend,
        buf: &mut CudaBuf,
        parts: &Partition,
    ) -> Result<(), TrainingError> {
        // On one host the sum of everything costs less than the unevenness of slices.
        self.all_reduce_sum(backend, buf, parts)
    }

    fn all_reduce_sum(&self, _: &CudaBackend, buf: &mut CudaBuf, _: &Partition) -> Result<(), TrainingError> {
        buf.changed();
        self.communicator.all_reduce_sum(buf.data().row()).map_err(failed)
    }

    fn all_gather(&self, _: &CudaBackend, buf: &mut CudaBuf, parts: &Partition) -> Result<(), TrainingError> {
        buf.changed();
        let parts: Vec<View<'_>> = parts.slices().map(|range| Self::part(buf, &range)).collect();
        self.communicator.gather(&parts).map_err(failed)
    }

    fn all_gather_bytes(&self, mine: Bytes) -> Result<Vec<Bytes>, TrainingError> {
        self.control.all_gather_bytes(mine)
    }

    fn abort(&self, message: &str) {
        self.control.abort(message);
    }
}
