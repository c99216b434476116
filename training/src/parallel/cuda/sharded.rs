//! Frozen blocks of which every GPU holds a part (FSDP), gathered through NCCL beside the computation.
//!
//! A block is one run of bytes: norms, biases and matrices as the kernels read them, 4-bit codes included. Two whole blocks
//! are in memory: the one computed with, and the next one, which is being gathered into the place of the one before.

use std::sync::{Arc, Mutex, PoisonError};

use harness_decoder::LayerWeights;
use harness_kernels::KernelError;
use harness_kernels::cuda::{Device, DeviceBuffer, Moment};

use super::nccl::Link;
use crate::{
    TrainingError,
    backend::{CudaBackend, CudaBuf},
    block::{FrozenLayer, Pass, WeightSource},
    parallel::Exchange,
};

/// Bytes in a multiple of which tensors and parts begin.
const ALIGNMENT: usize = 256;

type Layer = FrozenLayer<CudaBackend>;

/// The parts of all blocks that this rank holds.
pub(super) struct Gathered {
    /// Dropped first: nothing may still be gathered into what follows.
    link: Link,
    /// Kept so that other ranks learn from it when this one ends.
    exchange: Arc<dyn Exchange>,
    shards: Vec<DeviceBuffer>,
    slots: [Slot; 2],
    /// Every block as it lies in either slot.
    views: Vec<[Arc<Layer>; 2]>,
    state: Mutex<State>,
}

/// Room for a whole block.
struct Slot {
    whole: Arc<DeviceBuffer>,
    ready: Moment,
}

struct State {
    /// The blocks that the slots hold or will hold.
    holds: [Option<usize>; 2],
    /// The slot asked for last.
    used: usize,
}

/// Where the buffers of a block begin in its run of bytes, in the order of [`buffers`]; and the length of the run.
fn places(buffers: &[&DeviceBuffer]) -> (Vec<usize>, usize) {
    let mut end = 0;
    let places = buffers.iter().map(|buffer| {
        let at = end;
        end += buffer.bytes().next_multiple_of(ALIGNMENT);
        at
    });
    let places = places.collect();
    (places, end)
}

fn buffers(layer: &Layer) -> Vec<&DeviceBuffer> {
    let vectors = layer.vectors().map(CudaBuf::data);
    vectors.chain(layer.matrices().flat_map(|matrix| matrix.buffers())).collect()
}

/// The block in a slot.
fn view(layer: &Layer, slot: &Arc<DeviceBuffer>, places: &[usize]) -> Option<Layer> {
    let mut places = places.iter().copied();
    let mut part = |like: &DeviceBuffer| DeviceBuffer::part(slot, places.next().unwrap_or(0), like);
    let vectors = layer.vectors().map(|vector| CudaBuf::new(part(vector.data()))).collect();
    let matrices = layer.matrices().map(|matrix| matrix.in_buffers(&mut part)).collect();
    layer.like(vectors, matrices)
}

/// This rank's part of a block's run of bytes.
fn shard(
    device: &Device,
    layer: &Layer,
    places: &[usize],
    part: usize,
    rank: usize,
) -> Result<DeviceBuffer, KernelError> {
    let shard = device.alloc_bytes(part)?;
    let own = rank * part..(rank + 1) * part;
    for (buffer, &at) in buffers(layer).into_iter().zip(places) {
        let (from, to) = (at.max(own.start), (at + buffer.bytes()).min(own.end));
        if from < to {
            device.copy_part((buffer, from - at), (&shard, from - own.start), to - from)?;
        }
    }
    Ok(shard)
}

impl Gathered {
    /// Keeps this rank's part of the blocks, and meets the other ranks.
    pub(super) fn new(
        backend: &CudaBackend,
        layers: &[LayerWeights],
        backward: &[bool],
        exchange: Arc<dyn Exchange>,
    ) -> Result<Self, TrainingError> {
        let device = backend.device();
        let (rank, world) = (exchange.rank(), exchange.world());
        let watched = Arc::clone(&exchange);
        let tell = |point| exchange.all_to_all(vec![point; world]);
        let link = Link::meet(device, (rank, world), tell, move || watched.failure())?;
        let (mut shards, mut whole, mut uploaded) = (vec![], [const { vec![] }; 2], None);
        let mut slots: Option<[Slot; 2]> = None;
        for (weights, &backward) in layers.iter().zip(backward) {
            // Whole on the device for a moment: types are converted, and matrices merged, as without sharding.
            drop(uploaded.take());
            let layer = uploaded.insert(Layer::new(backend, weights, backward)?);
            let (places, bytes) = places(&buffers(layer));
            let part = bytes.div_ceil(world).next_multiple_of(ALIGNMENT);
            let slot = || -> Result<Slot, KernelError> {
                let whole = Arc::new(device.alloc_bytes(world * part)?);
                Ok(Slot { whole, ready: link.communicator().side().moment()? })
            };
            let fits = slots.as_ref().is_some_and(|slots| slots[0].whole.bytes() >= world * part);
            if slots.is_some() && !fits {
                let expected = "blocks of one size, which sharding on a GPU needs";
                return Err(TrainingError::setting("training.sharding", "\"fsdp\"", expected));
            }
            let slots = match &mut slots {
                Some(slots) => slots,
                None => slots.insert([slot()?, slot()?]),
            };
            shards.push(shard(device, layer, &places, part, rank)?);
            for (views, slot) in whole.iter_mut().zip(&*slots) {
                views.extend(view(layer, &slot.whole, &places).map(Arc::new));
            }
        }
        drop(uploaded);
        let Some(slots) = slots else {
            return Err(TrainingError::setting("base", "0 blocks", "a base with blocks to share out"));
        };
        let [first, second] = whole;
        let views = first.into_iter().zip(second).map(|(a, b)| [a, b]).collect();
        let state = Mutex::new(State { holds: [None; 2], used: 1 });
        Ok(Self { link, exchange, shards, slots, views, state })
    }

    /// The slot that holds the block, or will: the one not in use is taken if neither does.
    fn place(&self, state: &mut State, layer: usize) -> Result<usize, TrainingError> {
        if let Some(slot) = state.holds.iter().position(|&held| held == Some(layer)) {
            return Ok(slot);
        }
        let (slot, communicator) = (1 - state.used, self.link.communicator());
        let Slot { whole, ready } = &self.slots[slot];
        // Begins once what is queued so far is done, and with it all work on the block that was here.
        communicator.begin_gather(&self.shards[layer], whole, self.exchange.world())?;
        communicator.side().mark(ready)?;
        state.holds[slot] = Some(layer);
        Ok(slot)
    }
}

impl WeightSource<CudaBackend> for Gathered {
    fn acquire(&self, layer: usize, _: Pass) -> Result<Arc<Layer>, TrainingError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = self.place(&mut state, layer)?;
        self.slots[slot].ready.wait()?;
        state.used = slot;
        Ok(Arc::clone(&self.views[layer][slot]))
    }

    fn prefetch(&self, layer: usize, _: Pass) -> Result<(), TrainingError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.place(&mut state, layer).map(drop)
    }
}
