//! A decoder on disk: a directory in Hugging Face layout, or a GGUF file.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use harness_core::{Digest, Hasher};

use crate::{
    DecoderConfig, DecoderError, GenerationDefaults, GgufFile, StoredTensors, Weights,
    config::{read_config, read_generation_defaults},
    weights::{HfSource, TensorStore, assemble, digest_tensors, scheme},
};

/// A decoder on disk. Weights of safetensors files stay memory-mapped.
pub enum Checkpoint {
    /// A directory in Hugging Face layout.
    Folder(PathBuf),
    /// A GGUF file, or all files that it is split into.
    Gguf(GgufFile),
}

impl Checkpoint {
    /// Opens a directory in Hugging Face layout or a `.gguf` file.
    ///
    /// # Errors
    /// If a GGUF file is missing, broken or not supported.
    pub fn open(path: &Path) -> Result<Self, DecoderError> {
        // A file is read as GGUF, and so is what is named like one.
        let gguf = path.is_file() || path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
        Ok(if gguf { Self::Gguf(GgufFile::open(path)?) } else { Self::Folder(path.to_owned()) })
    }

    /// Dimensions and constants, which are cheap to read.
    ///
    /// # Errors
    /// If the configuration is missing, broken or not supported.
    pub fn config(&self) -> Result<DecoderConfig, DecoderError> {
        match self {
            Self::Folder(path) => read_config(path),
            Self::Gguf(file) => file.config(),
        }
    }

    /// What `generation_config.json` proposes; of GGUF, the tokens that begin and end a text.
    ///
    /// # Errors
    /// If the file is broken.
    pub fn generation(&self, config: &DecoderConfig) -> Result<GenerationDefaults, DecoderError> {
        match self {
            Self::Folder(path) => read_generation_defaults(path),
            Self::Gguf(_) => Ok(GenerationDefaults {
                eos_token_ids: config.eos_token_ids.clone(),
                bos_token_id: config.bos_token_id,
                ..GenerationDefaults::default()
            }),
        }
    }

    /// The weights, and the hash of their content and of the configuration. Whether the head is the embedding is decided by
    /// the tensors that are there, and `config` says it from then on.
    ///
    /// # Errors
    /// If a tensor is missing, strange, of another shape or type, or a file is broken.
    pub fn weights(&self, config: &mut DecoderConfig) -> Result<(Weights, Digest), DecoderError> {
        let (weights, digest) = match self {
            Self::Folder(path) => {
                let store = TensorStore::open_dir(path)?;
                let scheme = scheme(path)?;
                let weights = assemble(config, &HfSource::new(&store, config, scheme))?;
                config.tie_word_embeddings = weights.lm_head.is_none();
                let mut digest = digest_tensors("safetensors", store.contents());
                if let Some(scheme) = scheme {
                    digest = Hasher::new("quantised").part(digest.as_bytes()).part(format!("{scheme:?}")).finish();
                }
                (weights, digest)
            }
            Self::Gguf(file) => (file.weights(config)?, file.digest()),
        };
        let mut hasher = Hasher::new("model");
        hasher.part(digest.as_bytes());
        for constant in config.identity() {
            hasher.part(constant);
        }
        Ok((weights, hasher.finish()))
    }

    /// What the tensors are stored in, by type: `bf16`, `nf4` …, and llama.cpp's names of blocks, as `Q4_K`.
    ///
    /// # Errors
    /// If the files cannot be read.
    pub fn stored_types(&self) -> Result<BTreeMap<String, StoredTensors>, DecoderError> {
        match self {
            Self::Folder(path) => Ok(TensorStore::open_dir(path)?.by_type()),
            Self::Gguf(file) => Ok(file.by_type()),
        }
    }
}

impl DecoderConfig {
    /// The configuration of a checkpoint, read alone.
    ///
    /// # Errors
    /// As [`Checkpoint::open`] and [`Checkpoint::config`].
    pub fn load(path: &Path) -> Result<Self, DecoderError> {
        Checkpoint::open(path)?.config()
    }
}
