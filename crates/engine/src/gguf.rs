//! GGUF, llama.cpp's single-file format: configuration, weights and tokenizer.

mod config;
mod metadata;
mod pre_tokenizer;
mod split;
mod tensors;
mod tokenizer;

use std::{
    collections::BTreeMap,
    io::Cursor,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::quantized::gguf_file::Content;
use memmap2::Mmap;

use crate::{ChatTemplate, DecoderConfig, EngineError, TextTokenizer, Weights, weights::map_file};

/// Bytes at the beginning of a file in which its metadata is looked at before it is parsed.
const HEADER: usize = 1 << 24;

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
        let failed = |reason: String| EngineError::Gguf { path: path.to_owned(), reason };
        let magic = map.get(..4).unwrap_or_default();
        if magic != b"GGUF" {
            let found = String::from_utf8_lossy(magic).escape_debug().to_string();
            return Err(failed(format!("not a GGUF file: it begins with {found:?} instead of \"GGUF\"")));
        }
        if has_zero_alignment(&map[..map.len().min(HEADER)]) {
            return Err(failed("`general.alignment` is 0; the file is broken".to_owned()));
        }
        let content =
            Content::read(&mut Cursor::new(&map[..])).map_err(|error| failed(header_error(&error, map.len())))?;
        let part = Self { path: path.to_owned(), map, content };
        part.check_extents()?;
        Ok(part)
    }

    /// An error about this file.
    fn error(&self, reason: impl Into<String>) -> EngineError {
        EngineError::Gguf { path: self.path.clone(), reason: reason.into() }
    }
}

/// Whether the header gives an alignment of zero, by which the reader would divide.
fn has_zero_alignment(header: &[u8]) -> bool {
    const KEY: &[u8] = b"general.alignment";
    header.windows(KEY.len()).position(|window| window == KEY).is_some_and(|at| {
        // The key is followed by the value's type (u32) and the value, at least one byte.
        let value = &header[at + KEY.len()..];
        let width = match value.first() {
            Some(0 | 1) => 1,
            Some(2 | 3) => 2,
            _ => 4,
        };
        value.get(4..4 + width).is_some_and(|bytes| bytes.iter().all(|&byte| byte == 0))
    })
}

/// What is wrong with a header, in words.
fn header_error(error: &candle_core::Error, len: usize) -> String {
    let text = error.to_string();
    let text = text.lines().next().unwrap_or_default();
    if let Some(code) = text.strip_prefix("unknown dtype for tensor ") {
        let name = block_type(code.trim().parse().unwrap_or(u32::MAX));
        return format!(
            "a tensor is stored in block type {name}, which is not supported; \
             supported are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to Q8_K"
        );
    }
    if text.contains("remaining") || text.contains("failed to fill whole buffer") {
        return format!("the file is truncated at {len} bytes ({text}); download it again");
    }
    format!("the header cannot be read: {text}")
}

/// Names of block types that the reader does not know.
fn block_type(code: u32) -> String {
    match code {
        16 => "IQ2_XXS".to_owned(),
        17 => "IQ2_XS".to_owned(),
        18 => "IQ3_XXS".to_owned(),
        19 => "IQ1_S".to_owned(),
        20 => "IQ4_NL".to_owned(),
        21 => "IQ3_S".to_owned(),
        22 => "IQ2_S".to_owned(),
        23 => "IQ4_XS".to_owned(),
        29 => "IQ1_M".to_owned(),
        34 => "TQ1_0".to_owned(),
        35 => "TQ2_0".to_owned(),
        39 => "MXFP4".to_owned(),
        other => format!("number {other}"),
    }
}
