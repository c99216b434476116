//! What a run writes for others to load: a PEFT adapter directory, or a model in Hugging Face layout.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

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
                let params = store.layout().params();
                let tensors: Vec<_> = params.iter().map(|p| (p.name.clone(), p.shape.clone())).collect();
                let data = &mut |number: usize| Ok(store.value(backend, &params[number]));
                write_tensors(&folder.join("model.safetensors"), &tensors, *dtype, data)
            }
        }
    }
}

/// Writes tensors in the given type as safetensors, one after another: `data` gives the elements of each, in order, so that
/// one at a time is in memory.
pub(crate) fn write_tensors(
    path: &Path,
    tensors: &[(String, Vec<usize>)],
    dtype: WeightDtype,
    data: &mut dyn FnMut(usize) -> Result<Vec<f32>, TrainingError>,
) -> Result<(), TrainingError> {
    let (name, size) = match dtype {
        WeightDtype::F32 => ("F32", 4),
        WeightDtype::Bf16 => ("BF16", 2),
    };
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut at = 0;
    for (tensor, shape) in tensors {
        let end = at + size * shape.iter().product::<usize>();
        header.insert(tensor.clone(), json!({"dtype": name, "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    write_with(path, |file| {
        let mut write = |bytes: &[u8]| file.write_all(bytes).map_err(TrainingError::io("write", path));
        write(&(header.len() as u64).to_le_bytes())?;
        write(&header)?;
        for (number, (tensor, shape)) in tensors.iter().enumerate() {
            let elements = data(number)?;
            if elements.len() != shape.iter().product::<usize>() {
                let message = format!("has {} elements, expected {shape:?}", elements.len());
                return Err(TrainingError::Weight { name: tensor.clone(), message });
            }
            write(&bytes(&elements, dtype))?;
        }
        Ok(())
    })
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
    write_with(path, |file| file.write_all(data).map_err(TrainingError::io("write", path)))
}

/// As [`write_file`], with what `content` writes.
fn write_with(
    path: &Path,
    content: impl FnOnce(&mut BufWriter<File>) -> Result<(), TrainingError>,
) -> Result<(), TrainingError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let write = || -> Result<(), TrainingError> {
        let mut file = BufWriter::new(File::create(&partial).map_err(TrainingError::io("write", path))?);
        content(&mut file)?;
        let file = file.into_inner().map_err(|error| TrainingError::io("write", path)(error.into_error()))?;
        file.sync_all().map_err(TrainingError::io("write", path))?;
        fs::rename(&partial, path).map_err(TrainingError::io("write", path))
    };
    write().inspect_err(|_| {
        // What is left of a failed write is of no use; the error that matters is the first one.
        let _ = fs::remove_file(&partial);
    })
}
