//! Writing the tensors of a plan as safetensors, in files of a bounded size, a few rows at a time.

use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
    path::Path,
};

use harness_core::{Control, atomic_write_with};
use harness_kernels::{FloatType, HostData, HostTensor};
use safetensors::{Dtype, tensor::TensorInfo};
use serde_json::{Value, json};

use super::{
    change::{self, Change},
    plan::{Plan, Source},
};
use crate::{
    DecoderError,
    weights::{Remapped, le_bytes},
};

/// Elements that are in memory as f32 at a time, at least a row.
const ELEMENTS: usize = 1 << 22;

/// A tensor to be written.
struct Entry {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Entry {
    fn bytes(&self) -> u64 {
        (self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8) as u64
    }
}

/// Writes the tensors of the folder `base` as `plan` changes them to the folder `out`.
pub(super) fn write(
    base: &Path,
    plan: &Plan<'_>,
    out: &Path,
    limit: u64,
    on_tensor: &mut dyn FnMut(usize, usize) -> Control,
) -> Result<(), DecoderError> {
    let mut tensors = Remapped::new(base)?;
    let entries = entries(&mut tensors, plan)?;
    let total: u64 = entries.iter().map(Entry::bytes).sum();
    let (count, mut done) = (entries.len(), 0);
    let shards = shards(entries, limit);
    let number = shards.len();
    let mut places = BTreeMap::new();
    for (index, mut shard) in shards.into_iter().enumerate() {
        let file = match number {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{number:05}.safetensors", index + 1),
        };
        // Wide elements first, so that all are aligned.
        shard.sort_by_key(|entry| std::cmp::Reverse(entry.dtype.bitsize()));
        let path = out.join(&file);
        let failed = |error| DecoderError::write(&path, error);
        atomic_write_with(&path, failed, |writer| {
            writer.write_all(&header(&shard)).map_err(failed)?;
            for entry in &shard {
                let mut put = |bytes: &[u8]| writer.write_all(bytes).map_err(failed);
                tensor(&mut tensors, plan, entry, &mut put)?;
                done += 1;
                if on_tensor(done, count) == Control::Stop {
                    return Err(DecoderError::Stopped);
                }
            }
            Ok(())
        })?;
        places.extend(shard.into_iter().map(|entry| (entry.name, Value::from(file.as_str()))));
    }
    tensors.check()?;
    if number == 1 {
        return Ok(());
    }
    let index = json!({ "metadata": { "total_size": total }, "weight_map": places });
    let path = out.join("model.safetensors.index.json");
    let text = serde_json::to_string_pretty(&index).unwrap_or_default() + "\n";
    harness_core::atomic_write(&path, text).map_err(|e| DecoderError::write(&path, e))
}

/// All tensors, sorted by name.
fn entries(tensors: &mut Remapped, plan: &Plan<'_>) -> Result<Vec<Entry>, DecoderError> {
    let store = tensors.store(0)?;
    let mut entries = BTreeMap::new();
    for name in store.names() {
        let Some((dtype, shape)) = store.info(name) else { continue };
        let shape = match plan.changes.get(name) {
            Some(Change::Replaced(new)) => new.shape.clone(),
            _ => shape.to_vec(),
        };
        entries.insert(name.to_owned(), Entry { name: name.to_owned(), dtype, shape });
    }
    for (name, (source, like)) in &plan.added {
        let Some((dtype, shape)) = store.info(like) else { continue };
        let shape = match source {
            Source::Given(new) => new.shape.clone(),
            Source::Base => shape.to_vec(),
        };
        entries.insert(name.clone(), Entry { name: name.clone(), dtype, shape });
    }
    Ok(entries.into_values().collect())
}

/// Runs of tensors of at most `limit` bytes together, or of one tensor.
fn shards(entries: Vec<Entry>, limit: u64) -> Vec<Vec<Entry>> {
    let (mut shards, mut size) = (vec![vec![]], 0);
    for entry in entries {
        let bytes = entry.bytes();
        if size > 0 && size + bytes > limit {
            shards.push(vec![]);
            size = 0;
        }
        size += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push(entry);
        }
    }
    shards
}

/// Length and JSON of a file's header, a multiple of eight bytes.
fn header(shard: &[Entry]) -> Vec<u8> {
    let mut at = 0;
    let mut fields: BTreeMap<&str, Value> = shard
        .iter()
        .map(|entry| {
            let begin = at;
            at += entry.bytes() as usize;
            let info = TensorInfo { dtype: entry.dtype, shape: entry.shape.clone(), data_offsets: (begin, at) };
            (entry.name.as_str(), json!(info))
        })
        .collect();
    fields.insert("__metadata__", json!(HashMap::from([("format", "pt")])));
    let mut text = json!(fields).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes()[..], &text].concat()
}

/// Gives the bytes of a tensor to `put`, one piece after the other.
fn tensor(
    tensors: &mut Remapped,
    plan: &Plan<'_>,
    entry: &Entry,
    put: &mut dyn FnMut(&[u8]) -> Result<(), DecoderError>,
) -> Result<(), DecoderError> {
    let Entry { name, dtype, shape } = entry;
    let store = tensors.store(entry.bytes())?;
    let given = |new: &HostTensor, put: &mut dyn FnMut(&[u8]) -> Result<(), DecoderError>| {
        rounded_rows(name, new, *dtype, &mut |_, _| {}, put)
    };
    match (plan.changes.get(name), plan.added.get(name)) {
        (_, Some((Source::Given(new), _))) | (Some(Change::Replaced(new)), None) => given(new, put),
        (_, Some((Source::Base, like))) => put(&store.bytes(like)?),
        (Some(Change::Bias(runs)), None) => {
            let stored = store.tensor(name)?;
            let mut values = stored.to_f32().into_owned();
            for (first, added) in runs {
                values[*first..].iter_mut().zip(added).for_each(|(value, added)| *value += added);
            }
            given(&HostTensor::from_f32(shape.clone(), values), put)
        }
        (Some(Change::Sum { runs, transposed: false }), None) => {
            let cols = shape.last().copied().unwrap_or(1);
            let stored = store.tensor(name)?;
            let rows = stored.data.len() / cols;
            let mut add = |first: usize, values: &mut [f32]| change::sum(runs, first, cols, values);
            rounded_rows(name, &stored.reshaped(&[rows, cols]), *dtype, &mut add, put)
        }
        (Some(Change::Sum { runs, transposed: true }), None) => {
            let turned = store.tensor(name)?.transposed();
            let cols = turned.cols();
            let mut values = turned.to_f32().into_owned();
            change::sum(runs, 0, cols, &mut values);
            given(&HostTensor::from_f32(turned.shape, values).transposed(), put)
        }
        (None, None) => put(&store.bytes(name)?),
    }
}

/// Changes rows of a tensor, rounds them to the type of the file and gives their bytes to `put`.
fn rounded_rows(
    name: &str,
    tensor: &HostTensor,
    dtype: Dtype,
    change: &mut dyn FnMut(usize, &mut [f32]),
    put: &mut dyn FnMut(&[u8]) -> Result<(), DecoderError>,
) -> Result<(), DecoderError> {
    let kind = match dtype {
        Dtype::BF16 => FloatType::Bf16,
        Dtype::F16 => FloatType::F16,
        _ => FloatType::F32,
    };
    let beyond = || DecoderError::OutOfRange { tensor: name.to_owned(), dtype: kind.name() };
    let (rows, cols) = (tensor.rows(), tensor.cols());
    let step = (ELEMENTS / cols.max(1)).max(1);
    for first in (0..rows).step_by(step) {
        let part = tensor.select_rows(std::iter::once(first..rows.min(first + step)));
        let mut values = part.to_f32().into_owned();
        change(first, &mut values);
        let rounded = HostTensor::from_f32(part.shape, values).stored_as(kind).ok_or_else(beyond)?;
        let finite = match &rounded.data {
            HostData::Bf16(data) => data.iter().all(|x| x.is_finite()),
            HostData::F32(data) => data.iter().all(|x| x.is_finite()),
            _ => true,
        };
        if !finite {
            return Err(beyond());
        }
        put(&le_bytes(&rounded))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_keep_to_the_limit_and_have_a_tensor_at_least() {
        let entry = |name: &str, rows| Entry { name: name.to_owned(), dtype: Dtype::BF16, shape: vec![rows, 5] };
        let all = ["a", "b", "c", "d"].into_iter().zip([3, 2, 9, 1]);
        let shards = shards(all.map(|(name, rows)| entry(name, rows)).collect(), 50);
        let names: Vec<Vec<&str>> = shards.iter().map(|s| s.iter().map(|e| e.name.as_str()).collect()).collect();
        assert_eq!(names, [vec!["a", "b"], vec!["c"], vec!["d"]]);
        let header = header(&shards[0]);
        assert_eq!((header.len() % 8, header[0] as usize + 8), (0, header.len()));
        let text: Value = serde_json::from_slice(&header[8..]).unwrap();
        assert_eq!(text["b"], json!({ "dtype": "BF16", "shape": [2, 5], "data_offsets": [30, 50] }));
    }
}
