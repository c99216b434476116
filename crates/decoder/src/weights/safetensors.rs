//! Safetensors files, single or sharded, memory-mapped.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use harness_core::open_file;
use harness_kernels::{Buffer, HostData, HostTensor, Map, map_file, mapped};

use crate::{DecoderError, config::read_json};

/// The tensors of one or more safetensors files, by name.
pub(crate) struct TensorStore {
    root: PathBuf,
    files: Vec<(PathBuf, Arc<Map>)>,
    entries: BTreeMap<String, Entry>,
}

/// Where one tensor lies.
struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    begin: usize,
    end: usize,
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl TensorStore {
    /// Opens `model.safetensors`, or the shards named by `model.safetensors.index.json`.
    pub(crate) fn open_dir(dir: &Path) -> Result<Self, DecoderError> {
        let single = dir.join("model.safetensors");
        if single.exists() {
            return Self::open_file(&single);
        }
        let index_path = dir.join("model.safetensors.index.json");
        if !index_path.exists() {
            return Err(DecoderError::Missing {
                path: dir.to_owned(),
                what: "model.safetensors or model.safetensors.index.json".to_owned(),
                hint: "weights are read from safetensors files (or from a .gguf file); \
                       convert other formats with transformers' save_pretrained"
                    .to_owned(),
            });
        }
        let index: Index = read_json(&index_path)?;
        let shards: BTreeSet<&String> = index.weight_map.values().collect();
        let mut store = Self { root: dir.to_owned(), files: Vec::new(), entries: BTreeMap::new() };
        for shard in shards {
            let path = dir.join(shard);
            if !path.exists() {
                return Err(DecoderError::Missing {
                    path: dir.to_owned(),
                    what: format!("shard {shard}"),
                    hint: format!("it is named in {}; download it again", index_path.display()),
                });
            }
            store.add(&path)?;
        }
        Ok(store)
    }

    /// Opens one file.
    pub(crate) fn open_file(path: &Path) -> Result<Self, DecoderError> {
        let mut store = Self { root: path.to_owned(), files: Vec::new(), entries: BTreeMap::new() };
        store.add(path)?;
        Ok(store)
    }

    fn add(&mut self, path: &Path) -> Result<(), DecoderError> {
        let map = open_file(path).and_then(|file| map_file(file, path)).map_err(|e| DecoderError::read(path, e))?;
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(|error| broken(path, map.len(), &error.to_string()))?;
        let start = 8 + header;
        let file = self.files.len();
        for (name, info) in metadata.tensors().into_iter().collect::<BTreeMap<_, _>>() {
            let (begin, end) = info.data_offsets;
            let entry =
                Entry { file, dtype: info.dtype, shape: info.shape.clone(), begin: start + begin, end: start + end };
            if let Some(other) = self.entries.insert(name.clone(), entry) {
                let other = self.files[other.file].0.display();
                let reason = format!("tensor `{name}` is in {other} too; the files belong to different models");
                return Err(DecoderError::Weights { path: path.to_owned(), reason });
            }
        }
        self.files.push((path.to_owned(), Arc::new(map)));
        Ok(())
    }

    /// The file or directory that was opened.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Names of all tensors, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The stored bytes of every tensor with its name, element type and shape, sorted by name.
    pub(crate) fn contents(&self) -> impl Iterator<Item = (&str, String, &[usize], &[u8])> {
        self.entries.iter().map(|(name, entry)| {
            let bytes = &self.files[entry.file].1[entry.begin..entry.end];
            (name.as_str(), dtype_name(entry.dtype), entry.shape.as_slice(), bytes)
        })
    }

    /// The file that holds a tensor.
    pub(crate) fn file_of(&self, name: &str) -> &Path {
        self.entries.get(name).map_or(&self.root, |entry| &self.files[entry.file].0)
    }

    /// One tensor, whatever its shape, sharing the mapped file.
    ///
    /// # Errors
    /// If there is none of this name, or its element type is not f32, f16 or bf16.
    pub(crate) fn tensor(&self, name: &str) -> Result<HostTensor, DecoderError> {
        let Some(entry) = self.entries.get(name) else {
            return Err(DecoderError::MissingTensors { path: self.root.clone(), names: vec![name.to_owned()] });
        };
        let (path, map) = &self.files[entry.file];
        let len = entry.shape.iter().product();
        let data = match entry.dtype {
            Dtype::F32 => mapped(map, entry.begin, len).map(HostData::F32),
            Dtype::F16 => mapped(map, entry.begin, len).map(HostData::F16),
            Dtype::BF16 => mapped(map, entry.begin, len).map(HostData::Bf16),
            other => {
                return Err(DecoderError::TensorDtype {
                    path: path.clone(),
                    tensor: name.to_owned(),
                    found: dtype_name(other),
                    supported: "f32, f16 and bf16",
                });
            }
        };
        let data = data.ok_or_else(|| broken(path, map.len(), "a tensor reaches beyond the end of the file"))?;
        Ok(HostTensor { shape: entry.shape.clone(), data })
    }

    /// The element type and shape of a tensor.
    pub(crate) fn info(&self, name: &str) -> Option<(Dtype, &[usize])> {
        self.entries.get(name).map(|entry| (entry.dtype, entry.shape.as_slice()))
    }

    /// The bytes of a tensor of any type, sharing the mapped file.
    ///
    /// # Errors
    /// If there is none of this name.
    pub(crate) fn bytes(&self, name: &str) -> Result<Buffer<u8>, DecoderError> {
        let Some(entry) = self.entries.get(name) else {
            return Err(DecoderError::MissingTensors { path: self.root.clone(), names: vec![name.to_owned()] });
        };
        let (path, map) = &self.files[entry.file];
        mapped(map, entry.begin, entry.end - entry.begin)
            .ok_or_else(|| broken(path, map.len(), "a tensor reaches beyond the end of the file"))
    }

    /// One tensor of a given shape.
    ///
    /// # Errors
    /// As [`Self::tensor`], and if the shape differs.
    pub(crate) fn tensor_of(&self, name: &str, shape: &[usize]) -> Result<HostTensor, DecoderError> {
        let tensor = self.tensor(name)?;
        if tensor.shape == shape {
            return Ok(tensor);
        }
        Err(DecoderError::TensorShape {
            path: self.file_of(name).to_owned(),
            tensor: name.to_owned(),
            found: tensor.shape,
            expected: shape.to_vec(),
        })
    }
}

fn broken(path: &Path, len: usize, reason: &str) -> DecoderError {
    DecoderError::Weights {
        path: path.to_owned(),
        reason: format!("not a complete safetensors file ({len} bytes): {reason}; copy or download it again"),
    }
}

/// The element type's name in lower case.
fn dtype_name(dtype: Dtype) -> String {
    format!("{dtype:?}").to_lowercase()
}
