//! Blocks of a GPU's memory that go round among buffers.

use std::collections::BTreeMap;

use cudarc::driver::sys;

/// Freed blocks by size.
#[derive(Default)]
pub(super) struct Blocks(BTreeMap<usize, Vec<u64>>);

impl Blocks {
    /// A block for so many bytes, with its size.
    pub(super) fn take(&mut self, bytes: usize) -> Option<(u64, usize)> {
        let size = block_size(bytes);
        let (&size, blocks) = self.0.range_mut(size..=size + size / 4).find(|(_, blocks)| !blocks.is_empty())?;
        Some((blocks.pop()?, size))
    }

    pub(super) fn give(&mut self, block: u64, size: usize) {
        self.0.entry(size).or_default().push(block);
    }

    /// All blocks with their sizes.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (u64, usize)> {
        let all = std::mem::take(&mut self.0);
        all.into_iter().flat_map(|(size, blocks)| blocks.into_iter().map(move |block| (block, size)))
    }
}

/// Freed blocks for the next buffers of about their sizes. Once every size of a step has come up, nothing is allocated any
/// more.
#[derive(Default)]
pub(super) struct Pool {
    free: Blocks,
    /// Bytes in buffers, and in all blocks.
    pub(super) used: usize,
    pub(super) held: usize,
    pub(super) peak: usize,
}

/// Sizes of blocks: eighths of powers of two, so that at most an eighth is wasted and like sizes meet.
pub(super) fn block_size(bytes: usize) -> usize {
    let bytes = bytes.max(512);
    let step = (bytes.next_power_of_two() / 16).max(512);
    bytes.div_ceil(step) * step
}

impl Pool {
    /// A free block of about this size, with its size.
    pub(super) fn take(&mut self, bytes: usize) -> Option<(u64, usize)> {
        let (block, size) = self.free.take(bytes)?;
        self.count(size);
        Some((block, size))
    }

    /// Counts a block that was allocated for a buffer.
    pub(super) fn add(&mut self, size: usize) {
        self.held += size;
        self.count(size);
    }

    fn count(&mut self, size: usize) {
        self.used += size;
        self.peak = self.peak.max(self.used);
    }

    /// Takes a block back from its buffer.
    pub(super) fn give_back(&mut self, block: u64, size: usize) {
        self.used -= size;
        self.free.give(block, size);
    }

    /// Frees all blocks that are in no buffer.
    pub(super) fn release(&mut self) {
        for (block, size) in self.free.drain() {
            self.held -= size;
            // SAFETY: the block came from `cuMemAlloc` and is in no buffer; the driver waits for work that uses it.
            unsafe { sys::cuMemFree_v2(block) };
        }
    }
}

/// A matrix of 4-bit codes in floats, which the device owns.
pub(super) struct Widened {
    pub(super) id: u64,
    pub(super) ptr: u64,
    pub(super) size: usize,
}

impl Widened {
    pub(super) fn give_back(self, pool: &mut Pool) {
        pool.give_back(self.ptr, self.size);
    }
}

#[cfg(test)]
mod tests {
    use super::block_size;

    #[test]
    fn blocks_waste_little() {
        for bytes in [1, 512, 513, 5000, 100_000, 1 << 20, (1 << 20) + 1, 123_456_789] {
            let size = block_size(bytes);
            assert!(size >= bytes && (size < 8192 || size <= bytes + bytes / 7), "{bytes} {size}");
            assert_eq!(block_size(size), size);
        }
    }
}
