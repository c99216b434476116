//! What a step computes on.

use std::borrow::Borrow;

use serde::{Deserialize, Serialize};

use super::Sample;

/// A micro-batch: samples laid end to end without padding. Tokens see earlier tokens of their own sample only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The tokens of all samples.
    pub tokens: Vec<u32>,
    /// For each token the one that follows it in its sample, where the loss counts that one; `None` elsewhere, and
    /// always for the last token of a sample. As long as `tokens`, and already shifted: the logits of position `i`
    /// are scored against `labels[i]`.
    pub labels: Vec<Option<u32>>,
    /// Where samples begin, and at the end the number of tokens: `[0, ..., tokens.len()]`, one longer than the number
    /// of samples ("cu_seqlens").
    pub boundaries: Vec<usize>,
    /// For each token its position in its sample, from 0.
    pub positions: Vec<u32>,
    /// How many of the tokens fill samples up to a common length: they are computed and decide nothing.
    pub padding: usize,
}

impl Batch {
    /// The batch of these samples, in this order; empty ones are left out.
    pub fn of(samples: impl IntoIterator<Item = impl Borrow<Sample>>) -> Self {
        Self::padded(samples, 0)
    }

    /// As [`Batch::of`], shorter samples filled up to `length` tokens. What fills comes last in its sample and has no
    /// label, so that nothing that counts sees it.
    pub fn padded(samples: impl IntoIterator<Item = impl Borrow<Sample>>, length: usize) -> Self {
        let mut batch = Self { boundaries: vec![0], ..Self::default() };
        for sample in samples {
            let sample: &Sample = sample.borrow();
            if sample.tokens.is_empty() {
                continue;
            }
            batch.tokens.extend_from_slice(&sample.tokens);
            batch.labels.extend((1..sample.tokens.len()).map(|i| sample.counts(i).then(|| sample.tokens[i])));
            let missing = length.saturating_sub(sample.tokens.len());
            batch.tokens.extend(sample.tokens.last().into_iter().cycle().take(missing));
            batch.padding += missing;
            batch.labels.resize(batch.tokens.len(), None);
            batch.positions.extend(0..(sample.tokens.len() + missing) as u32);
            batch.boundaries.push(batch.tokens.len());
        }
        batch
    }

    /// Number of tokens that are computed.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Number of tokens of the samples.
    pub fn num_tokens(&self) -> usize {
        self.tokens.len() - self.padding
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Number of samples.
    pub fn num_samples(&self) -> usize {
        self.boundaries.len().saturating_sub(1)
    }

    /// Number of tokens that the loss counts.
    pub fn num_labels(&self) -> usize {
        self.labels.iter().flatten().count()
    }
}

/// The next micro-batch of a run; saved with a checkpoint, it resumes the data exactly where it stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Passes over the data completed.
    pub epoch: u64,
    /// Micro-batches taken in this pass.
    pub index: usize,
}
