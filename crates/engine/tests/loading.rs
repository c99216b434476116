//! Models in Hugging Face's layout: what is read, and what bad files are answered with.

#[path = "../../decoder/tests/loading_support/mod.rs"]
mod loading_support;

use std::{collections::BTreeMap, fs, path::Path};

use harness_decoder::{
    Architecture, Checkpoint, DecoderConfig, DecoderError, RopeScaling, StoredTensors, inverse_frequencies,
};
use harness_engine::{EngineError, ModelFiles, save_quantised};
use harness_kernels::{HostData, Quantization};
use loading_support::{raw, stories, tiny, tiny_config, tiny_tensors, values, write_model};
use safetensors::Dtype;
use serde_json::{Value, json};

fn config_with(changes: &[(&str, Value)]) -> Result<DecoderConfig, DecoderError> {
    let dir = tempfile::tempdir().unwrap();
    let mut config = tiny_config("llama");
    for (key, value) in changes {
        config[*key] = value.clone();
    }
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    DecoderConfig::load(dir.path())
}

fn message<T: std::fmt::Debug, E: std::error::Error>(result: Result<T, E>) -> String {
    result.expect_err("this must fail").to_string()
}

/// The error says all of this.
fn assert_says<T: std::fmt::Debug, E: std::error::Error>(result: Result<T, E>, parts: &[&str]) {
    let message = message(result);
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

#[test]
fn reads_a_real_model() {
    let Some(dir) = stories() else { return };
    let model = ModelFiles::load(&dir).unwrap();
    let config = &model.config;
    assert_eq!(config.architecture, Architecture::LLAMA);
    assert_eq!((config.hidden_size, config.num_layers, config.head_dim, config.num_kv_heads), (64, 5, 8, 4));
    assert_eq!((config.bos_token_id, config.eos_token_ids.as_slice()), (Some(1), &[2][..]));
    assert!(config.tie_word_embeddings && model.weights.lm_head.is_none());
    assert_eq!(config.num_parameters(), 260_032);
    assert_eq!(model.weights.layers[4].down.shape, [64, 172]);
    assert_eq!(model.weights.embed.rows(), 512);
    assert!(model.tokenizer.adds_bos());
    assert_eq!(model.tokenizer.model_max_length(), Some(512));
    assert_eq!(ModelFiles::load(&dir).unwrap().digest, model.digest);
}

#[test]
fn reads_every_architecture() {
    for name in ["llama", "mistral", "qwen2", "qwen3"] {
        let model = ModelFiles::load(tiny(name).path()).unwrap();
        assert_eq!(model.config.architecture.name(), name);
        let layer = &model.weights.layers[1];
        assert_eq!(layer.q_bias.is_some(), name == "qwen2");
        assert_eq!(layer.k_norm.is_some(), name == "qwen3");
        assert!(layer.o_bias.is_none());
        assert_eq!(&*layer.q.to_f32(), values("model.layers.1.self_attn.q_proj.weight", 16 * 8));
        assert_eq!(model.weights.lm_head.as_ref().unwrap().shape, [8, 8]);
        let parameters: usize = tiny_tensors(name).values().map(|(_, shape, _)| shape.iter().product::<usize>()).sum();
        assert_eq!(model.config.num_parameters(), parameters, "{name}");
    }
}

#[test]
fn rope_is_read_in_both_spellings() {
    let old = config_with(&[("rope_theta", json!(5e5)), ("rope_scaling", json!({"type": "linear", "factor": 4.0}))]);
    let new = config_with(&[("rope_parameters", json!({"rope_type": "linear", "factor": 4, "rope_theta": 500000.0}))]);
    assert_eq!(old.as_ref().unwrap().rope, new.unwrap().rope);
    assert_eq!(old.unwrap().rope.scaling, RopeScaling::Linear { factor: 4.0 });
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                        "original_max_position_embeddings": 8192});
    assert_eq!(
        config_with(&[("rope_scaling", llama3)]).unwrap().rope.scaling,
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max: 8192 }
    );
    assert_eq!(
        config_with(&[("rope_scaling", json!({"type": "dynamic", "factor": 2.0}))]).unwrap().rope.scaling,
        RopeScaling::Dynamic { factor: 2.0, original_max: 32 }
    );
    assert_eq!(config_with(&[("rope_parameters", json!({"rope_type": "default"}))]).unwrap().rope.theta, 10_000.0);
    assert_says(
        config_with(&[("rope_scaling", json!({"type": "su", "factor": 4.0}))]),
        &["rope_scaling.type", "su", "default, linear, dynamic, llama3, yarn or longrope"],
    );
    assert_says(config_with(&[("rope_scaling", json!({"type": "linear"}))]), &["rope_scaling.factor", "nothing"]);
    let partial = [("partial_rotary_factor", json!(0.5)), ("rope_scaling", json!({"type": "linear", "factor": 2}))];
    assert_says(config_with(&partial), &["`partial_rotary_factor`", "0.5"]);
    let nested = json!({"full_attention": {"rope_type": "linear", "factor": 2.0}});
    assert_says(config_with(&[("rope_parameters", nested)]), &["rope_parameters.full_attention", "by layer type"]);
}

/// What the configuration classes and models of transformers 5.24 make of keys that are absent, null or contradict each
/// other: families, changes to `tiny_config`, and how the result differs from it (`null` where transformers fails).
#[test]
fn configurations_are_read_as_transformers_reads_them() {
    let rows: Vec<(String, Value, Value)> = serde_json::from_str(include_str!("recorded/config.json")).unwrap();
    let (mut computed, mut refused) = (0, 0);
    for (families, changes, expected) in &rows {
        for family in families.split(' ') {
            let dir = tempfile::tempdir().unwrap();
            let mut json = tiny_config(family);
            if family == "mixtral" {
                json["num_local_experts"] = json!(4);
            }
            let keys = json.as_object_mut().unwrap();
            for (key, value) in changes.as_object().unwrap() {
                if value == "__absent__" {
                    keys.remove(key)
                } else {
                    keys.insert(key.clone(), value.clone())
                };
            }
            fs::write(dir.path().join("config.json"), json.to_string()).unwrap();
            let (found, case) = (DecoderConfig::load(dir.path()), format!("{family} {changes}"));
            let Some(expected) = expected.as_object() else {
                assert!(found.is_err(), "{case}: expected a refusal");
                continue;
            };
            match found {
                Ok(config) => {
                    computed += 1;
                    assert_eq!(described(&config, expected), Value::Object(expected.clone()), "{case}");
                }
                Err(error) => {
                    refused += 1;
                    // Computed there, refused here.
                    let known = ["`hidden_act`", "`mlp_bias`", "no parameters by layer type"];
                    assert!(known.iter().any(|part| error.to_string().contains(part)), "{case}: {error}");
                }
            }
        }
    }
    assert!(computed > 350 && refused < 40, "{computed} {refused}");
}

/// In what a configuration differs from `tiny_config`; frequencies as they are expected, if they are near.
fn described(config: &DecoderConfig, expected: &serde_json::Map<String, Value>) -> Value {
    let mut windows = config.sliding_window.clone();
    if windows.len() > 2 {
        windows.dedup();
    }
    let experts = config.experts.as_ref().map_or(json!([4, 2]), |experts| json!([experts.count, experts.per_token]));
    let plain = json!({
        "vocab_size": 8, "hidden_size": 8, "intermediate_size": 12, "layers": 2, "heads": 4, "kv_heads": 2, "max": 32,
        "eps": 1e-5, "tied": false, "bos": 1, "eos": [2], "head_dim": 4, "qkv_bias": false, "o_bias": false,
        "qk_norm": false, "windows": [null, null], "experts": [4, 2],
    });
    let found = json!({
        "vocab_size": config.vocab_size, "hidden_size": config.hidden_size, "intermediate_size": config.intermediate_size,
        "layers": config.num_layers, "heads": config.num_heads, "kv_heads": config.num_kv_heads,
        "max": config.max_position_embeddings, "eps": (f64::from(config.norm_eps) * 1e9).round() / 1e9,
        "tied": config.tie_word_embeddings, "bos": config.bos_token_id, "eos": config.eos_token_ids,
        "head_dim": config.head_dim, "qkv_bias": config.qkv_bias, "o_bias": config.o_bias, "qk_norm": config.block.qk_norm.is_some(),
        "windows": windows, "experts": experts,
    });
    let mut differing: serde_json::Map<String, Value> =
        found.as_object().unwrap().clone().into_iter().filter(|(key, value)| plain[key] != *value).collect();
    for (key, length) in [("inv_freq", 1), ("inv_freq_at_50", 50)] {
        let default = (length == 1 && config.head_dim == 4).then(|| json!([1.0, 0.01]));
        let Some(numbers) = expected.get(key).or(default.as_ref()) else { continue };
        let ours = inverse_frequencies(config, length);
        let theirs: Vec<f64> = numbers.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        let near = |(a, b): (&f32, &f64)| (f64::from(*a) / b - 1.0).abs() < 1e-5;
        if ours.len() != theirs.len() || !ours.iter().zip(&theirs).all(near) {
            differing.insert(key.to_owned(), json!(ours));
        } else if let Some(numbers) = expected.get(key) {
            differing.insert(key.to_owned(), numbers.clone());
        }
    }
    Value::Object(differing)
}

#[test]
fn derives_and_defaults() {
    let config = config_with(&[
        ("head_dim", Value::Null),
        ("num_key_value_heads", Value::Null),
        ("eos_token_id", json!([2, 7])),
        ("attention_bias", json!(true)),
    ])
    .unwrap();
    assert_eq!((config.head_dim, config.num_kv_heads), (2, 4));
    assert_eq!(config.eos_token_ids, [2, 7]);
    assert!(config.qkv_bias && config.o_bias);

    let dir = tiny("llama");
    fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": [2, 5], "temperature": 0.6}"#).unwrap();
    let model = ModelFiles::load(dir.path()).unwrap();
    assert_eq!(model.config.eos_token_ids, [2, 5]);
    assert_eq!(model.generation.temperature, Some(0.6));
}

#[test]
fn windows_go_by_layer() {
    let windows = |model_type: &str, changes: Value| {
        let dir = tempfile::tempdir().unwrap();
        let mut config = tiny_config(model_type);
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        DecoderConfig::load(dir.path()).unwrap().sliding_window
    };
    assert_eq!(windows("mistral", json!({"sliding_window": 16})), [Some(16), Some(16)]);
    assert_eq!(windows("mistral", json!({"sliding_window": null})), [None, None]);
    assert_eq!(windows("llama", json!({"sliding_window": 16})), [None, None]);
    assert_eq!(windows("qwen2", json!({"sliding_window": 16, "max_window_layers": 1})), [None, None]);
    let qwen = json!({"sliding_window": 16, "use_sliding_window": true, "max_window_layers": 1});
    assert_eq!(windows("qwen2", qwen), [None, Some(16)]);
    let typed = json!({"sliding_window": 16, "use_sliding_window": true,
                       "layer_types": ["sliding_attention", "full_attention"]});
    assert_eq!(windows("qwen3", typed), [Some(16), None]);
}

#[test]
fn shards_are_the_same_model() {
    let whole = tiny("qwen2");
    let dir = tiny("qwen2");
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let (mut first, mut second) = (BTreeMap::new(), BTreeMap::new());
    let mut map = serde_json::Map::new();
    for (i, (name, tensor)) in tiny_tensors("qwen2").into_iter().enumerate() {
        let (shard, file) = if i % 2 == 0 { (&mut first, "a.safetensors") } else { (&mut second, "b.safetensors") };
        map.insert(name.clone(), json!(file));
        shard.insert(name, tensor);
    }
    fs::write(dir.path().join("a.safetensors"), loading_support::safetensors(&first)).unwrap();
    fs::write(dir.path().join("b.safetensors"), loading_support::safetensors(&second)).unwrap();
    let index = json!({"metadata": {}, "weight_map": map});
    fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let (one, two) = (ModelFiles::load(whole.path()).unwrap(), ModelFiles::load(dir.path()).unwrap());
    assert_eq!(one.digest, two.digest);
    fs::remove_file(dir.path().join("b.safetensors")).unwrap();
    assert_says(ModelFiles::load(dir.path()), &["shard b.safetensors not found", "index.json"]);
}

#[test]
fn half_precision_is_kept() {
    let mut tensors = tiny_tensors("llama");
    let exact = values("model.embed_tokens.weight", 64);
    let bf16: Vec<u8> = exact.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect();
    let f16: Vec<u8> = exact.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect();
    tensors.insert("model.embed_tokens.weight".into(), (Dtype::BF16, vec![8, 8], bf16));
    tensors.insert("lm_head.weight".into(), (Dtype::F16, vec![8, 8], f16));
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), &tiny_config("llama"), &tensors);
    let model = ModelFiles::load(dir.path()).unwrap();
    assert!(matches!(model.weights.embed.data, HostData::Bf16(_)));
    let head = model.weights.lm_head.unwrap();
    assert!(matches!(head.data, HostData::F16(_)));
    for (found, &expected) in model.weights.embed.to_f32().iter().zip(&exact) {
        assert_eq!(*found, half::bf16::from_f32(expected).to_f32());
    }
    assert!(head.to_f32().iter().zip(&exact).all(|(found, expected)| (found - expected).abs() < 1e-3));
}

#[test]
fn bad_configurations_are_named() {
    assert_says(
        config_with(&[("model_type", json!("qwen33"))]),
        &["config.json", "\"qwen33\"", "the nearest is qwen3", "harness models list --supported"],
    );
    assert_says(config_with(&[("model_type", json!("mamba2"))]), &["\"mamba2\"", "recurrent state"]);
    assert_says(config_with(&[("hidden_size", json!("many"))]), &["`hidden_size`", "\"many\"", "positive integer"]);
    assert_says(config_with(&[("vocab_size", Value::Null)]), &["`vocab_size`", "found null"]);
    assert_says(config_with(&[("num_key_value_heads", json!(3))]), &["`num_key_value_heads`", "divisor of 4"]);
    assert_says(config_with(&[("is_causal", json!(false))]), &["`is_causal`", "later tokens"]);
    assert_says(
        config_with(&[("per_layer_config", json!({"0": {"num_key_value_heads": 1}}))]),
        &["`per_layer_config`"],
    );
    assert_says(config_with(&[("hidden_act", json!("gelu_fast"))]), &["`hidden_act`", "gelu_fast", "silu"]);
    let quantised = json!({"quant_method": "aqlm"});
    assert_says(config_with(&[("quantization_config", quantised)]), &["aqlm", "bitsandbytes", "safetensors"]);
    assert_says(DecoderConfig::load(Path::new("/nowhere/at/all")), &["/nowhere/at/all", "config.json not found"]);

    let dir = tiny("llama");
    fs::write(dir.path().join("config.json"), "{\n  \"model_type\": \"llama\",\n  oops\n}").unwrap();
    assert_says(ModelFiles::load(dir.path()), &["config.json", "line 3"]);
}

#[test]
fn sizes_beyond_all_models_are_refused() {
    let keys = [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "max_position_embeddings",
    ];
    for key in keys {
        let found = config_with(&[(key, json!(1u64 << 40))]);
        assert_says(found, &["config.json", &format!("`{key}`: found 1099511627776, expected at most")]);
    }
    assert_says(config_with(&[("head_dim", json!(1u64 << 62))]), &["`head_dim`", "at most 262144 beside 4 heads"]);
    let experts = |count: u64| config_with(&[("model_type", json!("mixtral")), ("num_local_experts", json!(count))]);
    assert_says(experts(1 << 40), &["`num_local_experts`", "at most 524288"]);
    // Within the limits, but more than the weights have.
    let loaded = |keys: Value| with_tensors(&keys, |_| ());
    let layers = loaded(json!({"num_hidden_layers": 60_000}));
    assert_says(layers, &["config.json: `num_hidden_layers`: found 60000", "the files hold, which have 21 tensors"]);
    let experts = loaded(json!({"model_type": "mixtral", "num_local_experts": 50_000}));
    assert_says(experts, &["config.json: `num_local_experts`: found 50000", "21 tensors"]);
}

/// A llama with these tensors added, and these keys.
fn with_tensors(keys: &Value, change: impl Fn(&mut loading_support::Tensors)) -> Result<ModelFiles, EngineError> {
    let dir = tempfile::tempdir().unwrap();
    let (mut config, mut tensors) = (tiny_config("llama"), tiny_tensors("llama"));
    config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    change(&mut tensors);
    write_model(dir.path(), &config, &tensors);
    ModelFiles::load(dir.path())
}

#[test]
fn a_head_that_differs_counts_although_it_is_tied() {
    let tied = json!({"tie_word_embeddings": true});
    let alone = with_tensors(&tied, |tensors| drop(tensors.remove("lm_head.weight"))).unwrap();
    assert!(alone.config.tie_word_embeddings && alone.weights.lm_head.is_none());
    let equal = |tensors: &mut loading_support::Tensors| {
        tensors.insert("lm_head.weight".into(), tensors["model.embed_tokens.weight"].clone());
    };
    let same = with_tensors(&tied, equal).unwrap();
    assert!(same.config.tie_word_embeddings && same.weights.lm_head.is_none());
    let other = with_tensors(&tied, |_| ()).unwrap();
    assert!(!other.config.tie_word_embeddings);
    assert_eq!(&*other.weights.lm_head.as_ref().unwrap().to_f32(), values("lm_head.weight", 64));
    assert_eq!(other.config, with_tensors(&json!({}), |_| ()).unwrap().config);
    assert_eq!(other.digest, with_tensors(&json!({}), |_| ()).unwrap().digest, "the flag alone makes no other model");
    // Values count, not types: the same numbers in bf16 and f32 are tied.
    let halves = |head: f32| {
        move |tensors: &mut loading_support::Tensors| {
            let numbers: Vec<f32> = (0..64).map(|i| i as f32 / 64.0).collect();
            let bf16 = numbers.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect();
            let f32s = numbers.iter().flat_map(|x| (x * head).to_le_bytes()).collect();
            tensors.insert("model.embed_tokens.weight".into(), (Dtype::BF16, vec![8, 8], bf16));
            tensors.insert("lm_head.weight".into(), (Dtype::F32, vec![8, 8], f32s));
        }
    };
    assert!(with_tensors(&tied, halves(1.0)).unwrap().weights.lm_head.is_none());
    assert!(with_tensors(&tied, halves(1.5)).unwrap().weights.lm_head.is_some());
    // Of two tied tensors the head may be the one that is stored.
    let head_only = with_tensors(&tied, |tensors| drop(tensors.remove("model.embed_tokens.weight"))).unwrap();
    assert_eq!(&*head_only.weights.embed.to_f32(), values("lm_head.weight", 64));
    assert!(head_only.weights.lm_head.is_none());
}

#[test]
fn classifiers_and_reward_models_are_refused_by_name() {
    for class in ["LlamaForSequenceClassification", "LlamaForTokenClassification", "LlamaModel"] {
        assert_says(
            with_tensors(&json!({"architectures": [class]}), |_| ()),
            &["`architectures`", class, "…ForCausalLM"],
        );
    }
    assert_says(with_tensors(&json!({"num_labels": 1}), |_| ()), &["`num_labels`", "…ForCausalLM"]);
    for tensor in ["score.weight", "v_head.summary.weight", "classifier.dense.weight"] {
        let add = |tensors: &mut loading_support::Tensors| drop(tensors.insert(tensor.into(), raw("x", &[1, 8])));
        let class = json!({"architectures": ["LlamaForCausalLM"]});
        assert_says(with_tensors(&class, add), &[tensor, "no causal language model", "reward model"]);
    }
    // What transformers passes over inside the decoder is no other head.
    let inside = |tensors: &mut loading_support::Tensors| {
        tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), raw("x", &[2]));
    };
    assert!(with_tensors(&json!({"architectures": ["LlamaForCausalLM"]}), inside).is_ok());
}

#[test]
fn bad_weights_are_named() {
    let with = |change: fn(&mut loading_support::Tensors)| {
        let dir = tempfile::tempdir().unwrap();
        let mut tensors = tiny_tensors("llama");
        change(&mut tensors);
        write_model(dir.path(), &tiny_config("llama"), &tensors);
        ModelFiles::load(dir.path())
    };
    let q = "model.layers.0.self_attn.q_proj.weight";
    assert_says(
        with(|tensors| {
            let shape = loading_support::raw("x", &[16, 9]);
            tensors.insert("model.layers.0.self_attn.q_proj.weight".into(), shape);
        }),
        &["model.safetensors", q, "[16, 9]", "[16, 8]"],
    );
    assert_says(
        with(|tensors| {
            tensors.remove("model.layers.1.mlp.up_proj.weight");
            tensors.remove("lm_head.weight");
        }),
        &["2 tensors missing", "model.layers.1.mlp.up_proj.weight", "lm_head.weight"],
    );
    assert_says(
        with(|tensors| {
            tensors.insert("model.layers.0.self_attn.q_proj.weight".into(), (Dtype::F64, vec![16, 8], vec![0; 1024]));
        }),
        &[q, "f64", "f32, f16 and bf16"],
    );

    let dir = tiny("llama");
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for len in [0, 5, 100, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        assert_says(ModelFiles::load(dir.path()), &["model.safetensors"]);
    }
    fs::remove_file(&path).unwrap();
    assert_says(ModelFiles::load(dir.path()), &["model.safetensors", "not found", "safetensors files"]);
}

#[test]
fn bad_tokenizers_are_named() {
    let dir = tiny("llama");
    let path = dir.path().join("tokenizer.json");
    fs::remove_file(&path).unwrap();
    assert_says(ModelFiles::load(dir.path()), &["tokenizer.json not found"]);
    fs::write(dir.path().join("tokenizer.model"), "x").unwrap();
    assert_says(ModelFiles::load(dir.path()), &["tokenizer.json not found", "tokenizer.model alone"]);
    fs::write(&path, "{\"version\": 1").unwrap();
    assert_says(ModelFiles::load(dir.path()), &["tokenizer.json"]);
    fs::write(&path, loading_support::tiny_tokenizer().replace("\" a\":7", "\" a\":70")).unwrap();
    assert_says(ModelFiles::load(dir.path()), &["token id 70", "8 rows"]);
    let strip = r#""decoder":{"type":"Strip","content":" ","start":0,"stop":9}"#;
    fs::write(&path, loading_support::tiny_tokenizer().replace(r#""decoder":{"type":"Fuse"}"#, strip)).unwrap();
    assert_says(ModelFiles::load(dir.path()), &["tokenizer.json: ", "`decoder`: Strip with stop 9"]);
}

#[test]
fn lengths_of_truncation_and_padding_are_passed_over() {
    let dir = tiny("llama");
    let before = ModelFiles::load(dir.path()).unwrap().tokenizer;
    let padding = json!({"strategy": {"Fixed": 1u64 << 60}, "direction": "Right", "pad_to_multiple_of": null,
                         "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"});
    let truncation = json!({"max_length": 1, "strategy": "LongestFirst", "stride": 5, "direction": "Right"});
    let text = loading_support::tiny_tokenizer().replace(r#""padding":null"#, &format!(r#""padding":{padding}"#));
    let text = text.replace(r#""truncation":null"#, &format!(r#""truncation":{truncation}"#));
    fs::write(dir.path().join("tokenizer.json"), text).unwrap();
    let tokens = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": true});
    fs::write(dir.path().join("tokenizer_config.json"), tokens.to_string()).unwrap();
    let after = ModelFiles::load(dir.path()).unwrap().tokenizer;
    assert_eq!(after.encode("ab", false).unwrap(), before.encode("ab", false).unwrap());
}

#[test]
fn a_tensor_lies_in_one_shard() {
    let dir = tiny("llama");
    let whole = fs::read(dir.path().join("model.safetensors")).unwrap();
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    shards.iter().for_each(|shard| fs::write(dir.path().join(shard), &whole).unwrap());
    let index = json!({"weight_map": {"lm_head.weight": shards[0], "model.norm.weight": shards[1]}});
    fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    assert_says(ModelFiles::load(dir.path()), &[shards[1], "tensor `lm_head.weight` is in", shards[0], "too"]);
}

#[test]
fn a_quantised_copy_loads_as_the_quantised_original() {
    let (dir, out) = (tiny("llama"), tempfile::tempdir().unwrap());
    let options = Quantization::default();
    save_quantised(dir.path(), out.path(), &options).unwrap();
    let mut original = ModelFiles::load(dir.path()).unwrap();
    let digest = original.digest;
    original.quantise(&options).unwrap();
    assert_ne!(original.digest, digest, "another model from then on");
    let copy = ModelFiles::load(out.path()).unwrap();
    assert_eq!(copy.config, original.config);
    let types = Checkpoint::open(out.path()).unwrap().stored_types().unwrap();
    assert_eq!(types.keys().collect::<Vec<_>>(), ["f32", "nf4"]);
    assert_eq!((types["f32"].tensors, types["nf4"].tensors), (7, 14), "embedding, head, norms; linears");
    let plain = Checkpoint::open(dir.path()).unwrap().stored_types().unwrap();
    let bytes = tiny_tensors("llama").values().map(|(_, _, data)| data.len()).sum();
    assert_eq!(plain["f32"], StoredTensors { tensors: 21, bytes });
    for (ours, theirs) in original.weights.layers.iter().zip(&copy.weights.layers) {
        for ((projection, a), (_, b)) in ours.linears().into_iter().zip(theirs.linears()) {
            assert_eq!((a.data.dtype(), b.data.dtype()), ("nf4", "nf4"));
            assert!(a.to_f32() == b.to_f32(), "{projection}");
        }
        assert_eq!(ours.input_norm, theirs.input_norm);
    }
    assert!(original.weights.embed.to_f32() == copy.weights.embed.to_f32());
    let config = fs::read_to_string(out.path().join("config.json")).unwrap();
    assert!(config.contains("\"bnb_4bit_use_double_quant\": true") && config.contains("\"load_in_4bit\": true"));
}
