//! Which rank owns which elements of a flat buffer.

use std::ops::Range;

/// Elements in a multiple of which slices begin, so that vector kernels see the same runs whoever owns them.
const ALIGNMENT: usize = 64;

/// A flat buffer, or a part of one, cut into one slice a rank; slices of a whole buffer have nearly equal length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// First element of the part in the whole buffer.
    from: usize,
    len: usize,
    slice: usize,
    world: usize,
}

impl Partition {
    /// `len` elements over `world` ranks (at least 1).
    pub fn new(len: usize, world: usize) -> Self {
        let slice = if world <= 1 { len } else { len.div_ceil(world).next_multiple_of(ALIGNMENT) };
        Self { from: 0, len, slice, world: world.max(1) }
    }

    /// A part of the buffer, counted from its first element; every rank owns what it owns of the whole.
    pub fn within(&self, range: &Range<usize>) -> Self {
        Self { from: self.from + range.start, len: range.len(), ..*self }
    }

    /// The elements of one rank; some may have fewer than others, or none.
    pub fn of(&self, rank: usize) -> Range<usize> {
        let edge = |rank: usize| (rank * self.slice).clamp(self.from, self.from + self.len) - self.from;
        edge(rank)..edge(rank + 1)
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
            let part = len / 3..len - len / 5;
            let within: Vec<Range<usize>> = Partition::new(len, world).within(&part).slices().collect();
            assert_eq!(within.iter().map(Range::len).sum::<usize>(), part.len());
            for (slice, whole) in within.iter().zip(&slices).filter(|(slice, _)| !slice.is_empty()) {
                assert!(slice.start + part.start >= whole.start && slice.end + part.start <= whole.end);
            }
        }
    }
}
