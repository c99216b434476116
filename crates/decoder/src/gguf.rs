//! GGUF, llama.cpp's single-file format: metadata, configuration and weights.

mod config;
mod describe;
mod export;
mod families;
mod format;
mod layout;
mod metadata;
mod split;
mod tensors;
mod types;
mod write;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use export::{write_gguf, write_gguf_vocabulary};
use format::Content;
pub use format::Value as GgufValue;
use harness_core::open_file;
use harness_kernels::{Map, map_file};
pub use types::GgufType;

use crate::{Architecture, DecoderConfig, DecoderError, Weights};

/// What llama.cpp calls a family, where its files are read.
pub(crate) fn gguf_names(architecture: Architecture) -> Vec<&'static str> {
    let of = |family: &&families::GgufFamily| family.of == architecture.name();
    families::ARCHITECTURES.iter().filter(of).map(|family| family.name).collect()
}

/// An open GGUF model: the file, or all files that it is split into.
pub struct GgufFile {
    path: PathBuf,
    /// The first has the metadata.
    parts: Vec<Part>,
    /// The part that each tensor lies in.
    places: BTreeMap<String, usize>,
}

/// One file: its header in memory, its tensors mapped.
struct Part {
    path: PathBuf,
    map: Arc<Map>,
    content: Content,
}

impl GgufFile {
    /// Opens a model by its file or by any of its parts, and checks that every tensor lies inside its file.
    ///
    /// # Errors
    /// If a file is missing, broken or not supported.
    pub fn open(path: &Path) -> Result<Self, DecoderError> {
        let parts = split::open(path)?;
        let places = split::places(&parts)?;
        Ok(Self { path: path.to_owned(), parts, places })
    }

    /// The decoder's dimensions and constants.
    pub(crate) fn config(&self) -> Result<DecoderConfig, DecoderError> {
        config::read(self)
    }

    /// The weights, quantised blocks as they are, rows in Hugging Face's order.
    pub(crate) fn weights(&self, config: &DecoderConfig) -> Result<Weights, DecoderError> {
        tensors::read(self, config)
    }

    /// An error about the file with the metadata.
    pub fn error(&self, reason: impl Into<String>) -> DecoderError {
        self.parts[0].error(reason)
    }
}

impl Part {
    fn open(path: &Path) -> Result<Self, DecoderError> {
        let map =
            Arc::new(open_file(path).and_then(|file| map_file(file, path)).map_err(|e| DecoderError::read(path, e))?);
        let content = Content::read(&map).map_err(|reason| DecoderError::Gguf { path: path.to_owned(), reason })?;
        let part = Self { path: path.to_owned(), map, content };
        part.check_extents()?;
        Ok(part)
    }

    /// An error about this file.
    fn error(&self, reason: impl Into<String>) -> DecoderError {
        DecoderError::Gguf { path: self.path.clone(), reason: reason.into() }
    }
}
