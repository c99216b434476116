//! From recipe files to a model and an adapter that the engine loads and scores alike.

use std::{
    fmt::Write,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use harness_core::Seed;
use harness_decoder::Adapter;
use harness_engine::{LoadedBase, LocalModel, ModelFiles, ModelOptions, TextTokenizer};
use harness_store::{DataLocator, FileHashes};
use harness_training::{
    Recipe, TrainingRecord,
    data::{Batch, Samples, tokenize},
    recipe::ResolvedRecipe,
    run::{Base, Run},
    telemetry::{Progress, Silent, StepReport, read_lines},
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
    let validation = recipe.prepare(None).expect("data").validation;
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
    let record = TrainingRecord::read(&adapter_folder).expect("a record").expect("of a finished run");
    assert_eq!((&record, record.to_json()), (run.record(), manifest), "what is written is what is read");
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

#[test]
fn prepared_data_are_kept_by_content() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write_tokenizer(folder);
    write_data(folder);
    let tokenizer = TextTokenizer::load(folder).expect("a tokenizer");
    // Files are hashed anew every time, as by another process.
    let prepare = |text: &str| {
        let recipe = resolve(folder, "kept.toml", text, Some("tiny")).with_cache(folder.join("prepared"));
        recipe.prepared_set(&tokenizer, None, &FileHashes::open(folder)).expect("data")
    };
    let all = |samples: &Samples| (0..samples.len()).map(|i| samples.get(i).into_owned()).collect::<Vec<_>>();
    let first = prepare(ADAPTER);
    assert!(!first.reused && first.note.is_none() && first.train.is_mapped());
    let direct = resolve(folder, "direct.toml", ADAPTER, Some("tiny"));
    let direct = direct.prepared_set(&tokenizer, None, &FileHashes::open(folder)).expect("data");
    assert!(direct.folder.is_none() && !direct.train.is_mapped());
    assert_eq!((all(&first.train), all(&first.validation)), (all(&direct.train), all(&direct.validation)));
    assert_eq!((&first.rows, first.train_tokens), (&direct.rows, direct.train_tokens));
    for set in [&first, &direct] {
        let out = folder.join(if set.folder.is_some() { "kept" } else { "direct" });
        fs::create_dir_all(&out).expect("a folder");
        set.write_texts(&out).expect("texts");
    }
    for name in ["train.jsonl", "validation.jsonl", "test.jsonl"] {
        let read = |which: &str| fs::read(folder.join(which).join(name)).expect("a text");
        assert_eq!(read("kept"), read("direct"));
    }

    // What does not change the samples does not change the key; what does, does.
    let other = ADAPTER.replace("rank = 4", "rank = 2").replace("name = \"r4\"", "name = \"x\"");
    assert!(prepare(&other).reused && prepare(ADAPTER).reused);
    assert!(!prepare(&ADAPTER.replace("max_length = 32", "max_length = 6")).reused);
    fs::copy(folder.join("rows.jsonl"), folder.join("moved.jsonl")).expect("a copy");
    assert!(prepare(&ADAPTER.replace("rows.jsonl", "moved.jsonl")).reused, "content counts, not its place");

    let kept = first.folder.expect("a folder");
    let count = || fs::read_dir(folder.join("prepared")).expect("a folder").count();
    let before = count();
    for (name, damage) in [("train.bin", 40), ("set.json", 10), ("test.jsonl", 3)] {
        let mut bytes = fs::read(kept.join(name)).expect("a file");
        bytes[damage] ^= 0x55;
        // In one step: the file is mapped, and every training of this process notices maps that become shorter.
        fs::write(folder.join("damaged"), bytes).expect("a file");
        fs::rename(folder.join("damaged"), kept.join(name)).expect("a file");
        let again = prepare(ADAPTER);
        let note = again.note.clone().unwrap_or_default();
        assert!(!again.reused && note.contains(name) && note.contains("preparing it again"), "{name}: {note}");
        assert_eq!(all(&again.train), all(&direct.train));
        assert!(prepare(ADAPTER).reused);
    }
    fs::remove_file(kept.join("validation.bin")).expect("a file");
    assert!(prepare(ADAPTER).note.is_some_and(|note| note.contains("validation.bin is missing")));
    assert_eq!(count(), before, "nothing is left over");
}

#[test]
fn filled_up_rows_change_nothing_but_the_work() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write_tokenizer(folder);
    write_data(folder);
    let hashes = FileHashes::open(folder);
    let base = folder.join("tiny");
    let scratch = SCRATCH.replace("epochs = 6", "max_steps = 3");
    Run::prepare(&resolve(folder, "tiny.toml", &scratch, None), None, &hashes, &base)
        .expect("a run")
        .train(false, &mut Silent)
        .expect("training");
    let files = ModelFiles::load(&base).expect("a model");
    let train = |padding: &str| {
        let text = ADAPTER.replace("max_length = 32", &format!("max_length = 32\npadding = \"{padding}\""));
        // Which inputs are dropped depends on where they lie.
        let text = text.replace("dropout = 0.05", "dropout = 0.0");
        let recipe = resolve(folder, &format!("{padding}.toml"), &text, Some("tiny"));
        let output = folder.join(padding);
        let of = Base { name: "tiny", path: &base, files: &files };
        let mut run = Run::prepare(&recipe, Some(of), &hashes, &output).expect("a run");
        let summary = run.train(false, &mut Silent).expect("training");
        (summary.tokens, summary.eval_loss.expect("a loss"))
    };
    let (plain, longest, all) = (train("none"), train("longest"), train("max_length"));
    assert_eq!((plain.0, plain.0), (longest.0, all.0), "tokens of samples are counted");
    assert!((plain.1 - longest.1).abs() < 1e-5 && (plain.1 - all.1).abs() < 1e-5, "{plain:?} {longest:?} {all:?}");
}

#[test]
fn a_paged_optimizer_changes_no_byte() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write_tokenizer(folder);
    write_data(folder);
    let hashes = FileHashes::open(folder);
    let scratch = SCRATCH.replace("epochs = 6", "max_steps = 6\nsave_steps = 3").replace("eval_steps = 10", "");
    let prepare = |paged: bool, output: &Path| {
        let text = format!("{scratch}paged_optimizer = {paged}\n");
        let recipe = resolve(folder, &format!("paged_{paged}.toml"), &text, None);
        Run::prepare(&recipe, None, &hashes, output).expect("a run")
    };
    let (plain, paged) = (folder.join("plain"), folder.join("paged"));
    prepare(false, &plain).train(false, &mut Silent).expect("training");
    // Interrupted in between, it goes on with the key as without it: it is the same run.
    let stop = Arc::new(AtomicBool::new(false));
    let mut first = prepare(true, &paged).with_stop(Arc::clone(&stop));
    let summary = first.train(false, &mut StopAt(2, stop)).expect("training");
    assert!(summary.interrupted && summary.steps == 2);
    let recorded = &first.record().recipe["training"]["paged_optimizer"];
    assert_eq!(*recorded, true, "the record says how it was run");
    prepare(false, &paged).train(true, &mut Silent).expect("training");
    for name in ["model.safetensors", "checkpoint-6/optimizer.safetensors"] {
        let read = |run: &Path| fs::read(run.join(name)).expect("a file");
        assert!(read(&plain) == read(&paged), "{name}");
    }
}

/// Stops a run after an update.
struct StopAt(u64, Arc<AtomicBool>);

impl Progress for StopAt {
    fn step(&mut self, report: &StepReport) {
        self.1.store(report.step == self.0, Ordering::Relaxed);
    }
}
