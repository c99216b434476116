//! A base with an adapter's changes computed into its weights, one tensor at a time.

mod change;
mod plan;
mod shards;
mod top;

use std::{fs, path::Path};

use harness_core::Control;
use serde_json::{Map, Value};

use crate::{
    Adapter, DecoderError,
    config::{read_config, read_json},
    weights::{HfSource, TensorStore, is_tied, refuse_quantised},
};
use plan::Plan;
use top::Base;
#[cfg(feature = "cuda")]
pub(crate) use top::whole_tables;

/// Bytes of the largest file of weights that is written, as in transformers.
const SHARD: u64 = 5_000_000_000;

/// Writes weights and `config.json` of a base in Hugging Face layout with an adapter merged into it to the folder `out`, in
/// files of at most about 5 GB. Changes are computed in f32 and rounded once to the type that the base stores; all else is
/// copied as it is. The model is what base and adapter are beside each other; a head that was the embedding becomes one of
/// its own if they differ. Memory holds the adapter and some rows of one tensor; where the adapter began as a part of the
/// base (PiSSA, OLoRA), all of one tensor in f32, up to three times. `on_tensor` is told how many of how many
/// tensors are written, and may stop the work.
///
/// # Errors
/// If base or adapter cannot be read or do not fit each other, the base is quantised, a bias is to be changed that the base
/// lacks, a part of the base that is to be taken out is not unique, a changed weight is beyond the range of its type, or a
/// file cannot be written; [`DecoderError::Stopped`].
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
    let source = HfSource::new(&store, &config, None);
    let plan = Plan::new(&loaded, Base { config: &config, source: &source, store: &store }, adapter)?;
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

#[cfg(test)]
mod tests {
    use harness_kernels::HostTensor;

    use super::*;
    use crate::{AdapterConfig, TargetModules};

    #[test]
    fn several_files_hold_what_one_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let tensor = |name: &str, shape: [usize; 2]| {
            let values = (0..shape[0] * shape[1]).map(|i| ((i + name.len()) as f32 * 12.9898).sin()).collect();
            (name.to_owned(), HostTensor::from_f32(shape, values))
        };
        let write = |to: &str, config: &AdapterConfig, tensors: &[(String, HostTensor)]| {
            config.save(tensors, &path(to)).unwrap();
        };
        let base = ["model.embed_tokens.weight", "lm_head.weight", "something"].map(|name| tensor(name, [6, 4]));
        write("base", &AdapterConfig::default(), &base);
        fs::rename(path("base/adapter_model.safetensors"), path("base/model.safetensors")).unwrap();
        let config = serde_json::json!({
            "model_type": "llama", "vocab_size": 6, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1,
            "num_attention_heads": 1, "tie_word_embeddings": false,
        });
        fs::write(path("base/config.json"), config.to_string()).unwrap();
        let modules = ["embed_tokens", "lm_head"].map(str::to_owned).to_vec();
        let config = AdapterConfig { r: 2, target_modules: Some(TargetModules::Names(modules)), ..Default::default() };
        let factors = [
            ("model.embed_tokens.lora_embedding_A", [2, 6]),
            ("model.embed_tokens.lora_embedding_B", [4, 2]),
            ("lm_head.lora_A.weight", [2, 4]),
            ("lm_head.lora_B.weight", [6, 2]),
        ];
        write("adapter", &config, &factors.map(|(name, shape)| tensor(name, shape)));
        for (out, shard) in [("one", SHARD), ("several", 100)] {
            merge_in(&path("base"), &path("adapter"), &path(out), shard, &mut |_, _| Control::Continue).unwrap();
        }
        assert!(path("several/model-00003-of-00003.safetensors").exists());
        let [one, several] = ["one", "several"].map(|out| TensorStore::open_dir(&path(out)).unwrap());
        assert_eq!(one.names().count(), 3);
        for (name, before) in &base {
            let [one, several] = [&one, &several].map(|store| store.tensor(name).unwrap().to_f32().into_owned());
            assert_eq!(one, several);
            assert_eq!(one == before.to_f32().into_owned(), name == "something", "{name}");
        }
    }
}
