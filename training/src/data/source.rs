//! Where the batches of a run come from, in which order.

use std::sync::Arc;

use harness_core::Seed;

use super::{Batch, Cursor, Padding, Samples};

/// The micro-batches of a run: the rows of the data in a new order every epoch.
///
/// A row is one sample, or several that were packed together. The order is a function of the seed and the epoch alone,
/// so that a [`Cursor`] is all there is to resume from.
#[derive(Clone, Debug)]
pub struct BatchSource {
    samples: Samples,
    rows: Arc<[Vec<usize>]>,
    batch_size: usize,
    seed: Seed,
    grouped: bool,
    padding: Padding,
    longest: usize,
    cursor: Cursor,
    order: Option<(u64, Vec<usize>)>,
}

impl BatchSource {
    /// Batches of `batch_size` rows; `rows` lists the samples of each row, see [`super::one_a_row`] and [`super::pack`].
    ///
    /// # Panics
    /// If `batch_size` is 0 (a recipe cannot say so) or a row names a sample that does not exist.
    pub fn new(samples: impl Into<Samples>, rows: Vec<Vec<usize>>, batch_size: usize, seed: Seed) -> Self {
        let samples: Samples = samples.into();
        assert!(batch_size > 0, "a batch has at least one row");
        assert!(rows.iter().flatten().all(|&sample| sample < samples.len()), "rows list existing samples");
        let (grouped, padding, longest, cursor) = (false, Padding::None, 0, Cursor::default());
        Self { samples, rows: rows.into(), batch_size, seed, grouped, padding, longest, cursor, order: None }
    }

    /// Whether rows of like length share a batch: among 50 batches' worth of rows at a time, so that the order of rows
    /// stays random otherwise.
    pub fn grouped(self, grouped: bool) -> Self {
        Self { grouped, order: None, ..self }
    }

    /// Fills rows of one sample each up to a common length; `longest` is the one of [`Padding::MaxLength`].
    pub fn padded(self, padding: Padding, longest: usize) -> Self {
        Self { padding, longest, ..self }
    }

    fn tokens(&self, row: usize) -> usize {
        self.rows[row].iter().map(|&sample| self.samples.length(sample)).sum()
    }

    /// Tokens that each sample of a batch of these rows is filled up to.
    fn length(&self, rows: &[usize]) -> usize {
        match self.padding {
            Padding::None => 0,
            Padding::Longest => rows.iter().map(|&row| self.tokens(row)).max().unwrap_or(0),
            Padding::MaxLength => self.longest,
        }
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
        (0..self.rows.len()).map(|row| self.tokens(row)).sum()
    }

    /// Tokens that fill the batches of the first epoch.
    pub fn padding_per_epoch(&self) -> usize {
        let order = self.order_of(0);
        let filled = order.chunks(self.batch_size).map(|rows| self.length(rows) * rows.len()).sum::<usize>();
        filled.saturating_sub(self.tokens_per_epoch())
    }

    /// Tokens of the largest micro-batch that can come up.
    pub fn longest_batch(&self) -> usize {
        let mut lengths: Vec<usize> = (0..self.rows.len()).map(|row| self.tokens(row)).collect();
        lengths.sort_unstable_by_key(|&length| std::cmp::Reverse(length));
        let sum: usize = lengths.iter().take(self.batch_size).sum();
        let filled = match self.padding {
            Padding::None => 0,
            Padding::Longest => lengths.first().copied().unwrap_or(0),
            Padding::MaxLength => self.longest,
        };
        sum.max(filled * self.batch_size.min(lengths.len()))
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
        let rows = &order[index * self.batch_size..end];
        let samples = rows.iter().flat_map(|&row| &self.rows[row]).map(|&i| self.samples.get(i));
        let batch = Batch::padded(samples, self.length(rows));
        self.cursor.index += 1;
        Some(batch)
    }
}

/// Batches in the order of the samples, each of at most `batch_size` samples: for evaluation.
pub fn in_order(samples: &Samples, batch_size: usize) -> impl Iterator<Item = Batch> + '_ {
    let size = batch_size.max(1);
    (0..samples.len())
        .step_by(size)
        .map(move |from| Batch::of((from..(from + size).min(samples.len())).map(|i| samples.get(i))))
}
