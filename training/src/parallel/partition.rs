//! Which rank owns which elements of a flat buffer.

use std::ops::Range;

/// Elements in a multiple of which slices begin, so that vector kernels see the same runs whoever owns them.
const ALIGNMENT: usize = 64;

/// A flat buffer cut into one slice a rank, of nearly equal length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    len: usize,
    slice: usize,
    world: usize,
}

impl Partition {
    /// `len` elements over `world` ranks (at least 1).
    pub fn new(len: usize, world: usize) -> Self {
        let slice = if world <= 1 { len } else { len.div_ceil(world).next_multiple_of(ALIGNMENT) };
        Self { len, slice, world: world.max(1) }
    }

    /// The elements of one rank; the last ones may have fewer, or none.
    pub fn of(&self, rank: usize) -> Range<usize> {
        (rank * self.slice).min(self.len)..((rank + 1) * self.slice).min(self.len)
    }

    /// The slices in order of rank.
    pub fn slices(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let this = *self;
        (0..self.world).map(move |rank| this.of(rank))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cover_everything_once() {
        for (len, world) in [(0, 3), (1, 4), (63, 2), (64, 2), (1000, 1), (1000, 3), (4096, 4), (130, 8)] {
            let slices: Vec<Range<usize>> = Partition::new(len, world).slices().collect();
            assert_eq!(slices.len(), world);
            assert_eq!((slices[0].start, slices[world - 1].end), (0, len));
            assert!(slices.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(world == 1 || slices.iter().all(|slice| slice.is_empty() || slice.start % ALIGNMENT == 0));
        }
    }
}
