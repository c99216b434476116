//! One tokenised row.

/// A tokenised training sample.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Its tokens: BOS where the tokenizer adds one, the text, EOS.
    pub tokens: Vec<u32>,
    /// The first token that the loss counts: the length of the prompt, or 1 where the loss counts everything.
    pub loss_from: usize,
    /// Tokens cut off at the end.
    pub truncated: usize,
}

impl Sample {
    /// Number of tokens that the loss counts.
    pub fn num_labels(&self) -> usize {
        self.tokens.len().saturating_sub(self.loss_from.max(1))
    }
}
