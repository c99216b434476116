//! A model on disk: everything that a directory or a GGUF file holds.

use std::path::Path;

use harness_core::{Digest, Hasher};
use harness_decoder::{Checkpoint, DecoderConfig, DecoderError, GenerationDefaults, Weights};
use harness_kernels::Quantization;

use crate::{ChatTemplate, EngineError, TextTokenizer};

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

impl ModelFiles {
    /// Loads a directory in Hugging Face layout or a `.gguf` file.
    ///
    /// # Errors
    /// Whatever is missing, broken or not supported, with the file and the way out.
    pub fn load(path: &Path) -> Result<Self, EngineError> {
        let checkpoint = Checkpoint::open(path)?;
        let mut config = checkpoint.config()?;
        let tokenizer = match &checkpoint {
            Checkpoint::Folder(path) => TextTokenizer::load(path)?,
            Checkpoint::Gguf(file) => TextTokenizer::from_gguf(file)?,
        };
        check_vocabulary(path, &config, &tokenizer)?;
        let chat_template = match &checkpoint {
            Checkpoint::Folder(path) => ChatTemplate::load(path, None)?,
            Checkpoint::Gguf(file) => {
                let source = file.string("tokenizer.chat_template")?;
                source.map(|source| ChatTemplate::of_file(path, source)).transpose()?
            }
        };
        let generation = checkpoint.generation(&config)?;
        let (weights, digest) = checkpoint.weights(&mut config)?;
        check_maps()?;
        Ok(Self { config, weights, tokenizer, chat_template, generation, digest })
    }

    /// Quantises the linears of the blocks; the model is another one from then on, and its digest says so.
    ///
    /// # Errors
    /// If a weight is not finite.
    pub fn quantise(&mut self, options: &Quantization) -> Result<(), EngineError> {
        self.weights.quantise(options)?;
        self.digest = Hasher::new("quantised").part(self.digest.as_bytes()).part(options.to_string()).finish();
        Ok(())
    }
}

/// Fails if a file that is mapped, as weights are, has become shorter meanwhile.
///
/// # Errors
/// The file.
pub(crate) fn check_maps() -> Result<(), EngineError> {
    harness_kernels::check_maps().map_err(|(path, error)| DecoderError::read(&path, error).into())
}

/// Fails if the tokenizer has tokens for which the embedding has no rows.
fn check_vocabulary(path: &Path, config: &DecoderConfig, tokenizer: &TextTokenizer) -> Result<(), EngineError> {
    let rows = config.vocab_size;
    tokenizer.beyond(rows).map_or(Ok(()), |id| {
        Err(EngineError::TokenizerFile {
            path: path.to_owned(),
            reason: format!(
                "the tokenizer has token id {id}, but the model's embedding has {rows} rows (`vocab_size`); \
                 tokenizer and weights belong to different models"
            ),
        })
    })
}
