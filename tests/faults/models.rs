//! Models and adapters that are broken or do not fit.

use harness_test_support::{Dims, World, model::write_json, tiny_adapter, tiny_model};
use serde_json::Value;

use super::world;

/// Refused with exit code 2 by every command that loads a model, with these words; nothing is stored.
#[track_caller]
fn refused(world: &World, model: &str, words: &[&str]) {
    world.run(&["generate", model, "-p", "x", "--max-new-tokens", "1"]).expect(2).says(words);
    world.run(&["run", model, "-t", "toy_choice", "-L", "1"]).expect(2).says(words);
    let object = world.run(&["run", model, "-t", "toy_choice", "-L", "1", "--json"]).expect(2).json();
    assert_eq!(object["exit_code"], 2);
    assert_eq!(world.stored(), 0);
}

fn change_config(world: &World, change: impl Fn(&mut Value)) {
    let mut config: Value = serde_json::from_str(&world.read("models/base/config.json")).unwrap();
    change(&mut config);
    write_json(&world.path("models/base/config.json"), &config);
}

#[test]
fn missing_weights() {
    let world = world();
    std::fs::remove_file(world.path("models/base/model.safetensors")).unwrap();
    refused(&world, "base", &["models/base", "model.safetensors", "missing"]);
    world.write("models/base/pytorch_model.bin", "pickle");
    refused(&world, "base", &["models/base", "pickle", "safetensors"]);
}

#[test]
fn a_missing_shard() {
    let world = world();
    std::fs::remove_file(world.path("models/base/model.safetensors")).unwrap();
    let index = r#"{"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}"#;
    world.write("models/base/model.safetensors.index.json", index);
    refused(&world, "base", &["models/base", "model-00001-of-00002.safetensors"]);
}

#[test]
fn truncated_weights() {
    let whole = world().bytes("models/base/model.safetensors");
    for keep in [0, 4, 100, whole.len() / 2, whole.len() - 1] {
        let world = world();
        world.write("models/base/model.safetensors", &whole[..keep]);
        refused(&world, "base", &["models/base/model.safetensors"]);
    }
}

#[test]
fn weights_that_are_something_else() {
    let world = world();
    world.write("models/base/model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
    refused(&world, "base", &["models/base/model.safetensors"]);
}

#[test]
fn wrong_shapes() {
    let world = world();
    change_config(&world, |config| config["intermediate_size"] = 96.into());
    refused(&world, "base", &["mlp.", "[64, 32]", "[96, 32]"]);
}

#[test]
fn missing_tensors() {
    let world = world();
    change_config(&world, |config| config["num_hidden_layers"] = 3.into());
    refused(&world, "base", &["models/base", "missing", "model.layers.2."]);
}

#[test]
fn unknown_architecture() {
    let world = world();
    change_config(&world, |config| {
        config["model_type"] = "mamba".into();
        config["architectures"] = serde_json::json!(["MambaForCausalLM"]);
    });
    refused(
        &world,
        "base",
        &["models/base/config.json", "\"mamba\"", "not supported", "recurrent state", "models list --supported"],
    );
}

#[test]
fn broken_configuration() {
    let world = world();
    world.write("models/base/config.json", "{\"model_type\": \"llama\",\n \"hidden_size\": }");
    refused(&world, "base", &["models/base/config.json", "line 2"]);
    let other = super::world();
    change_config(&other, |config| config["hidden_size"] = "wide".into());
    refused(&other, "base", &["models/base/config.json", "hidden_size", "wide"]);
}

#[test]
fn missing_or_broken_tokenizer() {
    let world = world();
    std::fs::remove_file(world.path("models/base/tokenizer.json")).unwrap();
    refused(&world, "base", &["models/base", "tokenizer.json"]);
    world.write("models/base/tokenizer.json", "{\"version\": \"1.0\"}");
    refused(&world, "base", &["models/base/tokenizer.json"]);
    world.write("models/base/tokenizer.json", "{");
    refused(&world, "base", &["models/base/tokenizer.json"]);
}

#[test]
fn a_tokenizer_with_more_tokens_than_the_model() {
    let world = world();
    tiny_model(&world.path("models/base"), 1, Dims::default());
    let mut tokenizer: Value = serde_json::from_str(&world.read("models/base/tokenizer.json")).unwrap();
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    added.push(serde_json::json!({"id": 298, "content": "Anna", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": false}));
    write_json(&world.path("models/base/tokenizer.json"), &tokenizer);
    world.run(&["generate", "base", "-p", "Anna has"]).expect(2).says(&["298"]);
}

#[test]
fn broken_chat_template() {
    let world = world();
    world.replace("models/base/tokenizer_config.json", "{% endfor %}", "{% endfro %}");
    world.run(&["generate", "base", "-p", "x", "--chat"]).expect(2).says(&["template", "endfro"]);
}

#[test]
fn weights_that_are_no_numbers() {
    let world = world();
    let mut bytes = world.bytes("models/base/model.safetensors");
    let end = bytes.len();
    for chunk in bytes[end - 4096..].chunks_exact_mut(4) {
        chunk.copy_from_slice(&f32::NAN.to_le_bytes());
    }
    world.write("models/base/model.safetensors", bytes);
    let outcome = world.run(&["run", "base", "-t", "toy_choice"]);
    assert!(matches!(outcome.code, Some(1 | 2)), "{outcome:?}");
    outcome.says(&["not finite"]);
    assert_eq!(world.stored(), 0, "no NaN is kept");
}

#[test]
fn broken_gguf() {
    let world = world();
    let mut torn = b"GGUF".to_vec();
    torn.extend(3u32.to_le_bytes());
    torn.extend(7u64.to_le_bytes());
    torn.extend(9u64.to_le_bytes());
    for (name, content) in [
        ("empty", vec![]),
        ("magic", b"GGUF".to_vec()),
        ("torn", torn.clone()),
        ("garbage", [&torn[..], &[0xff; 400]].concat()),
        ("pointer", b"version https://git-lfs.github.com/spec/v1".to_vec()),
    ] {
        let file = format!("models/{name}.gguf");
        world.write(&file, content);
        refused(&world, &file, &[&file]);
    }
}

#[test]
fn an_adapter_for_another_base() {
    let world = world();
    let wide = Dims { hidden: 48, ..Dims::default() };
    tiny_adapter(&world.path("adapters/a4"), "base", wide, 4, 1, false);
    refused(&world, "a4", &["adapters/a4", "q_proj", "another base"]);
    let deep = Dims { layers: 3, ..Dims::default() };
    tiny_adapter(&world.path("adapters/a8"), "base", deep, 4, 1, false);
    refused(&world, "a8", &["another base"]);
}

#[test]
fn an_adapter_without_a_base() {
    let world = world();
    world.replace("adapters/a4/adapter_config.json", "\"base\"", "\"nowhere/to-be-found\"");
    refused(&world, "adapters/a4", &["nowhere/to-be-found"]);
    world.replace("adapters/a4/adapter_config.json", "\"nowhere/to-be-found\"", "null");
    refused(&world, "adapters/a4", &["adapters/a4/adapter_config.json", "does not name its base", "harness.toml"]);
}

#[test]
fn broken_adapters() {
    let whole = world().bytes("adapters/a4/adapter_model.safetensors");
    let world = world();
    world.write("adapters/a4/adapter_model.safetensors", &whole[..whole.len() / 2]);
    refused(&world, "a4", &["adapters/a4/adapter_model.safetensors"]);
    std::fs::remove_file(world.path("adapters/a4/adapter_model.safetensors")).unwrap();
    refused(&world, "adapters/a4", &["adapters/a4", "adapter_model.safetensors"]);
    world.replace("adapters/a8/adapter_config.json", "\"r\": 8", "\"r\": 0");
    refused(&world, "a8", &["adapters/a8"]);
    world.replace("adapters/zero/adapter_config.json", "\"LORA\"", "\"PREFIX_TUNING\"");
    refused(&world, "zero", &["adapters/zero/adapter_config.json", "PREFIX_TUNING"]);
}

#[test]
fn what_was_stored_stays() {
    let world = world();
    let before = world.run(&["compare", "base", "a4"]).expect(0);
    let stored = world.stored();
    let whole = world.bytes("adapters/a8/adapter_model.safetensors");
    world.write("adapters/a8/adapter_model.safetensors", &whole[..100]);
    world.run(&["compare", "base", "a8"]).expect(2);
    assert_eq!(world.stored(), stored);
    assert_eq!(world.run(&["compare", "base", "a4", "--from-store"]).expect(0).stdout, before.stdout);
}
