//! Whole files: text, JSON and tensors, each written beside its place and renamed.

use std::{io::Write, path::Path};

use harness_core::atomic_write_with;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::TrainingError;

/// The type that finished weights are stored in; training itself is in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightDtype {
    /// 32-bit floating point.
    #[default]
    F32,
    /// 16 bits with the exponent range of f32, rounded to nearest even.
    Bf16,
}

impl WeightDtype {
    /// The name in `config.json` (`torch_dtype`).
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
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
    let failed = |error| TrainingError::io("write", path)(error);
    atomic_write_with(path, failed, |file| {
        let mut write = |bytes: &[u8]| file.write_all(bytes).map_err(failed);
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

/// Writes a whole file, so that a reader sees all of it or nothing.
pub(crate) fn write_file(path: &Path, data: &[u8]) -> Result<(), TrainingError> {
    harness_core::atomic_write(path, data).map_err(TrainingError::io("write", path))
}
