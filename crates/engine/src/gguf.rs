//! GGUF, llama.cpp's single-file format: configuration, weights and tokenizer.

mod blocks;
mod config;
mod format;
mod metadata;
mod pre_tokenizer;
mod split;
mod tensors;
mod tokenizer;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use format::Content;
use memmap2::Mmap;

use crate::{ChatTemplate, DecoderConfig, EngineError, TextTokenizer, Weights, weights::map_file};

/// An open GGUF model: the file, or all files that it is split into.
pub(crate) struct GgufFile {
    path: PathBuf,
    /// The first has the metadata.
    parts: Vec<Part>,
    /// The part that each tensor lies in.
    places: BTreeMap<String, usize>,
}

/// One file: its header in memory, its tensors mapped.
struct Part {
    path: PathBuf,
    map: Arc<Mmap>,
    content: Content,
}

impl GgufFile {
    /// Opens a model by its file or by any of its parts, and checks that every tensor lies inside its file.
    pub(crate) fn open(path: &Path) -> Result<Self, EngineError> {
        let parts = split::open(path)?;
        let places = split::places(&parts)?;
        Ok(Self { path: path.to_owned(), parts, places })
    }

    /// The decoder's dimensions and constants.
    pub(crate) fn config(&self) -> Result<DecoderConfig, EngineError> {
        config::read(self)
    }

    /// The weights, quantised blocks widened to f32, rows in Hugging Face's order.
    pub(crate) fn weights(&self, config: &DecoderConfig) -> Result<Weights, EngineError> {
        tensors::read(self, config)
    }

    /// The tokenizer.
    pub(crate) fn tokenizer(&self) -> Result<TextTokenizer, EngineError> {
        tokenizer::read(self)
    }

    /// The chat template, if there is one.
    pub(crate) fn chat_template(&self) -> Result<Option<ChatTemplate>, EngineError> {
        match self.string("tokenizer.chat_template")? {
            Some(source) => ChatTemplate::new(source).map(Some),
            None => Ok(None),
        }
    }

    /// An error about the file with the metadata.
    fn error(&self, reason: impl Into<String>) -> EngineError {
        self.parts[0].error(reason)
    }
}

impl Part {
    fn open(path: &Path) -> Result<Self, EngineError> {
        let map = Arc::new(map_file(path)?);
        let content = Content::read(&map).map_err(|reason| EngineError::Gguf { path: path.to_owned(), reason })?;
        let part = Self { path: path.to_owned(), map, content };
        part.check_extents()?;
        Ok(part)
    }

    /// An error about this file.
    fn error(&self, reason: impl Into<String>) -> EngineError {
        EngineError::Gguf { path: self.path.clone(), reason: reason.into() }
    }
}
