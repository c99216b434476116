//! What a run writes for others to load: a PEFT adapter directory, or a model in Hugging Face layout.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use safetensors::{Dtype, tensor::TensorView};
use serde_json::Value;

use crate::{TrainingError, backend::Backend, lora::LoraSpec, params::ParamStore, recipe::WeightDtype};

/// Files beside the weights that a model needs and training does not change.
const TOKENIZER_FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
];

/// What the trained parameters become.
#[derive(Clone, Debug, PartialEq)]
pub enum Artifact {
    /// `adapter_config.json` and `adapter_model.safetensors`, as Python's peft writes them.
    Adapter {
        /// The adapter.
        spec: LoraSpec,
        /// The base model's name or path, for whoever loads the adapter.
        base: String,
    },
    /// `config.json`, `model.safetensors` and the tokenizer's files.
    Model {
        /// The content of `config.json`.
        config: Value,
        /// The type of the stored weights.
        dtype: WeightDtype,
        /// The folder that the tokenizer's files are copied from.
        tokenizer: PathBuf,
    },
}

impl Artifact {
    /// Writes into an existing folder.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn write<B: Backend>(&self, backend: &B, store: &ParamStore<B>, folder: &Path) -> Result<(), TrainingError> {
        match self {
            Self::Adapter { spec, base } => {
                let adapter = spec.adapter(backend, store, base);
                adapter.save(folder).map_err(|error| TrainingError::Engine(Box::new(error)))
            }
            Self::Model { config, dtype, tokenizer } => {
                let mut config = config.clone();
                config["torch_dtype"] = dtype.name().into();
                write_json(&folder.join("config.json"), &config)?;
                for name in TOKENIZER_FILES {
                    let (from, to) = (tokenizer.join(name), folder.join(name));
                    if from.is_file() && from != to {
                        let data = fs::read(&from).map_err(TrainingError::io("read", &from))?;
                        write_file(&to, &data)?;
                    }
                }
                let tensors = store.layout().params().iter();
                let tensors = tensors.map(|p| (p.name.clone(), p.shape.clone(), store.value(backend, p)));
                write_tensors(&folder.join("model.safetensors"), tensors, *dtype)
            }
        }
    }
}

/// Writes tensors of f32 in the given type.
pub(crate) fn write_tensors(
    path: &Path,
    tensors: impl Iterator<Item = (String, Vec<usize>, Vec<f32>)>,
    dtype: WeightDtype,
) -> Result<(), TrainingError> {
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> =
        tensors.map(|(name, shape, data)| (name, shape, bytes(&data, dtype))).collect();
    let dtype = match dtype {
        WeightDtype::F32 => Dtype::F32,
        WeightDtype::Bf16 => Dtype::BF16,
    };
    let invalid = |error: safetensors::SafeTensorError| {
        TrainingError::io("write", path)(std::io::Error::other(error.to_string()))
    };
    let views = tensors
        .iter()
        .map(|(name, shape, data)| Ok((name.as_str(), TensorView::new(dtype, shape.clone(), data)?)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(invalid)?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let data = safetensors::serialize(views, Some(metadata)).map_err(invalid)?;
    write_file(path, &data)
}

/// Little-endian bytes; bf16 is rounded to nearest even.
fn bytes(data: &[f32], dtype: WeightDtype) -> Vec<u8> {
    match dtype {
        WeightDtype::F32 => data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        WeightDtype::Bf16 => data.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
    }
}

/// Writes JSON with an indent of 2 and a newline at the end.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<(), TrainingError> {
    write_file(path, format!("{value:#}\n").as_bytes())
}

/// Writes a whole file: first beside its place, then renamed, so that a reader sees all of it or nothing.
pub(crate) fn write_file(path: &Path, data: &[u8]) -> Result<(), TrainingError> {
    use std::io::Write;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&partial)?;
        file.write_all(data)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&partial, path)
    };
    write().map_err(|error| {
        // What is left of a failed write is of no use; the error that matters is the first one.
        let _ = fs::remove_file(&partial);
        TrainingError::io("write", path)(error)
    })
}
