//! The operations of all ranks on GPUs, through NCCL; what is small goes over the control connection.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use harness_engine::{
    EngineError,
    cuda::{Communicator, Device, MeetingPoint, View},
};

use super::{CudaBackend, CudaBuf};
use crate::{
    TrainingError,
    parallel::{Bytes, Collective, Partition},
};

/// How often it is asked whether another rank is gone.
const ASKED: Duration = Duration::from_millis(200);

/// A rank's place among GPUs.
pub(super) struct Nccl {
    link: Link,
    control: Arc<dyn Collective<CudaBackend>>,
    /// Elements whose sums are under way.
    begun: Mutex<Vec<Range<usize>>>,
}

/// A communicator, and a thread that breaks its work off when another rank is gone: NCCL itself would wait without end.
pub(super) struct Link {
    communicator: Arc<Communicator>,
    watch: Option<(Sender<()>, thread::JoinHandle<()>)>,
}

pub(super) fn failed(error: EngineError) -> TrainingError {
    TrainingError::Engine(Box::new(error))
}

impl Link {
    /// Meets the other ranks; `tell` gives everyone what all ranks give, and `failure` says which rank is gone.
    pub(super) fn meet(
        device: &Device,
        (rank, world): (usize, usize),
        tell: impl FnOnce(Bytes) -> Result<Vec<Bytes>, TrainingError>,
        failure: impl Fn() -> Option<(usize, String)> + Send + 'static,
    ) -> Result<Self, TrainingError> {
        let point: Bytes = match rank {
            0 => Arc::from(Communicator::meeting_point(device).map_err(failed)?.as_slice()),
            _ => Arc::from([].as_slice()),
        };
        let all = tell(point)?;
        let point: MeetingPoint = all[0].as_ref().try_into().map_err(|_| TrainingError::Peer {
            rank: 0,
            message: format!("sent {} bytes where 128 were expected; do all ranks run the same build?", all[0].len()),
        })?;
        let communicator = Arc::new(Communicator::meet(device, &point, rank, world).map_err(failed)?);
        let (stop, stopped) = mpsc::channel();
        let (watched, device) = (Arc::clone(&communicator), device.clone());
        let thread = thread::spawn(move || {
            while stopped.recv_timeout(ASKED) == Err(RecvTimeoutError::Timeout) {
                if let Some((rank, message)) = failure() {
                    device.spoil(format!("rank {rank}: {message}"));
                    return watched.abort();
                }
            }
        });
        Ok(Self { communicator, watch: Some((stop, thread)) })
    }

    pub(super) fn communicator(&self) -> &Communicator {
        &self.communicator
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.watch.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

impl Nccl {
    /// Meets the other ranks, which are told where over the control connection.
    pub(super) fn meet(
        backend: &CudaBackend,
        control: Arc<dyn Collective<CudaBackend>>,
    ) -> Result<Self, TrainingError> {
        let watched = Arc::clone(&control);
        let place = (control.rank(), control.world());
        let tell = |point| control.all_gather_bytes(point);
        let link = Link::meet(backend.device(), place, tell, move || watched.failure())?;
        Ok(Self { link, control, begun: Mutex::default() })
    }

    fn part<'a>(buf: &'a CudaBuf, range: &Range<usize>) -> View<'a> {
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
        // On one host the sum of everything costs less than the unevenness of slices, and it has the same bits as without
        // sharding.
        self.all_reduce_sum(backend, buf, parts)
    }

    fn all_reduce_sum(&self, _: &CudaBackend, buf: &mut CudaBuf, _: &Partition) -> Result<(), TrainingError> {
        buf.changed();
        let mut begun = std::mem::take(&mut *self.begun.lock().unwrap_or_else(PoisonError::into_inner));
        begun.sort_by_key(|range| range.start);
        let len = buf.data().len();
        begun.push(len..len);
        let mut from = 0;
        for range in begun {
            if from < range.start {
                self.link.communicator().begin_sum(Self::part(buf, &(from..range.start))).map_err(failed)?;
            }
            from = range.end;
        }
        self.link.communicator().wait().map_err(failed)
    }

    fn begin_sum(&self, _: &CudaBackend, buf: &mut CudaBuf, range: Range<usize>) -> Result<(), TrainingError> {
        buf.changed();
        self.link.communicator().begin_sum(Self::part(buf, &range)).map_err(failed)?;
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).push(range);
        Ok(())
    }

    fn all_gather(&self, _: &CudaBackend, buf: &mut CudaBuf, parts: &Partition) -> Result<(), TrainingError> {
        buf.changed();
        let parts: Vec<View<'_>> = parts.slices().map(|range| Self::part(buf, &range)).collect();
        self.link.communicator().gather(&parts).map_err(failed)
    }

    fn all_gather_bytes(&self, mine: Bytes) -> Result<Vec<Bytes>, TrainingError> {
        self.control.all_gather_bytes(mine)
    }

    fn abort(&self, message: &str) {
        self.control.abort(message);
    }

    fn failure(&self) -> Option<(usize, String)> {
        self.control.failure()
    }
}
