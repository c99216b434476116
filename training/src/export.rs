//! What a run writes for others to load: a PEFT adapter directory, or a model in Hugging Face layout.

use std::path::{Path, PathBuf};

use harness_decoder::DecoderConfig;
use serde_json::Value;

use crate::{
    TrainingError,
    backend::Backend,
    files::{WeightDtype, write_file, write_json, write_tensors},
    lora::LoraSpec,
    params::ParamStore,
};

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

/// Whether a run may have written a file or folder of this name into its folder.
pub fn is_written_by_a_run(name: &str) -> bool {
    const NAMES: [&str; 6] = [
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.json",
        "model.safetensors",
        "metrics.jsonl",
        "training.json",
    ];
    let whole = name.strip_suffix(".partial").unwrap_or(name);
    let curve = [".svg", ".png"].iter().any(|end| whole.ends_with(end));
    let folder = ["checkpoint-", "partial-checkpoint-"].iter().any(|begin| whole.starts_with(begin));
    curve
        || folder
        || whole.ends_with(".tmp")
        || ["data", "tensorboard"].contains(&whole)
        || NAMES.contains(&whole)
        || TOKENIZER_FILES.contains(&whole)
}

/// What the trained parameters become.
#[derive(Clone, Debug, PartialEq)]
pub enum Artifact {
    /// `adapter_config.json` and `adapter_model.safetensors`, as Python's peft writes them.
    Adapter {
        /// The adapter.
        spec: LoraSpec,
        /// The base model's name or path, for whoever loads the adapter.
        base: String,
        /// The base's dimensions and names.
        config: Box<DecoderConfig>,
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
    /// If a file cannot be read or written, or the device fails.
    pub fn write<B: Backend>(&self, backend: &B, store: &ParamStore<B>, folder: &Path) -> Result<(), TrainingError> {
        match self {
            Self::Adapter { spec, base, config } => spec.save((backend, store), config, base, folder),
            Self::Model { config, dtype, tokenizer } => {
                let mut config = config.clone();
                config["torch_dtype"] = dtype.name().into();
                write_json(&folder.join("config.json"), &config)?;
                for name in TOKENIZER_FILES {
                    let (from, to) = (tokenizer.join(name), folder.join(name));
                    if from.is_file() && from != to {
                        let data = harness_core::read_file(&from).map_err(TrainingError::io("read", &from))?;
                        write_file(&to, &data)?;
                    }
                }
                let params = store.layout().params();
                let tensors: Vec<_> = params.iter().map(|p| (p.name.clone(), p.shape.clone())).collect();
                let data = &mut |number: usize| Ok(store.value(backend, &params[number])?);
                write_tensors(&folder.join("model.safetensors"), &tensors, *dtype, data)
            }
        }
    }
}
