//! Tensors of a folder that are read one after the other.

use std::path::{Path, PathBuf};

use harness_kernels::{HostData, HostTensor, check_maps};

use serde_json::{Map, Value};

use super::{HfSource, Place, TensorSource, TensorStore};
use crate::{DecoderConfig, DecoderError, config::read_json};

/// Bytes that are read before files are mapped anew.
const WINDOW: u64 = 1 << 28;

/// The tensors of a folder, whose files are mapped anew from time to time: pages that were read count as memory of the
/// process as long as their map is there.
pub(crate) struct Remapped {
    folder: PathBuf,
    store: TensorStore,
    read: u64,
}

impl Remapped {
    /// The tensors of a folder in Hugging Face layout.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(crate) fn new(folder: &Path) -> Result<Self, DecoderError> {
        Ok(Self { folder: folder.to_owned(), store: TensorStore::open_dir(folder)?, read: 0 })
    }

    /// The tensors, of which so many bytes are read next.
    ///
    /// # Errors
    /// If the files cannot be read any more, or have become shorter.
    pub(crate) fn store(&mut self, bytes: u64) -> Result<&TensorStore, DecoderError> {
        if self.read > 0 && self.read + bytes > WINDOW {
            self.check()?;
            self.store = TensorStore::open_dir(&self.folder)?;
            self.read = 0;
        }
        self.read += bytes;
        Ok(&self.store)
    }

    /// Fails if a file has become shorter, whose end was then read as zeros.
    ///
    /// # Errors
    /// The file.
    pub(crate) fn check(&self) -> Result<(), DecoderError> {
        check_maps().map_err(|(path, error)| DecoderError::read(&path, error))
    }
}

/// Whether the head is the embedding: the configuration says so, and no other head is stored.
///
/// # Errors
/// If both are stored and cannot be read.
pub(crate) fn is_tied(store: &TensorStore, config: &DecoderConfig) -> Result<bool, DecoderError> {
    let source = HfSource::new(store, config, None);
    let [embed, head] = [Place::Embed, Place::LmHead].map(|place| source.name(place));
    if !config.tie_word_embeddings || !store.contains(&head) || !store.contains(&embed) {
        return Ok(config.tie_word_embeddings);
    }
    let same_type = store.info(&embed) == store.info(&head);
    Ok(same_type && store.bytes(&embed)?[..] == store.bytes(&head)?[..])
}

/// Fails if a model is stored in codes that its `config.json` describes.
///
/// # Errors
/// If it is, or there is no such file.
pub(crate) fn refuse_quantised(folder: &Path) -> Result<(), DecoderError> {
    let path = folder.join("config.json");
    let json: Map<String, Value> = read_json(&path)?;
    let Some(found) = json.get("quantization_config").filter(|found| !found.is_null()) else { return Ok(()) };
    Err(DecoderError::Config {
        found: found.get("quant_method").unwrap_or(found).to_string(),
        path,
        key: "quantization_config".to_owned(),
        expected: "none: take the model that this one was quantised from".to_owned(),
    })
}

/// The elements as they lie in a file; blocks and 4-bit codes widened.
pub(crate) fn le_bytes(tensor: &HostTensor) -> Vec<u8> {
    match &tensor.data {
        HostData::F16(data) => data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        HostData::Bf16(data) => data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        HostData::F32(_) | HostData::Nf4(_) | HostData::Blocks(_) | HostData::Coded(_) => {
            tensor.to_f32().iter().flat_map(|x| x.to_le_bytes()).collect()
        }
    }
}
