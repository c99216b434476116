//! Text to token ids and back.

mod build;
mod bytes;
mod charsmap;
mod check;
mod class;
mod files;
mod gguf;
mod largest_id;
mod lines;
mod pair;
mod stream;

use std::{collections::BTreeMap, sync::Arc};

use harness_core::{Digest, Hasher, guarded};
pub use harness_core::{RollingWindow, rolling_windows};
use lines::Lines;
pub use pair::{EncodedPair, PairOptions, encode_pair, encode_prompt};
use rayon::prelude::*;
pub use stream::TextStream;
use tokenizers::{PostProcessorWrapper, Tokenizer};

pub(crate) use self::{
    build::{Parts, post_processor},
    bytes::TokenBytes,
};
use crate::EngineError;

/// A token with a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub text: String,
}

/// A tokenizer with the roles of its special tokens and the rules of its model.
///
/// Truncation and padding that a `tokenizer.json` may ask for are switched off, as transformers does.
#[derive(Clone, Debug)]
pub struct TextTokenizer {
    inner: Tokenizer,
    bos: Option<SpecialToken>,
    eos: Option<SpecialToken>,
    unk: Option<SpecialToken>,
    pad: Option<SpecialToken>,
    /// Further special tokens by role, for chat templates.
    others: BTreeMap<String, String>,
    adds_bos: bool,
    model_max_length: Option<usize>,
    digest: Digest,
    lines: Option<Arc<Lines>>,
}

impl TextTokenizer {
    /// Token ids of a text. With `add_special_tokens` the model's own additions (usually BOS) are made; special tokens
    /// written in the text are recognised either way.
    ///
    /// # Errors
    /// If the tokenizer fails on the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, EngineError> {
        let by_lines =
            |lines: &Arc<Lines>| lines.encode(text, add_special_tokens, |line| self.encode_whole(line, false));
        self.lines.as_ref().and_then(by_lines).unwrap_or_else(|| self.encode_whole(text, add_special_tokens))
    }

    /// [`Self::encode`] without the memory of lines, for checks.
    ///
    /// # Errors
    /// If the tokenizer fails on the text.
    pub fn encode_whole(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, EngineError> {
        let encoding = using(|| self.inner.encode_fast(text, add_special_tokens))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Whether texts are encoded line by line, with a memory of lines.
    pub fn remembers_lines(&self) -> bool {
        self.lines.is_some()
    }

    /// [`Self::encode`] of many texts on all threads; the results are in the order of the texts.
    ///
    /// # Errors
    /// If the tokenizer fails on one of the texts.
    pub fn encode_batch<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        add_special_tokens: bool,
    ) -> Result<Vec<Vec<u32>>, EngineError> {
        texts.par_iter().with_min_len(8).map(|text| self.encode(text.as_ref(), add_special_tokens)).collect()
    }

    /// The text of token ids; special tokens are left out with `skip_special_tokens`. Unknown ids are ignored.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, EngineError> {
        using(|| self.inner.decode(ids, skip_special_tokens))
    }

    /// Decoding token by token, for output as it is generated.
    pub fn stream(&self, skip_special_tokens: bool) -> TextStream<'_> {
        TextStream::new(self, skip_special_tokens)
    }

    /// One token as text for people: its decoded text where that is valid text, else its form in the vocabulary
    /// (`<0xE2>`, `Ġâ`). A leading space that decoding a lone token would drop is kept.
    pub fn token_text(&self, id: u32) -> String {
        let Some(raw) = self.inner.id_to_token(id) else { return format!("<unknown id {id}>") };
        if self.is_special(id) {
            return raw;
        }
        match self.decode(&[id], false) {
            Ok(text) if text.contains('\u{fffd}') => raw,
            Ok(text) if raw.starts_with('▁') && !text.starts_with(' ') => format!(" {text}"),
            Ok(text) => text,
            Err(_) => raw,
        }
    }

    /// The id of a token by its form in the vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether this is a special token, one that decoding can leave out.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.get_added_vocabulary().get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
    }

    /// Whether this and another tokenizer give every text the same ids, and have the same BOS and EOS: what files say about
    /// padding, pairs of texts or special tokens that they name twice makes no difference.
    pub fn encodes_like(&self, other: &Self) -> bool {
        let parts = |tokenizer: &Self| {
            let mut inner = tokenizer.inner.clone();
            inner.with_post_processor(None::<PostProcessorWrapper>);
            let around = tokenizer.encode_whole("a", true).ok();
            Some((inner.to_string(false).ok()?, around?))
        };
        self.digest == other.digest || (self.bos == other.bos && self.eos == other.eos && parts(self) == parts(other))
    }

    /// The largest token id, if an embedding of so many rows has none for it: a tokenizer may have fewer tokens than the
    /// embedding has rows, never more.
    pub fn beyond(&self, rows: usize) -> Option<u32> {
        self.largest_id().filter(|&id| id as usize >= rows)
    }

    /// Number of tokens, added ones included. The model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The largest token id.
    pub(crate) fn largest_id(&self) -> Option<u32> {
        self.inner.get_vocab(true).into_values().max()
    }

    /// Beginning-of-sequence token.
    pub fn bos(&self) -> Option<&SpecialToken> {
        self.bos.as_ref()
    }

    /// End-of-sequence token.
    pub fn eos(&self) -> Option<&SpecialToken> {
        self.eos.as_ref()
    }

    /// Token for what the vocabulary lacks.
    pub fn unk(&self) -> Option<&SpecialToken> {
        self.unk.as_ref()
    }

    /// Padding token.
    pub fn pad(&self) -> Option<&SpecialToken> {
        self.pad.as_ref()
    }

    /// The special tokens by role, as chat templates know them: `bos_token` and so on.
    pub fn roles(&self) -> impl Iterator<Item = (&str, &str)> {
        let own =
            [("bos_token", &self.bos), ("eos_token", &self.eos), ("unk_token", &self.unk), ("pad_token", &self.pad)];
        let own = own.into_iter().filter_map(|(name, token)| Some((name, token.as_ref()?.text.as_str())));
        own.chain(self.others.iter().map(|(name, text)| (name.as_str(), text.as_str())))
    }

    /// The token that stands for an empty context: BOS, else EOS.
    pub fn prefix_token(&self) -> Option<&SpecialToken> {
        self.bos.as_ref().or(self.eos.as_ref())
    }

    /// Whether encoding with special tokens puts BOS first.
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// Longest input in tokens that the tokenizer's configuration names, if it names one.
    pub fn model_max_length(&self) -> Option<usize> {
        self.model_max_length
    }

    /// Hash of the tokenizer, its special tokens and its BOS policy.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

/// Calls the library, which may panic over parts of a file that [`check`] does not know.
fn using<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, EngineError> {
    let result = guarded(call).unwrap_or_else(|panic| Err(panic.into()));
    result.map_err(|error| EngineError::Tokenizer(error.to_string()))
}

/// Hash of everything that ids depend on.
fn digest(inner: &Tokenizer, roles: [&Option<SpecialToken>; 4]) -> Result<Digest, String> {
    let mut hasher = Hasher::new("tokenizer");
    hasher.part(inner.to_string(false).map_err(|error| error.to_string())?);
    for role in roles {
        hasher.part(role.as_ref().map_or("", |token| &token.text));
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_library_is_an_error() {
        let error = using::<()>(|| panic!("no such thing")).unwrap_err();
        assert_eq!(error.to_string(), "the tokenizer failed: no such thing");
    }
}
