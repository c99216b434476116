//! From recipe files to a model and an adapter that the engine loads and scores alike.

use std::{fmt::Write, fs, path::Path, sync::Arc};

use harness_core::Seed;
use harness_engine::{Adapter, LoadedBase, LocalModel, ModelFiles, ModelOptions};
use harness_store::{DataLocator, FileHashes};
use harness_training::{
    Recipe,
    data::{Batch, tokenize},
    recipe::ResolvedRecipe,
    run::{Base, Run},
    telemetry::{Silent, read_lines},
};

const WORDS: [&str; 12] =
    ["what", "is", "the", "colour", "of", "grass", "sky", "snow", "green", "blue", "white", "answer"];

/// A tokenizer of whole words.
fn write_tokenizer(folder: &Path) {
    let mut vocab = serde_json::Map::new();
    for (id, word) in ["<unk>", "<s>", "</s>"].into_iter().chain(WORDS).enumerate() {
        vocab.insert(word.to_owned(), id.into());
    }
    let special = |id: u32, content: &str| {
        serde_json::json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true
        })
    };
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).expect("a tokenizer");
    let config = serde_json::json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"});
    fs::write(folder.join("tokenizer_config.json"), config.to_string()).expect("a tokenizer");
}

fn write_data(folder: &Path) {
    let mut rng = Seed(3).stream("data", 0);
    let facts = [("grass", "green"), ("sky", "blue"), ("snow", "white")];
    let mut text = String::new();
    for _ in 0..60 {
        let (thing, colour) = facts[rng.below(3) as usize];
        let row = serde_json::json!({"prompt": format!("what is the colour of {thing}"), "completion": format!(" answer {colour}")});
        writeln!(text, "{row}").expect("a string grows");
    }
    fs::write(folder.join("rows.jsonl"), text).expect("a file");
    let template =
        "columns = [\"prompt\", \"completion\"]\nprompt = \"{{ prompt }}\"\ncompletion = \"{{ completion }}\"\n";
    fs::write(folder.join("pairs.toml"), template).expect("a file");
}

fn resolve(folder: &Path, name: &str, text: &str, base: Option<&str>) -> ResolvedRecipe {
    let path = folder.join(name);
    fs::write(&path, text).expect("a file");
    Recipe::load(&path).expect("a recipe").resolve(base, &DataLocator::default()).expect("everything is there")
}

const SCRATCH: &str = r#"
name = "tiny"
method = "full"
[data]
source = "rows.jsonl"
template = "pairs.toml"
strip = false
max_length = 32
packing = true
loss = "full"
[model]
tokenizer = "."
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
max_position_embeddings = 64
dtype = "bf16"
[training]
epochs = 6
batch_size = 2
learning_rate = 0.01
eval_steps = 10
"#;

const ADAPTER: &str = r#"
name = "r4"
method = "lora"
[data]
source = "rows.jsonl"
template = "pairs.toml"
strip = false
max_length = 32
[lora]
rank = 4
alpha = 8
dropout = 0.05
[training]
max_steps = 12
batch_size = 4
gradient_accumulation_steps = 2
learning_rate = 0.01
schedule = "linear"
"#;

#[test]
fn a_model_from_scratch_and_an_adapter_over_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write_tokenizer(folder);
    write_data(folder);
    let hashes = FileHashes::open(folder);

    let output = folder.join("tiny");
    let recipe = resolve(folder, "tiny.toml", SCRATCH, None);
    let mut run = Run::prepare(&recipe, None, &hashes, &output).expect("a run");
    let before = run.trainer().evaluate(&mut Silent).expect("a loss");
    let summary = run.train(false, &mut Silent).expect("training");
    let best = summary.best.expect("an evaluation").eval_loss;
    assert!(best < before / 2.0, "{before} {best}");
    for name in
        ["config.json", "model.safetensors", "tokenizer.json", "metrics.jsonl", "training.json", "data/test.jsonl"]
    {
        assert!(output.join(name).is_file(), "{name} is missing");
    }
    assert!(!read_lines(&output.join("metrics.jsonl")).expect("a log").is_empty());

    let files = ModelFiles::load(&output).expect("a model");
    let adapter_folder = folder.join("r4");
    let recipe = resolve(folder, "r4.toml", ADAPTER, Some("tiny"));
    let base = Base { name: "tiny", path: &output, files: &files };
    let mut run = Run::prepare(&recipe, Some(base), &hashes, &adapter_folder).expect("a run");
    run.train(false, &mut Silent).expect("training");

    let too_long = ADAPTER.replace("max_length = 32", "max_length = 65");
    let too_long = resolve(folder, "long.toml", &too_long, Some("tiny"));
    let error = Run::prepare(&too_long, Some(base), &hashes, &folder.join("long")).err().expect("refused");
    assert!(error.to_string().contains("data.max_length: is 65") && !folder.join("long").exists(), "{error}");

    let trained_loss = run.trainer().evaluate(&mut Silent).expect("a loss");

    let config = files.config.clone();
    let validation = recipe.prepare().expect("data").validation;
    let data = &recipe.recipe.data;
    let (samples, _) = tokenize(&validation, &files.tokenizer, data.loss, data.max_length).expect("tokens");
    let labels = Batch::of(&samples).num_labels();
    let loaded = Arc::new(LoadedBase::new(files, ModelOptions::default()));
    let adapter = Adapter::load(&adapter_folder, &config).expect("an adapter");
    let sequences: Vec<Vec<u32>> = samples.iter().map(|sample| sample.tokens.clone()).collect();
    let first: Vec<usize> = samples.iter().map(|sample| sample.loss_from).collect();
    let loss = |model: &LocalModel| -> f64 {
        let scores = model.score_tokens(&sequences, &first).expect("scores");
        -scores.iter().flat_map(|(scores, _)| scores).map(|&x| f64::from(x)).sum::<f64>() / labels as f64
    };
    let with_adapter = loss(&LocalModel::with_adapter(loaded.clone(), &adapter).expect("an adapter of this base"));
    let without = loss(&LocalModel::new(loaded));
    assert!((with_adapter - trained_loss).abs() < 1e-5, "{with_adapter} {trained_loss}");
    assert!((with_adapter - without).abs() > 1e-4, "the adapter changes something");

    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(adapter_folder.join("training.json")).expect("a manifest")).expect("JSON");
    assert_eq!(manifest["base"]["name"], "tiny");
    assert_eq!(manifest["summary"]["steps"], 12);
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write_tokenizer(folder);
    write_data(folder);
    let hashes = FileHashes::open(folder);
    let output = folder.join("out");
    let error = Run::prepare(&resolve(folder, "b.toml", ADAPTER, Some("tiny")), None, &hashes, &output).err();
    assert!(error.expect("refused").to_string().contains("base"));
    assert!(!output.exists());
}
