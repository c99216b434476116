//! Keys and values on a GPU: one pool of positions for all sequences, the same positions in every layer.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use harness_kernels::{
    KernelError,
    cuda::{Device, DeviceBuffer, Float, KeySegment, View},
};

use crate::DecoderConfig;

/// Positions a tail grows by at least: one step of the attention kernel.
const GROWTH: usize = 64;

/// Positions of the pool at first.
const FIRST: usize = 8192;

/// What a mutex guards, also where a thread that held it has panicked.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Widths of keys and values of every layer. A short convolution holds its inputs as values, and no keys.
pub(super) fn widths(config: &DecoderConfig) -> Vec<[usize; 2]> {
    let of = |layer| match config.block.is_convolution(layer) {
        true => [0, config.hidden_size],
        false => [config.kv_dim(); 2],
    };
    (0..config.num_layers).map(of).collect()
}

/// The pool: keys and values of every layer, and which positions are free.
#[derive(Debug)]
pub(super) struct Cache {
    /// Of keys and values, by layer.
    widths: Vec<[usize; 2]>,
    float: Float,
    data: Vec<[DeviceBuffer; 2]>,
    capacity: usize,
    /// How often the pool has moved.
    moved: u64,
    /// A position that is written and never read.
    spare: Option<usize>,
    /// Free runs by their first position; neighbours are joined.
    free: BTreeMap<usize, usize>,
}

/// The positions of one run of tokens, in order: blocks of the pool and how much of each is written. They are free again
/// when this is dropped, for what the stream does afterwards.
#[derive(Debug)]
pub(crate) struct DeviceKv {
    blocks: Vec<(Range<usize>, usize)>,
    /// Positions that are expected.
    capacity: usize,
    cache: Arc<Mutex<Cache>>,
}

impl Drop for DeviceKv {
    fn drop(&mut self) {
        if !self.blocks.is_empty() {
            let mut cache = lock(&self.cache);
            self.blocks.drain(..).for_each(|(range, _)| cache.give(range));
        }
    }
}

impl DeviceKv {
    pub(super) fn new(cache: Arc<Mutex<Cache>>, capacity: usize) -> Self {
        Self { blocks: vec![], capacity, cache }
    }

    /// Positions written.
    pub(crate) fn len(&self) -> usize {
        self.blocks.iter().map(|(_, used)| used).sum()
    }

    /// Drops the last positions, so that at most `len` are left.
    pub(crate) fn truncate(&mut self, len: usize) {
        let mut excess = self.len().saturating_sub(len);
        while excess > 0 {
            let Some((_, used)) = self.blocks.last_mut() else { return };
            let dropped = excess.min(*used);
            *used -= dropped;
            excess -= dropped;
            if *used == 0
                && let Some((range, _)) = self.blocks.pop()
            {
                lock(&self.cache).give(range);
            }
        }
    }

    /// The positions written, as the attention kernel reads them.
    pub(crate) fn segments(&self) -> impl Iterator<Item = KeySegment> + '_ {
        self.segments_with(0)
    }

    /// The positions written and up to `more` that there is room for behind them.
    pub(super) fn segments_with(&self, mut more: usize) -> impl Iterator<Item = KeySegment> + '_ {
        let all = self.blocks.iter().map(move |(range, used)| {
            let next = more.min(range.len() - used);
            more -= next;
            KeySegment { start: range.start as i32, len: (used + next) as i32 }
        });
        all.filter(|segment| segment.len > 0)
    }

    /// The places of the positions that come next, as far as there is room.
    pub(super) fn next_slots(&self) -> impl Iterator<Item = u32> + '_ {
        self.blocks.iter().flat_map(|(range, used)| range.start + used..range.end).map(|slot| slot as u32)
    }

    /// Counts the next positions as written.
    pub(super) fn advance(&mut self, count: usize) {
        let mut left = count;
        for (range, used) in &mut self.blocks {
            let now = left.min(range.len() - *used);
            *used += now;
            left -= now;
        }
    }
}

impl Cache {
    pub(super) fn new(widths: Vec<[usize; 2]>, float: Float) -> Self {
        Self { widths, float, data: vec![], capacity: 0, moved: 0, spare: None, free: BTreeMap::new() }
    }

    /// Keys and values of one layer, `[positions, width]` each.
    pub(super) fn layer(&self, layer: usize) -> [View<'_>; 2] {
        let view = |part: usize| {
            let width = self.widths[layer][part];
            self.data[layer][part].view(0, self.capacity, width, width)
        };
        [view(0), view(1)]
    }

    /// Makes `count` new positions behind those of `kv` and gives their places.
    pub(super) fn extend(
        &mut self,
        device: &Device,
        kv: &mut DeviceKv,
        count: usize,
        slots: &mut Vec<u32>,
    ) -> Result<(), KernelError> {
        self.reserve(device, kv, count)?;
        slots.extend(kv.next_slots().take(count));
        kv.advance(count);
        Ok(())
    }

    /// Makes room for `count` positions behind those of `kv`.
    pub(super) fn reserve(&mut self, device: &Device, kv: &mut DeviceKv, count: usize) -> Result<(), KernelError> {
        let room: usize = kv.blocks.iter().map(|(range, used)| range.len() - used).sum();
        if room >= count {
            return Ok(());
        }
        // In few blocks: all that is expected at once, and long runs grow by more.
        let expected = if kv.blocks.is_empty() { kv.capacity } else { kv.len() / 4 };
        let len = (count - room).max(expected).next_multiple_of(GROWTH);
        let range = self.take(device, len)?;
        match kv.blocks.last_mut() {
            Some((last, _)) if last.end == range.start => last.end = range.end,
            _ => kv.blocks.push((range, 0)),
        }
        Ok(())
    }

    /// Positions of the pool.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// How often the pool has moved to other memory.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// A position that is written by rows of nobody, and never read.
    pub(super) fn spare(&mut self, device: &Device) -> Result<usize, KernelError> {
        let spare = match self.spare {
            Some(spare) => spare,
            None => self.take(device, GROWTH)?.start,
        };
        self.spare = Some(spare);
        Ok(spare)
    }

    /// A free run of `len` positions; the pool grows where there is none.
    fn take(&mut self, device: &Device, len: usize) -> Result<Range<usize>, KernelError> {
        loop {
            let found = self.free.iter().find(|&(_, &free)| free >= len).map(|(&start, &free)| (start, free));
            if let Some((start, free)) = found {
                self.free.remove(&start);
                if free > len {
                    self.free.insert(start + len, free - len);
                }
                return Ok(start..start + len);
            }
            self.grow(device, len)?;
        }
    }

    /// Moves to memory with room for `len` more positions: for half as many again as there are, where the device has it.
    fn grow(&mut self, device: &Device, len: usize) -> Result<(), KernelError> {
        let position = self.widths.iter().flatten().sum::<usize>() * self.float.bytes();
        // Half of what is free stays so: others need memory too.
        let spare = device.room()? / 2 / position.max(1);
        let more = (self.capacity / 2).max(FIRST).min(spare).max(len);
        let capacity = (self.capacity + more).next_multiple_of(GROWTH);
        // Layer by layer, so that only one is there twice.
        for (layer, widths) in self.widths.iter().enumerate() {
            let part = |width: usize| device.alloc(capacity * width, self.float);
            let new = [part(widths[0])?, part(widths[1])?];
            if let Some(old) = self.data.get_mut(layer) {
                for ((old, new), width) in old.iter().zip(&new).zip(widths) {
                    let n = self.capacity * width;
                    device.cast(old.view(0, 1, n, n.max(1)), new.view(0, 1, n, n.max(1)))?;
                }
                *old = new;
            } else {
                self.data.push(new);
            }
        }
        self.moved += 1;
        self.give(self.capacity..capacity);
        self.capacity = capacity;
        Ok(())
    }

    fn give(&mut self, range: Range<usize>) {
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&before, &len)) = self.free.range(..start).next_back()
            && before + len == start
        {
            self.free.remove(&before);
            start = before;
        }
        if let Some(len) = self.free.remove(&end) {
            end += len;
        }
        self.free.insert(start, end - start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_neighbours_are_joined() {
        let mut cache = Cache::new(vec![[1, 1]], Float::F32);
        for range in [0..10, 20..30, 10..20] {
            cache.give(range);
        }
        assert_eq!(cache.free, BTreeMap::from([(0, 30)]));
    }

    #[test]
    fn segments_are_what_is_written() {
        let cache = Arc::new(Mutex::new(Cache::new(vec![[1, 1]], Float::F32)));
        let mut kv = DeviceKv::new(Arc::clone(&cache), 0);
        kv.blocks = vec![(64..128, 64), (0..64, 3), (128..192, 0)];
        let segments: Vec<KeySegment> = kv.segments().collect();
        assert_eq!(segments, [KeySegment { start: 64, len: 64 }, KeySegment { start: 0, len: 3 }]);
        let reserved: Vec<i32> = kv.segments_with(70).map(|segment| segment.len).collect();
        assert_eq!(reserved, [64, 64, 9], "room is filled in order");
        assert_eq!(kv.next_slots().step_by(61).collect::<Vec<_>>(), [3, 128]);
        kv.advance(62);
        assert_eq!((kv.len(), kv.next_slots().next()), (129, Some(129)));
        kv.truncate(65);
        assert_eq!(kv.len(), 65);
        assert_eq!(lock(&cache).free, BTreeMap::from([(128, 64)]));
        kv.truncate(64);
        assert_eq!(kv.segments().collect::<Vec<_>>(), [KeySegment { start: 64, len: 64 }]);
        assert_eq!(lock(&cache).free, BTreeMap::from([(0, 64), (128, 64)]));
        drop(kv);
        assert_eq!(lock(&cache).free, BTreeMap::from([(0, 192)]));
    }
}
