//! What prompts are continued with.

use std::sync::Arc;

use harness_decoder::{Decoder, KvBlock};

use super::prompt::{Given, Prompt};
use crate::TextTokenizer;

/// A model whose prompts are continued.
#[derive(Clone, Copy)]
pub(crate) struct Model<'a> {
    pub(crate) decoder: &'a Decoder,
    pub(crate) tokenizer: &'a TextTokenizer,
    pub(crate) end_tokens: &'a [u32],
}

/// A prompt that is computed.
pub(super) struct Filled {
    pub(super) index: usize,
    pub(super) prompt: Prompt,
    /// Its keys and values.
    pub(super) path: Vec<Arc<KvBlock>>,
    /// The last hidden state of its last token.
    pub(super) state: Vec<f32>,
    /// What the model thinks of its tokens, where that is wanted.
    pub(super) given: Option<Vec<Given>>,
}
