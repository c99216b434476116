//! Frozen blocks of which every rank holds a part (FSDP): gathered when they are needed, dropped afterwards.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Sender},
    },
    thread,
};

use harness_decoder::{LayerWeights, packed::PackedLayer};

use super::exchange::{Bytes, Exchange};
use crate::{
    TrainingError,
    backend::Backend,
    block::{FrozenLayer, Pass, WeightSource},
};

/// The parts of all blocks that this rank holds, and a thread that gathers whole ones ahead of their use.
///
/// Blocks are asked for and announced in the same order on all ranks, because all compute the same model on equally many
/// micro-batches. The gathering has connections of its own, so that it does not get between other operations.
pub struct Sharded<B: Backend> {
    shared: Arc<Shared<B>>,
    requests: Mutex<Option<Sender<usize>>>,
    worker: Mutex<Option<thread::JoinHandle<()>>>,
}

struct Shared<B: Backend> {
    rank: usize,
    state: Mutex<State<B>>,
    ready: Condvar,
}

/// What has been asked for and what is there.
struct State<B: Backend> {
    /// Announced and not yet fetched, in order.
    pending: Vec<usize>,
    /// Gathered and not yet fetched.
    gathered: Vec<(usize, Arc<FrozenLayer<B>>)>,
    /// The block fetched last, which the next pass may begin with.
    last: Option<(usize, Arc<FrozenLayer<B>>)>,
    /// Why there will be no more.
    failed: Option<Failure>,
}

/// Why no more blocks are gathered.
enum Failure {
    /// Not yet told.
    New(TrainingError),
    /// Told already: the rank that failed, and how.
    Told(usize, String),
}

impl Failure {
    /// The error itself the first time; after that, what it said.
    fn tell(&mut self, rank: usize) -> TrainingError {
        let (rank, message) = match self {
            Self::New(TrainingError::Peer { rank, message }) => (*rank, message.clone()),
            Self::New(error) => (rank, error.to_string()),
            Self::Told(rank, message) => (*rank, message.clone()),
        };
        match std::mem::replace(self, Self::Told(rank, message.clone())) {
            Self::New(error) => error,
            Self::Told(..) => TrainingError::Peer { rank, message },
        }
    }
}

impl<B: Backend + Clone> Sharded<B> {
    /// Keeps this rank's part of the blocks; `backward` says of each whether gradients flow through it.
    pub fn new(backend: &B, layers: &[LayerWeights], backward: &[bool], exchange: impl Exchange + 'static) -> Self {
        let (rank, world) = (exchange.rank(), exchange.world());
        let mut shapes = Vec::with_capacity(layers.len());
        let mut shards: Vec<Bytes> = Vec::with_capacity(layers.len());
        let mut longest = 0;
        for layer in layers {
            let (shape, bytes) = PackedLayer::split(layer);
            let part = bytes.len().div_ceil(world);
            longest = longest.max(part);
            let range = (rank * part).min(bytes.len())..((rank + 1) * part).min(bytes.len());
            shards.push(Arc::from(&bytes[range]));
            shapes.push(shape);
        }
        let state = State { pending: vec![], gathered: vec![], last: None, failed: None };
        let shared = Arc::new(Shared { rank, state: Mutex::new(state), ready: Condvar::new() });
        let (sender, requests) = mpsc::channel::<usize>();
        let (worker_shared, backend, backward) = (Arc::clone(&shared), backend.clone(), backward.to_vec());
        let worker = thread::spawn(move || {
            let gather = |layer: usize| -> Result<FrozenLayer<B>, TrainingError> {
                let parts = exchange.all_to_all(vec![Arc::clone(&shards[layer]); world])?;
                let weights = shapes[layer].join(&parts.concat())?;
                Ok(FrozenLayer::new(&backend, &weights, backward[layer])?)
            };
            // The first rank has the longest part of a block, and all ranks have the same blocks.
            let mut allowed = exchange.allow(longest as u64);
            for layer in requests {
                let result = std::mem::replace(&mut allowed, Ok(())).and_then(|()| gather(layer));
                let mut state = worker_shared.lock();
                match result {
                    Ok(frozen) => state.gathered.push((layer, Arc::new(frozen))),
                    Err(error) => state.failed = Some(Failure::New(error)),
                }
                let failed = state.failed.is_some();
                drop(state);
                worker_shared.ready.notify_all();
                if failed {
                    return;
                }
            }
        });
        Self { shared, requests: Mutex::new(Some(sender)), worker: Mutex::new(Some(worker)) }
    }
}

impl<B: Backend> Shared<B> {
    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> Sharded<B> {
    /// Asks for a block unless it is on its way or there.
    fn request(&self, state: &mut State<B>, layer: usize) {
        let there = state.pending.contains(&layer) || state.last.as_ref().is_some_and(|(last, _)| *last == layer);
        if there {
            return;
        }
        state.pending.push(layer);
        if let Some(sender) = &*self.requests.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = sender.send(layer);
        }
    }
}

impl<B: Backend> WeightSource<B> for Sharded<B> {
    fn acquire(&self, layer: usize, _: Pass) -> Result<Arc<FrozenLayer<B>>, TrainingError> {
        let mut state = self.shared.lock();
        if let Some((_, frozen)) = state.last.as_ref().filter(|(last, _)| *last == layer) {
            return Ok(Arc::clone(frozen));
        }
        // The block of before is no longer needed: its memory is free before the next one is there.
        state.last = None;
        self.request(&mut state, layer);
        loop {
            if let Some(at) = state.gathered.iter().position(|(gathered, _)| *gathered == layer) {
                let (_, frozen) = state.gathered.remove(at);
                state.pending.retain(|pending| *pending != layer);
                state.last = Some((layer, Arc::clone(&frozen)));
                return Ok(frozen);
            }
            if let Some(failure) = &mut state.failed {
                return Err(failure.tell(self.shared.rank));
            }
            state = self.shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn prefetch(&self, layer: usize, _: Pass) -> Result<(), TrainingError> {
        let mut state = self.shared.lock();
        self.request(&mut state, layer);
        Ok(())
    }
}

impl<B: Backend> Drop for Sharded<B> {
    fn drop(&mut self) {
        drop(self.requests.lock().unwrap_or_else(PoisonError::into_inner).take());
        // A thread that panics must not wait for others, which do not know of it yet.
        if thread::panicking() {
            return;
        }
        if let Some(worker) = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = worker.join();
        }
    }
}
