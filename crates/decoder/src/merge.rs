//! A base with an adapter's changes computed into its weights, one tensor at a time.

mod change;
mod plan;
mod shards;

use std::{fs, path::Path};

use harness_core::Control;
use serde_json::{Map, Value};

use crate::{
    Adapter, DecoderError,
    config::{read_config, read_json},
    weights::{HfSource, TensorStore, is_tied, refuse_quantised},
};
use plan::Plan;

/// Bytes of the largest file of weights that is written, as in transformers.
const SHARD: u64 = 5_000_000_000;

/// Writes weights and `config.json` of a base in Hugging Face layout with an adapter merged into it to the folder `out`, in
/// files of at most about 5 GB. Changes are computed in f32 and rounded once to the type that the base stores; all else is
/// copied as it is. Memory holds the adapter and some rows of one tensor; where linears are stored `[in, out]`, one
/// tensor. `on_tensor` is told how many of how many tensors are written, and may stop the work.
///
/// # Errors
/// If base or adapter cannot be read or do not fit each other, the base is quantised, a bias is to be changed that the base
/// lacks, a changed weight is beyond the range of its type, or a file cannot be written; [`DecoderError::Stopped`].
pub fn merge_adapter(
    base: &Path,
    adapter: &Path,
    out: &Path,
    on_tensor: &mut dyn FnMut(usize, usize) -> Control,
) -> Result<(), DecoderError> {
    merge_in(base, adapter, out, SHARD, on_tensor)
}

fn merge_in(
    base: &Path,
    adapter: &Path,
    out: &Path,
    shard: u64,
    on_tensor: &mut dyn FnMut(usize, usize) -> Control,
) -> Result<(), DecoderError> {
    refuse_quantised(base)?;
    let mut json: Map<String, Value> = read_json(&base.join("config.json"))?;
    let mut config = read_config(base)?;
    let store = TensorStore::open_dir(base)?;
    let tied = is_tied(&store, &config)?;
    config.tie_word_embeddings = tied;
    let loaded = Adapter::load(adapter, &config)?;
    let plan = Plan::new(&loaded, &config, &HfSource::new(&store, &config, None), &store, adapter)?;
    drop(store);
    shards::write(base, &plan, out, shard, on_tensor)?;

    let family = config.architecture.family();
    let mut set = |key: &str, value: Value| {
        let within = json.get_mut(family.within).and_then(Value::as_object_mut);
        if let Some(object) = within {
            object.insert(key.to_owned(), value.clone());
        }
        if family.within.is_empty() || key == "tie_word_embeddings" || json.contains_key(key) {
            json.insert(key.to_owned(), value);
        }
    };
    if plan.vocab_size != config.vocab_size {
        set("vocab_size", plan.vocab_size.into());
    }
    if plan.tied != tied {
        set("tie_word_embeddings", plan.tied.into());
    }
    let text = serde_json::to_string_pretty(&json).unwrap_or_default() + "\n";
    fs::create_dir_all(out).map_err(|e| DecoderError::write(out, e))?;
    let path = out.join("config.json");
    harness_core::atomic_write(&path, text).map_err(|e| DecoderError::write(&path, e))
}
