//! A model on disk: everything that a directory or a GGUF file holds.

use std::path::{Path, PathBuf};

use harness_core::Digest;

use crate::{ChatTemplate, DecoderConfig, EngineError, GenerationDefaults, TextTokenizer, Weights};

/// A model as it lies on disk, loaded into host memory (weights of safetensors files stay memory-mapped).
#[derive(Debug)]
pub struct ModelFiles {
    /// Dimensions and constants.
    pub config: DecoderConfig,
    /// Weights.
    pub weights: Weights,
    /// Tokenizer with its special tokens and BOS policy.
    pub tokenizer: TextTokenizer,
    /// Chat template, if the model has one.
    pub chat_template: Option<ChatTemplate>,
    /// What `generation_config.json` proposes.
    pub generation: GenerationDefaults,
    /// Hash of the weights' content and of the configuration.
    pub digest: Digest,
}
