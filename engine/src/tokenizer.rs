//! Text to token ids and back.

use std::path::Path;

use harness_core::Digest;
use tokenizers::Tokenizer;

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
#[derive(Clone, Debug)]
pub struct TextTokenizer {
    inner: Tokenizer,
    bos: Option<SpecialToken>,
    eos: Option<SpecialToken>,
    model_max_length: Option<usize>,
    digest: Digest,
}
