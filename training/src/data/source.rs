//! Where the batches of a run come from, in which order.

use std::sync::Arc;

use harness_core::Seed;

use super::{Batch, Cursor, Sample};

/// The micro-batches of a run: the rows of the data in a new order every epoch.
///
/// A row is one sample, or several that were packed together. The order is a function of the seed and the epoch alone,
/// so that a [`Cursor`] is all there is to resume from.
#[derive(Clone, Debug)]
pub struct BatchSource {
    samples: Arc<[Sample]>,
    rows: Arc<[Vec<usize>]>,
    batch_size: usize,
    seed: Seed,
    grouped: bool,
    cursor: Cursor,
    order: Option<(u64, Vec<usize>)>,
}

impl BatchSource {
    /// Batches of `batch_size` rows; `rows` lists the samples of each row, see [`super::one_a_row`] and [`super::pack`].
    ///
    /// # Panics
    /// If `batch_size` is 0 (a recipe cannot say so) or a row names a sample that does not exist.
    pub fn new(samples: Arc<[Sample]>, rows: Vec<Vec<usize>>, batch_size: usize, seed: Seed) -> Self {
        assert!(batch_size > 0, "a batch has at least one row");
        assert!(rows.iter().flatten().all(|&sample| sample < samples.len()), "rows list existing samples");
        Self { samples, rows: rows.into(), batch_size, seed, grouped: false, cursor: Cursor::default(), order: None }
    }

    /// Whether rows of like length share a batch: among 50 batches' worth of rows at a time, so that the order of rows
    /// stays random otherwise.
    pub fn grouped(self, grouped: bool) -> Self {
        Self { grouped, order: None, ..self }
    }

    fn tokens(&self, row: usize) -> usize {
        self.rows[row].iter().map(|&sample| self.samples[sample].tokens.len()).sum()
    }

    /// The order of the rows in an epoch.
    fn order_of(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        self.seed.stream("order of rows", epoch).shuffle(&mut order);
        if !self.grouped {
            return order;
        }
        for rows in order.chunks_mut(50 * self.batch_size) {
            rows.sort_by_key(|&row| std::cmp::Reverse(self.tokens(row)));
        }
        let mut batches: Vec<&[usize]> = order.chunks_exact(self.batch_size).collect();
        self.seed.stream("order of batches", epoch).shuffle(&mut batches);
        let rest = order.chunks_exact(self.batch_size).remainder();
        batches.into_iter().flatten().chain(rest).copied().collect()
    }

    /// Micro-batches in an epoch; the last one may have fewer rows.
    pub fn batches_per_epoch(&self) -> usize {
        self.rows.len().div_ceil(self.batch_size)
    }

    /// The tokens of one epoch.
    pub fn tokens_per_epoch(&self) -> usize {
        self.rows.iter().flatten().map(|&sample| self.samples[sample].tokens.len()).sum()
    }

    /// Tokens of the largest micro-batch that can come up.
    pub fn longest_batch(&self) -> usize {
        let mut lengths: Vec<usize> = (0..self.rows.len()).map(|row| self.tokens(row)).collect();
        lengths.sort_unstable_by_key(|&length| std::cmp::Reverse(length));
        lengths.iter().take(self.batch_size).sum()
    }

    /// The next micro-batch to be taken.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Goes to a cursor, of this source or one made alike.
    pub fn seek(&mut self, cursor: Cursor) {
        self.cursor = cursor;
    }

    /// The next micro-batch; goes on to the next epoch after the last one. `None` if there are no rows at all.
    pub fn next_batch(&mut self) -> Option<Batch> {
        if self.rows.is_empty() {
            return None;
        }
        if self.cursor.index >= self.batches_per_epoch() {
            self.cursor = Cursor { epoch: self.cursor.epoch + 1, index: 0 };
        }
        let Cursor { epoch, index } = self.cursor;
        if self.order.as_ref().is_none_or(|(of, _)| *of != epoch) {
            self.order = Some((epoch, self.order_of(epoch)));
        }
        let (_, order) = self.order.as_ref()?;
        let end = order.len().min((index + 1) * self.batch_size);
        let batch = Batch::of(
            order[index * self.batch_size..end].iter().flat_map(|&row| &self.rows[row]).map(|&i| &self.samples[i]),
        );
        self.cursor.index += 1;
        Some(batch)
    }
}

/// Batches in the order of the samples, each of at most `batch_size` samples: for evaluation.
pub fn in_order(samples: &[Sample], batch_size: usize) -> impl Iterator<Item = Batch> + '_ {
    samples.chunks(batch_size.max(1)).map(Batch::of)
}
