//! What is gathered together of parameters that every rank holds a part of.

use std::{fmt, ops::Range};

use super::Partition;
use crate::{TrainingError, backend::Memory};

/// A run of a flat buffer of parameters, and the runs in it that are vectors (norms and biases), which are never rounded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elements {
    /// The run.
    pub range: Range<usize>,
    /// The vectors.
    pub vectors: Vec<Range<usize>>,
}

/// What is gathered together.
#[derive(Clone, Debug)]
pub struct Unit {
    range: Range<usize>,
    parts: Partition,
    mine: Range<usize>,
    at: usize,
    vectors: Vec<Range<usize>>,
}

impl Unit {
    /// Elements of a buffer of which every rank holds its slice of `parts`.
    pub fn new(elements: &Elements, parts: &Partition, rank: usize) -> Self {
        let Elements { range, vectors } = elements;
        let within = parts.within(range);
        let mine = within.of(rank);
        let at = if mine.is_empty() { 0 } else { range.start + mine.start - parts.of(rank).start };
        let vectors = vectors.iter().map(|vector| vector.start - range.start..vector.end - range.start).collect();
        Self { range: range.clone(), parts: within, mine, at, vectors }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Who has which of the elements, counted from the unit's first.
    pub fn parts(&self) -> &Partition {
        &self.parts
    }

    /// Those of this rank, counted from the unit's first.
    pub fn mine(&self) -> Range<usize> {
        self.mine.clone()
    }

    /// Where this rank's elements begin in what it holds.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The vectors, counted from the unit's first element.
    pub fn vectors(&self) -> &[Range<usize>] {
        &self.vectors
    }
}

/// What the device's work has to do before something that was begun beside it may be used.
pub type Ready = Box<dyn FnOnce() -> Result<(), TrainingError> + Send + Sync>;

/// A unit, whole, or on its way.
pub struct Gathered<B: Memory> {
    unit: B::Buf,
    ready: Option<Ready>,
}

impl<B: Memory> Gathered<B> {
    /// A unit; `ready` where it is on its way.
    pub fn new(unit: B::Buf, ready: Option<Ready>) -> Self {
        Self { unit, ready }
    }

    /// Lets the device's work wait until it is there.
    ///
    /// # Errors
    /// If the device has failed.
    pub fn arrived(mut self) -> Result<Self, TrainingError> {
        self.ready.take().map_or(Ok(()), |ready| ready())?;
        Ok(self)
    }

    /// The elements.
    pub fn unit(&self) -> &B::Buf {
        &self.unit
    }
}

impl<B: Memory> fmt::Debug for Gathered<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gathered").field("unit", &self.unit).finish_non_exhaustive()
    }
}

impl<B: Memory> Drop for Gathered<B> {
    /// The memory is not used again before the unit is there.
    fn drop(&mut self) {
        if let Some(ready) = self.ready.take() {
            // A failure shows again in whatever comes next.
            let _ = ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_knows_its_elements_of_a_unit() {
        let parts = Partition::new(1000, 3);
        for range in [0..100, 100..700, 300..390, 990..1000] {
            let vectors = vec![range.start..range.start + 5, range.end - 2..range.end];
            let elements = Elements { range: range.clone(), vectors };
            let mut covered = 0;
            for rank in 0..3 {
                let (unit, own) = (Unit::new(&elements, &parts, rank), parts.of(rank));
                assert_eq!((unit.len(), unit.vectors()), (range.len(), &[0..5, range.len() - 2..range.len()][..]));
                let mine = unit.mine();
                let whole: Vec<usize> = mine.clone().map(|i| range.start + i).collect();
                assert!(whole.iter().all(|i| own.contains(i)), "{range:?} {rank}");
                assert!(mine.is_empty() || own.start + unit.at() == whole[0], "{range:?} {rank}");
                covered += mine.len();
            }
            assert_eq!(covered, range.len());
        }
    }
}
