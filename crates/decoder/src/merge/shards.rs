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
    change::{Change, Source, matrix, parts},
    plan::Plan,
};
use crate::{
    DecoderError,
    weights::{Remapped, le_bytes},
};

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
    let mut add = |name: &str, (dtype, shape): (Dtype, &[usize])| {
        entries.insert(name.to_owned(), Entry { name: name.to_owned(), dtype, shape: shape.to_vec() });
    };
    store.names().filter_map(|name| Some((name, store.info(name)?))).for_each(|(name, info)| add(name, info));
    for (name, Change { source, .. }) in &plan.changes {
        let Some((dtype, shape)) = store.info(source.name()) else { continue };
        match source {
            Source::Base(_) => add(name, (dtype, shape)),
            Source::Given(tensor, _) => add(name, (dtype, &tensor.shape)),
        }
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
    let Some(change) = plan.changes.get(name) else { return put(&store.bytes(name)?) };
    let source = match &change.source {
        Source::Base(name) if change.is_none() => return put(&store.bytes(name)?),
        Source::Base(name) => store.tensor(name)?,
        Source::Given(tensor, _) => tensor.clone(),
    };
    let kind = match dtype {
        Dtype::BF16 => FloatType::Bf16,
        Dtype::F16 => FloatType::F16,
        _ => FloatType::F32,
    };
    let beyond = || DecoderError::OutOfRange { tensor: name.to_owned(), dtype: kind.name() };
    let (rows, cols) = matrix(shape);
    let source = source.reshaped(&[rows, cols]);
    let module = || name.strip_suffix(".weight").unwrap_or(name).to_owned();
    let ready = change.over(&source).map_err(|reason| DecoderError::AdapterPart { module: module(), reason })?;
    for (first, part) in parts(&source) {
        let mut values = part.to_f32().into_owned();
        ready.change(first, &mut values);
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
