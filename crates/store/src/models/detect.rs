//! Telling models apart by the files that are there. Contents are left to the engine, except for the names of shards
//! and of an adapter's base.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use harness_core::SplitName;
use serde_json::Value;

use crate::{Result, StoreError};

/// A model on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A folder with configuration, safetensors and tokenizer.
    HuggingFace(HuggingFaceDirectory),
    /// A GGUF file, which holds all three, or the files that it is split into.
    Gguf {
        /// The file, or one of its parts.
        path: PathBuf,
    },
    /// A PEFT adapter, which needs a base model.
    Adapter(AdapterDirectory),
}

/// The files of a model in Hugging Face layout; all that are named exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HuggingFaceDirectory {
    /// The folder.
    pub path: PathBuf,
    /// `config.json`.
    pub config: PathBuf,
    /// The safetensors files: one, or all shards of the index in the order of their names.
    pub weights: Vec<PathBuf>,
    /// `model.safetensors.index.json` of sharded weights.
    pub index: Option<PathBuf>,
    /// `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<PathBuf>,
    /// `generation_config.json`.
    pub generation_config: Option<PathBuf>,
    /// `chat_template.jinja` (newer repositories keep the template beside `tokenizer_config.json`).
    pub chat_template: Option<PathBuf>,
}

/// The files of a PEFT adapter; all that are named exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterDirectory {
    /// The folder.
    pub path: PathBuf,
    /// `adapter_config.json`.
    pub config: PathBuf,
    /// `adapter_model.safetensors`.
    pub weights: PathBuf,
    /// `base_model_name_or_path` of the configuration, where it states one.
    pub base: Option<String>,
}

impl ModelSource {
    /// Tells what a path is.
    ///
    /// # Errors
    /// [`StoreError::NotAModel`] says what is missing and what was found; [`StoreError::Io`] if the path does not
    /// exist or cannot be read.
    pub fn detect(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(StoreError::io("open", path))?;
        if metadata.is_file() {
            return detect_file(path);
        }
        let files = Files::read(path)?;
        let adapter = files.find("adapter_config.json");
        if let Some(config) = adapter
            && (files.has("adapter_model.safetensors") || !files.has("config.json"))
        {
            return adapter_directory(&files, config).map(Self::Adapter);
        }
        if !files.has("config.json") {
            let gguf = files.with_extension("gguf");
            match gguf.as_slice() {
                [path] => return detect_file(path),
                [] => {}
                [first, rest @ ..] if rest.iter().all(|path| parts_of(first).contains(path)) => {
                    return detect_file(first);
                }
                _ => return Err(files.error("several GGUF files: name the one to load")),
            }
        }
        hugging_face_directory(&files).map(Self::HuggingFace)
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        match self {
            Self::HuggingFace(directory) => &directory.path,
            Self::Gguf { path } => path,
            Self::Adapter(directory) => &directory.path,
        }
    }

    /// What it is, in a word for tables: `safetensors`, `gguf`, `adapter`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::HuggingFace(_) => "safetensors",
            Self::Gguf { .. } => "gguf",
            Self::Adapter(_) => "adapter",
        }
    }

    /// The files with weights.
    pub fn weights(&self) -> Vec<PathBuf> {
        match self {
            Self::HuggingFace(directory) => directory.weights.clone(),
            Self::Gguf { path } => parts_of(path).into_iter().filter(|part| part.is_file()).collect(),
            Self::Adapter(directory) => vec![directory.weights.clone()],
        }
    }
}

/// The files of one folder.
struct Files {
    folder: PathBuf,
    names: BTreeSet<String>,
}

impl Files {
    fn read(folder: &Path) -> Result<Self> {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(folder).map_err(StoreError::io("list", folder))? {
            let entry = entry.map_err(StoreError::io("list", folder))?;
            names.insert(entry.file_name().to_string_lossy().into_owned());
        }
        Ok(Self { folder: folder.to_owned(), names })
    }

    fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The path of a file, if it exists (a dangling link does not).
    fn find(&self, name: &str) -> Option<PathBuf> {
        self.names.contains(name).then(|| self.folder.join(name)).filter(|path| path.is_file())
    }

    fn with_extension(&self, extension: &str) -> Vec<PathBuf> {
        let paths = self.names.iter().map(|name| self.folder.join(name));
        paths.filter(|path| path.extension().is_some_and(|e| e == extension) && path.is_file()).collect()
    }

    fn error(&self, reason: impl Into<String>) -> StoreError {
        StoreError::NotAModel {
            path: self.folder.clone(),
            reason: reason.into(),
            found: self.names.iter().cloned().collect(),
        }
    }
}

/// The file itself, or all parts of the model that it is a part of, whether they exist or not.
pub(super) fn parts_of(path: &Path) -> Vec<PathBuf> {
    match SplitName::parse(&path.file_name().unwrap_or_default().to_string_lossy()) {
        Some(name) => name.parts().map(|part| path.with_file_name(part)).collect(),
        None => vec![path.to_owned()],
    }
}

fn detect_file(path: &Path) -> Result<ModelSource> {
    use std::io::Read as _;
    let error = |reason: &str| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        StoreError::NotAModel { path: path.to_owned(), reason: reason.to_owned(), found: name.into_iter().collect() }
    };
    let mut start = Vec::new();
    let file = harness_core::open_file(path).map_err(StoreError::io("open", path))?;
    file.take(4).read_to_end(&mut start).map_err(StoreError::io("read", path))?;
    if start == b"GGUF" {
        return Ok(ModelSource::Gguf { path: path.to_owned() });
    }
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    Err(error(match extension {
        "gguf" => "the file does not start with \"GGUF\": it is damaged, or a pointer file of Git LFS",
        "safetensors" | "json" => "a part of a model: give its folder",
        _ => "a single file must be a .gguf; otherwise give a folder in Hugging Face layout",
    }))
}

fn hugging_face_directory(files: &Files) -> Result<HuggingFaceDirectory> {
    let (weights, index) = weights(files)?;
    let Some(config) = files.find("config.json") else {
        return Err(files.error("no config.json: copy it from the model's repository"));
    };
    let Some(tokenizer) = files.find("tokenizer.json") else {
        return Err(files.error(if files.has("tokenizer.model") {
            "no tokenizer.json: convert tokenizer.model (load it with transformers' AutoTokenizer and save_pretrained)"
        } else {
            "no tokenizer: copy tokenizer.json from the model's repository"
        }));
    };
    Ok(HuggingFaceDirectory {
        path: files.folder.clone(),
        config,
        weights,
        index,
        tokenizer,
        tokenizer_config: files.find("tokenizer_config.json"),
        generation_config: files.find("generation_config.json"),
        chat_template: files.find("chat_template.jinja"),
    })
}

/// The weight files, and the index if there is one.
fn weights(files: &Files) -> Result<(Vec<PathBuf>, Option<PathBuf>)> {
    if let Some(single) = files.find("model.safetensors") {
        return Ok((vec![single], None));
    }
    if let Some(index) = files.find("model.safetensors.index.json") {
        let shards = shards(&index)?;
        let missing: Vec<&str> = shards.iter().filter(|name| !files.has(name)).map(String::as_str).collect();
        if !missing.is_empty() {
            return Err(files.error(format!(
                "{} of the {} shards that model.safetensors.index.json lists are missing: {}",
                missing.len(),
                shards.len(),
                missing.join(", ")
            )));
        }
        return Ok((shards.iter().map(|name| files.folder.join(name)).collect(), Some(index)));
    }
    let others = files.with_extension("safetensors");
    match others.as_slice() {
        [only] => return Ok((vec![only.clone()], None)),
        [] => {}
        _ => return Err(files.error("several safetensors files and no model.safetensors.index.json to join them")),
    }
    let pickled = ["bin", "pt", "pth"].iter().any(|extension| !files.with_extension(extension).is_empty());
    Err(files.error(if pickled {
        "weights only in PyTorch's pickle format, which is not read: convert them to safetensors (save_pretrained does)"
    } else if files.has("config.json") {
        "no weights: model.safetensors, or its shards with model.safetensors.index.json, are missing"
    } else {
        "neither config.json with safetensors, nor a .gguf file, nor adapter_config.json"
    }))
}

fn shards(index: &Path) -> Result<BTreeSet<String>> {
    const EXPECTED: &str = r#"{"weight_map": {TENSOR: FILE}}"#;
    let value = read_json(index, EXPECTED)?;
    let map = value.get("weight_map").and_then(Value::as_object);
    let names: Option<BTreeSet<String>> =
        map.and_then(|map| map.values().map(|name| name.as_str().map(str::to_owned)).collect());
    match names {
        Some(names) if names.iter().any(|name| name.contains(['/', '\\'])) => {
            Err(StoreError::bad_file(index, "a shard in another folder", "names of files beside the index"))
        }
        Some(names) if !names.is_empty() => Ok(names),
        _ => Err(StoreError::bad_file(index, "no names of shards", EXPECTED)),
    }
}

fn adapter_directory(files: &Files, config: PathBuf) -> Result<AdapterDirectory> {
    let Some(weights) = files.find("adapter_model.safetensors") else {
        return Err(files.error(if files.has("adapter_model.bin") {
            "adapter weights only in PyTorch's pickle format, which is not read: convert them to safetensors"
        } else {
            "no adapter_model.safetensors beside adapter_config.json"
        }));
    };
    let value = read_json(&config, "a PEFT configuration")?;
    let base = value.get("base_model_name_or_path").and_then(Value::as_str).filter(|base| !base.is_empty());
    Ok(AdapterDirectory { path: files.folder.clone(), base: base.map(str::to_owned), config, weights })
}

fn read_json(path: &Path, expected: &str) -> Result<Value> {
    let bytes = harness_core::read_file(path).map_err(StoreError::io("read", path))?;
    serde_json::from_slice(&bytes).map_err(|error| {
        StoreError::bad_row(path, format!("line {}", error.line()), format!("bad JSON ({error})"), expected)
    })
}
