//! One tokenised row.

use std::ops::Range;

/// A tokenised training sample.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Its tokens: BOS where the tokenizer adds one, the text, EOS.
    pub tokens: Vec<u32>,
    /// The first token that the loss counts: the length of the prompt, or 1 where the loss counts everything.
    pub loss_from: usize,
    /// Tokens cut off at the end.
    pub truncated: usize,
    /// Tokens after `loss_from` that the loss does not count, in order.
    pub masked: Vec<Range<usize>>,
}

impl Sample {
    /// Whether the loss counts a token.
    pub fn counts(&self, token: usize) -> bool {
        token >= self.loss_from && !self.masked.iter().any(|range| range.contains(&token))
    }

    /// Number of tokens that the loss counts.
    pub fn num_labels(&self) -> usize {
        (self.loss_from.max(1)..self.tokens.len()).filter(|&i| self.counts(i)).count()
    }
}
