//! Small models on disk for the tests of loading.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use harness_test_support::beside;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

/// A tensor to be written: element type, shape, bytes.
pub(crate) type Raw = (Dtype, Vec<usize>, Vec<u8>);

/// Tensors by name.
pub(crate) type Tensors = BTreeMap<String, Raw>;

/// The reference model of 260k parameters, if it is there.
pub(crate) fn stories() -> Option<PathBuf> {
    Some(beside("HARNESS_MODELS", "models")?.join("stories260k"))
}

/// The directory made by the script for SmolLM2-135M-Instruct, if it is there.
pub(crate) fn smollm2() -> Option<PathBuf> {
    beside("HARNESS_SMOLLM2", "../smollm2")
}

/// Values that look random, the same every time.
pub(crate) fn values(name: &str, len: usize) -> Vec<f32> {
    let mut state = name.bytes().fold(17u32, |state, byte| state.wrapping_mul(31).wrapping_add(byte.into()));
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..len).map(|_| next()).collect()
}

/// An f32 tensor of such values.
pub(crate) fn raw(name: &str, shape: &[usize]) -> Raw {
    let bytes = values(name, shape.iter().product()).iter().flat_map(|x| x.to_le_bytes()).collect();
    (Dtype::F32, shape.to_vec(), bytes)
}

/// A `config.json` of a tiny model.
pub(crate) fn tiny_config(model_type: &str) -> Value {
    json!({
        "model_type": model_type, "vocab_size": 8, "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2,
        "tie_word_embeddings": false,
    })
}

/// The tensors of [`tiny_config`].
pub(crate) fn tiny_tensors(model_type: &str) -> Tensors {
    let (vocab, hidden, inner, q, kv, head) = (8, 8, 12, 16, 8, 4);
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        ("model.embed_tokens.weight".into(), vec![vocab, hidden]),
        ("model.norm.weight".into(), vec![hidden]),
        ("lm_head.weight".into(), vec![vocab, hidden]),
    ];
    for layer in 0..2 {
        let mut add =
            |name: &str, shape: &[usize]| shapes.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        add("self_attn.q_proj.weight", &[q, hidden]);
        add("self_attn.k_proj.weight", &[kv, hidden]);
        add("self_attn.v_proj.weight", &[kv, hidden]);
        add("self_attn.o_proj.weight", &[hidden, q]);
        add("mlp.gate_proj.weight", &[inner, hidden]);
        add("mlp.up_proj.weight", &[inner, hidden]);
        add("mlp.down_proj.weight", &[hidden, inner]);
        add("input_layernorm.weight", &[hidden]);
        add("post_attention_layernorm.weight", &[hidden]);
        if model_type == "qwen2" {
            add("self_attn.q_proj.bias", &[q]);
            add("self_attn.k_proj.bias", &[kv]);
            add("self_attn.v_proj.bias", &[kv]);
        }
        if model_type == "qwen3" {
            add("self_attn.q_norm.weight", &[head]);
            add("self_attn.k_norm.weight", &[head]);
        }
    }
    shapes.into_iter().map(|(name, shape)| (name.clone(), raw(&name, &shape))).collect()
}

/// The bytes of a safetensors file.
pub(crate) fn safetensors(tensors: &Tensors) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

/// A `tokenizer.json` of eight tokens.
pub(crate) fn tiny_tokenizer() -> String {
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": false,
            "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4, " ": 5, "ab": 6, " a": 7},
            "merges": [["a", "b"], [" ", "a"]]},
    })
    .to_string()
}

/// Writes a whole tiny model.
pub(crate) fn write_model(dir: &Path, config: &Value, tensors: &Tensors) {
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    fs::write(dir.join("model.safetensors"), safetensors(tensors)).unwrap();
    fs::write(dir.join("tokenizer.json"), tiny_tokenizer()).unwrap();
    let tokens = json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>"});
    fs::write(dir.join("tokenizer_config.json"), tokens.to_string()).unwrap();
}

/// A tiny model in a temporary directory.
pub(crate) fn tiny(model_type: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), &tiny_config(model_type), &tiny_tensors(model_type));
    dir
}
