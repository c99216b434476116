//! The operations of all ranks on GPUs, through NCCL; what is small goes over the control connection.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use harness_kernels::{
    KernelError,
    cuda::{Communicator, Copied, Device, DeviceBuffer, Float, MeetingPoint, View},
};

use crate::{
    TrainingError,
    backend::{CudaBackend, CudaBuf, Exact},
    parallel::{Bytes, Collective, Gathered, Partition, Unit},
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

impl Link {
    /// Meets the other ranks; `tell` gives everyone what all ranks give, and `failure` says which rank is gone.
    pub(super) fn meet(
        device: &Device,
        (rank, world): (usize, usize),
        tell: impl FnOnce(Bytes) -> Result<Vec<Bytes>, TrainingError>,
        failure: impl Fn() -> Option<(usize, String)> + Send + 'static,
    ) -> Result<Self, TrainingError> {
        let point: Bytes = match rank {
            0 => Arc::from(Communicator::meeting_point(device)?.as_slice()),
            _ => Arc::from([].as_slice()),
        };
        let all = tell(point)?;
        let point: MeetingPoint = all[0].as_ref().try_into().map_err(|_| TrainingError::Peer {
            rank: 0,
            message: format!("sent {} bytes where 128 were expected; do all ranks run the same build?", all[0].len()),
        })?;
        let communicator = Arc::new(Communicator::meet(device, &point, rank, world)?);
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

    fn begun(&self) -> MutexGuard<'_, Vec<Range<usize>>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn part<'a>(buf: &'a CudaBuf, range: &Range<usize>) -> View<'a> {
        run(buf.data(), range.start, range.len())
    }

    /// The runs of a buffer whose sums have not begun; all of them have afterwards.
    fn rest(&self, len: usize) -> Vec<Range<usize>> {
        let mut begun = std::mem::take(&mut *self.begun());
        begun.push(len..len);
        begun.sort_by_key(|range| range.start);
        let mut from = 0;
        let gaps = begun.into_iter().map(|range| std::mem::replace(&mut from, range.end)..range.start);
        gaps.filter(|gap| !gap.is_empty()).collect()
    }

    /// Begins to sum a range into its owners' slices.
    fn begin(&self, buf: &CudaBuf, range: &Range<usize>, parts: &Partition) -> Result<(), TrainingError> {
        buf.changed();
        let runs: Vec<(usize, View<'_>)> =
            owned(parts, range).map(|(owner, run)| (owner, Self::part(buf, &run))).collect();
        Ok(self.link.communicator().begin_reduce(&runs)?)
    }
}

fn run(buffer: &DeviceBuffer, at: usize, len: usize) -> View<'_> {
    buffer.view(at, 1, len, len.max(1))
}

/// What each rank owns of a range, where it owns something.
fn owned(parts: &Partition, range: &Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
    let (start, end) = (range.start, range.end);
    let runs = parts.slices().map(move |slice| slice.start.max(start)..slice.end.min(end));
    runs.enumerate().filter(|(_, run)| !run.is_empty())
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
        for range in self.rest(buf.data().len()) {
            self.link.communicator().begin_sum(Self::part(buf, &range))?;
        }
        Ok(self.link.communicator().wait()?)
    }

    fn begin_sum(&self, _: &CudaBackend, buf: &mut CudaBuf, range: Range<usize>) -> Result<(), TrainingError> {
        buf.changed();
        self.link.communicator().begin_sum(Self::part(buf, &range))?;
        self.begun().push(range);
        Ok(())
    }

    fn runs_beside(&self) -> bool {
        true
    }

    fn begin_reduce(
        &self,
        _: &CudaBackend,
        buf: &mut CudaBuf,
        range: Range<usize>,
        parts: &Partition,
    ) -> Result<bool, TrainingError> {
        self.begin(buf, &range, parts)?;
        self.begun().push(range);
        Ok(true)
    }

    fn end_reduce(&self, _: &CudaBackend, buf: &mut CudaBuf, parts: &Partition) -> Result<(), TrainingError> {
        for range in self.rest(buf.data().len()) {
            self.begin(buf, &range, parts)?;
        }
        Ok(self.link.communicator().wait()?)
    }

    fn gather(
        &self,
        backend: &CudaBackend,
        own: &CudaBuf,
        unit: &Unit,
    ) -> Result<Gathered<CudaBackend>, TrainingError> {
        let (device, float, communicator) = (backend.device(), backend.float(), self.link.communicator());
        let (mine, rank) = (unit.mine(), self.rank());
        let whole = device.alloc(unit.len(), float)?;
        let vectors = if float == Float::F32 { &[][..] } else { unit.vectors() };
        let exact = device.alloc(vectors.iter().map(Range::len).sum(), Float::F32)?;
        let gather = |narrow: &DeviceBuffer| -> Result<(), KernelError> {
            let place = |run: &Range<usize>| unit.at() + run.start - mine.start;
            let mut copies = vec![];
            for (owner, run) in owned(unit.parts(), &(0..unit.len())) {
                let from = (owner == rank).then(|| self::run(narrow, place(&run), run.len()));
                copies.push(Copied { owner, from, to: self::run(&whole, run.start, run.len()) });
            }
            let mut first = 0;
            for vector in vectors {
                for (owner, run) in owned(unit.parts(), vector) {
                    let from = (owner == rank).then(|| self::run(own.data(), place(&run), run.len()));
                    let to = self::run(&exact, first + run.start - vector.start, run.len());
                    copies.push(Copied { owner, from, to });
                }
                first += vector.len();
            }
            communicator.begin_copies(&copies)
        };
        own.in_type(device, float, gather)?;
        let there = communicator.side().moment()?;
        communicator.side().mark(&there)?;
        let exact = (!vectors.is_empty()).then(|| Exact { runs: vectors.to_vec(), data: exact });
        let whole = CudaBuf::new(whole).with_exact(exact);
        Ok(Gathered::new(whole, Some(Box::new(move || Ok(there.wait()?)))))
    }

    fn all_gather(&self, _: &CudaBackend, buf: &mut CudaBuf, parts: &Partition) -> Result<(), TrainingError> {
        buf.changed();
        let parts: Vec<View<'_>> = parts.slices().map(|range| Self::part(buf, &range)).collect();
        Ok(self.link.communicator().gather(&parts)?)
    }

    fn all_gather_bytes(&self, mine: Bytes) -> Result<Vec<Bytes>, TrainingError> {
        self.control.all_gather_bytes(mine)
    }

    fn allow(&self, bytes: u64) -> Result<(), TrainingError> {
        self.control.allow(bytes)
    }

    fn gather_bytes(&self, mine: Bytes) -> Result<Vec<Bytes>, TrainingError> {
        self.control.gather_bytes(mine)
    }

    fn abort(&self, message: &str) {
        self.control.abort(message);
    }

    fn failure(&self) -> Option<(usize, String)> {
        self.control.failure()
    }
}
