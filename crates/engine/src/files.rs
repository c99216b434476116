//! A model on disk: everything that a directory or a GGUF file holds.

use std::{collections::BTreeMap, path::Path};

use harness_core::{Digest, Hasher};

use crate::{
    ChatTemplate, DecoderConfig, EngineError, GenerationDefaults, Quantization, TextTokenizer, Weights,
    config::{read_config, read_generation_defaults},
    gguf::GgufFile,
    weights::{HfSource, StoredTensors, TensorStore, assemble, digest_tensors},
};

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
        if is_gguf(path) {
            return Self::load_gguf(path);
        }
        let mut config = read_config(path)?;
        let tokenizer = TextTokenizer::load(path)?;
        check_vocabulary(path, &config, &tokenizer)?;
        let chat_template = ChatTemplate::load(path, None)?;
        let generation = read_generation_defaults(path)?;
        let store = TensorStore::open_dir(path)?;
        let weights = assemble(&config, &HfSource::new(&store))?;
        config.tie_word_embeddings = weights.lm_head.is_none();
        let digest = with_config(&config, digest_tensors("safetensors", store.contents()));
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

    /// Reads the configuration alone, which is cheap.
    ///
    /// # Errors
    /// If it is missing, broken or not supported.
    pub fn load_config(path: &Path) -> Result<DecoderConfig, EngineError> {
        if is_gguf(path) { GgufFile::open(path)?.config() } else { read_config(path) }
    }

    /// What the tensors of a model are stored in, by type: `bf16`, `nf4` …, and llama.cpp's names of blocks, as `Q4_K`.
    ///
    /// # Errors
    /// If the files cannot be read.
    pub fn stored_types(path: &Path) -> Result<BTreeMap<String, StoredTensors>, EngineError> {
        if is_gguf(path) {
            return Ok(GgufFile::open(path)?.by_type());
        }
        Ok(TensorStore::open_dir(path)?.by_type())
    }

    fn load_gguf(path: &Path) -> Result<Self, EngineError> {
        let file = GgufFile::open(path)?;
        let config = file.config()?;
        let tokenizer = file.tokenizer()?;
        check_vocabulary(path, &config, &tokenizer)?;
        let chat_template = file.chat_template()?;
        let generation = GenerationDefaults {
            eos_token_ids: config.eos_token_ids.clone(),
            bos_token_id: config.bos_token_id,
            ..GenerationDefaults::default()
        };
        let weights = file.weights(&config)?;
        let digest = with_config(&config, file.digest());
        Ok(Self { config, weights, tokenizer, chat_template, generation, digest })
    }
}

/// Whether a path is a file, which then is read as GGUF, or is named like one.
fn is_gguf(path: &Path) -> bool {
    path.is_file() || path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
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

/// The digest of the weights together with all constants that computation depends on.
fn with_config(config: &DecoderConfig, weights: Digest) -> Digest {
    let mut hasher = Hasher::new("model");
    hasher.part(weights.as_bytes());
    for constant in config.identity() {
        hasher.part(constant);
    }
    hasher.finish()
}
