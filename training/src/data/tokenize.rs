//! Texts to tokens, with the boundary between prompt and completion.

use harness_engine::TextTokenizer;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Loss, PreparedRow, Sample};
use crate::TrainingError;

/// What the data needs of a tokenizer.
pub trait Tokenize: Sync {
    /// The tokens of a text, with what the model's tokenizer adds by itself (usually BOS, if anything).
    ///
    /// # Errors
    /// [`TrainingError::Tokenizer`].
    fn encode(&self, text: &str) -> Result<Vec<u32>, TrainingError>;

    /// The tokens of a text that has all special tokens already.
    ///
    /// # Errors
    /// [`TrainingError::Tokenizer`].
    fn encode_bare(&self, text: &str) -> Result<Vec<u32>, TrainingError> {
        self.encode(text)
    }

    /// The token that ends a sample.
    fn eos(&self) -> Option<u32>;

    /// Whether a special token is the last one, white space aside; `_eos`: whether it must be the one that ends a sample.
    fn is_ended(&self, tokens: &[u32], _eos: bool) -> bool {
        tokens.last().copied() == self.eos()
    }
}

impl Tokenize for TextTokenizer {
    fn encode(&self, text: &str) -> Result<Vec<u32>, TrainingError> {
        TextTokenizer::encode(self, text, true).map_err(|error| TrainingError::Tokenizer(error.to_string()))
    }

    fn encode_bare(&self, text: &str) -> Result<Vec<u32>, TrainingError> {
        TextTokenizer::encode(self, text, false).map_err(|error| TrainingError::Tokenizer(error.to_string()))
    }

    fn eos(&self) -> Option<u32> {
        TextTokenizer::eos(self).map(|token| token.id)
    }

    fn is_ended(&self, tokens: &[u32], eos: bool) -> bool {
        let is_space = |id: u32| !self.is_special(id) && self.token_text(id).trim().is_empty();
        let last = tokens.iter().rev().find(|&&id| !is_space(id)).copied();
        last.is_some_and(|id| Some(id) == Tokenize::eos(self) || !eos && self.is_special(id))
    }
}

/// What became of the tokens of a part of the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCounts {
    /// Samples.
    pub samples: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Tokens that the loss counts.
    pub labels: usize,
    /// Samples that were longer than `max_length` and lost their end.
    pub truncated_samples: usize,
    /// Tokens cut off from them.
    pub truncated_tokens: usize,
    /// Samples left out because no token of theirs counts, e.g. when the prompt alone fills `max_length`.
    pub without_labels: usize,
}

/// Tokenises rows on all threads; the samples are in the order of the rows.
///
/// Prompt and completion are tokenised together, as one text, followed by EOS where the tokenizer has one and the text does
/// not end with it. The prompt ends at the first token in which the whole differs from the prompt tokenised alone, so a token
/// that straddles the joint counts as completion. A text that a chat template has written has all its special tokens; EOS
/// follows only where it ends with none.
///
/// # Errors
/// If the tokenizer fails.
pub fn tokenize(
    rows: &[PreparedRow],
    tokenizer: &dyn Tokenize,
    loss: Loss,
    max_length: usize,
) -> Result<(Vec<Sample>, TokenCounts), TrainingError> {
    let samples: Vec<Sample> = rows
        .par_iter()
        .with_min_len(8)
        .map(|row| sample(row, tokenizer, loss, max_length, false))
        .collect::<Result<_, _>>()?;
    let mut counts = TokenCounts::default();
    let mut kept = Vec::with_capacity(samples.len());
    for sample in samples {
        counts.truncated_samples += usize::from(sample.truncated > 0);
        counts.truncated_tokens += sample.truncated;
        if sample.num_labels() == 0 {
            counts.without_labels += 1;
            continue;
        }
        counts.samples += 1;
        counts.tokens += sample.tokens.len();
        counts.labels += sample.num_labels();
        kept.push(sample);
    }
    Ok((kept, counts))
}

/// Tokenises rows of pairs on all threads: two samples a row, the preferred one first. Both answers begin at the same token,
/// and nothing is added to what a chat template has written, as in TRL. A pair of which one has no token that counts is left
/// out, and counted as one sample without labels.
///
/// # Errors
/// If a row has nothing rejected, or the tokenizer fails.
pub fn tokenize_pairs(
    rows: &[PreparedRow],
    tokenizer: &dyn Tokenize,
    max_length: usize,
) -> Result<(Vec<Sample>, TokenCounts), TrainingError> {
    let pair = |row: &PreparedRow| -> Result<[Sample; 2], TrainingError> {
        let rejected = row.rejected.clone().ok_or_else(|| {
            let expected = "a template with `rejected`, such as \"preference\", for a recipe with [dpo]";
            TrainingError::setting("data.template", "a template without `rejected`", expected)
        })?;
        let rejected = PreparedRow { completion: rejected, masked: vec![], ..row.clone() };
        let sample = |row: &PreparedRow| sample(row, tokenizer, Loss::Completion, max_length, row.rendered);
        let mut pair = [sample(row)?, sample(&rejected)?];
        let from = pair[0].loss_from.min(pair[1].loss_from);
        pair.iter_mut().for_each(|sample| sample.loss_from = from);
        Ok(pair)
    };
    let pairs: Vec<[Sample; 2]> = rows.par_iter().with_min_len(8).map(pair).collect::<Result<_, _>>()?;
    let mut counts = TokenCounts::default();
    let mut kept = vec![];
    for pair in pairs {
        counts.truncated_samples += pair.iter().filter(|sample| sample.truncated > 0).count();
        counts.truncated_tokens += pair.iter().map(|sample| sample.truncated).sum::<usize>();
        if pair.iter().any(|sample| sample.num_labels() == 0) {
            counts.without_labels += 1;
            continue;
        }
        for sample in pair {
            counts.samples += 1;
            counts.tokens += sample.tokens.len();
            counts.labels += sample.num_labels();
            kept.push(sample);
        }
    }
    Ok((kept, counts))
}

/// One row as a sample; `complete`: nothing may be added at its end.
fn sample(
    row: &PreparedRow,
    tokenizer: &dyn Tokenize,
    loss: Loss,
    max_length: usize,
    complete: bool,
) -> Result<Sample, TrainingError> {
    let encode = |text: &str| if row.rendered { tokenizer.encode_bare(text) } else { tokenizer.encode(text) };
    let mut tokens = encode(&row.text())?;
    // The first token in which the whole differs from a beginning of it tokenised alone.
    let boundary = |text: &str| -> Result<usize, TrainingError> {
        let beginning = encode(text)?;
        Ok(tokens.iter().zip(&beginning).take_while(|(a, b)| a == b).count())
    };
    let mut masked = vec![];
    if loss == Loss::Completion && !row.masked.is_empty() {
        let text = row.text();
        let at = row.prompt.len();
        for range in &row.masked {
            masked.push(boundary(&text[..at + range.start])?..boundary(&text[..at + range.end])?);
        }
    }
    let loss_from = match loss {
        Loss::Full => 1,
        Loss::Completion if row.prompt.is_empty() => 1,
        Loss::Completion => boundary(&row.prompt)?.max(1),
    };
    if let Some(eos) = tokenizer.eos().filter(|_| !complete && !tokenizer.is_ended(&tokens, !row.rendered)) {
        tokens.push(eos);
    }
    let truncated = tokens.len().saturating_sub(max_length);
    tokens.truncate(max_length);
    Ok(Sample { tokens, loss_from, truncated, masked })
}
