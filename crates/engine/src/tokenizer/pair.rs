//! Where a context ends and its continuation begins, in tokens, as lm-evaluation-harness decides it
//! (`TemplateLM._encode_pair`, `HFLM.tok_encode`).

use super::{SpecialToken, TextTokenizer};
use crate::EngineError;

/// Deviations from the tokenizer's own rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairOptions {
    /// Whether to add special tokens (BOS); `None` = as the tokenizer does.
    pub add_bos: Option<bool>,
    /// The token that stands for an empty context; `None` = BOS, else EOS.
    pub prefix_token: Option<SpecialToken>,
}

impl PairOptions {
    fn prefix<'a>(&'a self, tokenizer: &'a TextTokenizer) -> Option<&'a SpecialToken> {
        self.prefix_token.as_ref().or(tokenizer.prefix_token())
    }
}

/// A context and its continuation in tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedPair {
    /// Tokens of the context.
    pub context: Vec<u32>,
    /// Tokens to be scored.
    pub continuation: Vec<u32>,
    /// Whether the tokens of context and continuation together do not begin with those of the context alone: a merge
    /// over the joint shifts what is scored.
    pub shifted: bool,
}

impl EncodedPair {
    /// What the model is given within `max_length` tokens: the last `max_length + 1` tokens of context and
    /// continuation without the very last; and how many tokens were cut on the left.
    pub fn model_input(&self, max_length: usize) -> (Vec<u32>, usize) {
        let whole: Vec<u32> = self.context.iter().chain(&self.continuation).copied().collect();
        let cut = whole.len().saturating_sub(max_length.saturating_add(1));
        (whole[cut..whole.len().saturating_sub(1).max(cut)].to_vec(), cut)
    }
}

/// Tokens of one text: special tokens as the options say, but none if the text already begins with the prefix token.
///
/// # Errors
/// If the tokenizer fails on the text.
pub fn encode_prompt(tokenizer: &TextTokenizer, text: &str, options: &PairOptions) -> Result<Vec<u32>, EngineError> {
    let has_prefix = options.prefix(tokenizer).is_some_and(|prefix| text.starts_with(&prefix.text));
    tokenizer.encode(text, !has_prefix && options.add_bos.unwrap_or(true))
}

/// Splits context and continuation into tokens. Whitespace at the end of the context moves to the continuation; both are
/// encoded together and cut where the context alone ends. An empty context becomes the prefix token, unless the
/// continuation begins with it, which then is the context.
///
/// # Errors
/// If the tokenizer fails, or an empty context needs a prefix token and there is none.
pub fn encode_pair(
    tokenizer: &TextTokenizer,
    context: &str,
    continuation: &str,
    options: &PairOptions,
) -> Result<EncodedPair, EngineError> {
    if context.is_empty() {
        let ids = tokenizer.encode(continuation, false)?;
        let Some(prefix) = options.prefix(tokenizer) else {
            let reason = "an empty context needs a BOS or EOS token, and the tokenizer has neither";
            return Err(EngineError::Tokenizer(reason.to_owned()));
        };
        return Ok(match ids.split_first() {
            Some((&first, rest)) if first == prefix.id => {
                EncodedPair { context: vec![first], continuation: rest.to_vec(), shifted: false }
            }
            _ => EncodedPair { context: vec![prefix.id], continuation: ids, shifted: false },
        });
    }
    let trimmed = context.trim_end_matches(is_python_space);
    let whole = encode_prompt(tokenizer, &format!("{context}{continuation}"), options)?;
    let context = encode_prompt(tokenizer, trimmed, options)?;
    let shifted = !whole.starts_with(&context);
    let continuation = whole.get(context.len()..).unwrap_or_default().to_vec();
    Ok(EncodedPair { context, continuation, shifted })
}

/// What Python's `str.rstrip` removes: Unicode white space and the four ASCII separators.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}
