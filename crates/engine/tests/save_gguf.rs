//! Models written as GGUF files, against themselves in Hugging Face's layout.

use std::{fs, path::Path, sync::Arc};

use harness_core::Control;
use harness_decoder::{BaseModel, Checkpoint, Decoder, GgufType, Piece, write_gguf};
use harness_engine::{EngineError, ModelFiles, save_gguf};
use harness_test_support::{
    beside,
    model::{Dims, tiny_model},
    skipped, workspace_root,
};
use serde_json::Value;

/// The vectors before the head for these tokens.
fn hidden(path: &Path, tokens: &[u32]) -> Vec<f32> {
    let checkpoint = Checkpoint::open(path).unwrap();
    let mut config = checkpoint.config().unwrap();
    let (weights, _) = checkpoint.weights(&mut config).unwrap();
    let length = config.max_position_embeddings;
    let decoder = Decoder::new(Arc::new(BaseModel::new(config, weights, length)));
    let wanted = (0..tokens.len()).collect();
    let mut pieces = [Piece { tokens, path: vec![], tail: None, wanted, length: tokens.len() }];
    let hidden = decoder.forward(&mut pieces).unwrap();
    decoder.logits(&hidden).unwrap()
}

/// Root of the mean square of a difference, relative to the first's.
fn difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let off: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    (off / a.iter().map(|&a| square(a)).sum::<f64>()).sqrt()
}

fn save(folder: &Path, to: &Path, kind: GgufType) -> Result<(), EngineError> {
    save_gguf(folder, to, kind, "a model", &mut |_, _| Control::Continue)
}

/// The difference of logits that every type makes.
fn differences(model: &Path, tokens: &[u32]) -> [f64; 3] {
    let folder = tempfile::tempdir().unwrap();
    let expected = hidden(model, tokens);
    [GgufType::F16, GgufType::Q8_0, GgufType::Q4KM].map(|kind| {
        let file = folder.path().join(format!("{}.gguf", kind.name()));
        save(model, &file, kind).unwrap();
        difference(&expected, &hidden(&file, tokens))
    })
}

#[test]
fn the_embedded_model_is_written_with_its_tokenizer_and_template() {
    let model = workspace_root().join("models/tiny");
    let tokens: Vec<u32> = (0..200).map(|i| (i * 37 + 11) % 1400).collect();
    let [half, eight, four] = differences(&model, &tokens);
    assert!(half < 1e-5 && eight < 0.02 && four < 0.1, "{half} {eight} {four}");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiny.gguf");
    save(&model, &file, GgufType::Q4KM).unwrap();
    let (before, after) = (ModelFiles::load(&model).unwrap(), ModelFiles::load(&file).unwrap());
    let text = "Hello, world!  12 cats\n\n";
    assert_eq!(after.tokenizer.encode(text, true).unwrap(), before.tokenizer.encode(text, true).unwrap());
    assert_eq!(after.config.eos_token_ids, before.config.eos_token_ids);
    let source = |files: &ModelFiles| files.chat_template.as_ref().map(|template| template.source().to_owned());
    assert_eq!(source(&after), source(&before));
    let types = Checkpoint::open(&file).unwrap().stored_types().unwrap();
    // Rows of 128 and 384 elements are no whole blocks of 256.
    assert_eq!(types.keys().collect::<Vec<_>>(), ["Q5_0", "Q8_0", "f32"]);
}

#[test]
fn rows_of_256_elements_have_the_large_blocks() {
    let model = tempfile::tempdir().unwrap();
    let dims = Dims { layers: 3, hidden: 256, intermediate: 512, ..Dims::default() };
    tiny_model(model.path(), 7, dims);
    let [half, eight, four] = differences(model.path(), &[5, 80, 200, 31, 260, 17, 99]);
    assert!(half < 0.002 && eight < 0.03 && four < 0.2, "{half} {eight} {four}");
    let file = model.path().join("m.gguf");
    save(model.path(), &file, GgufType::Q4KM).unwrap();
    let types = Checkpoint::open(&file).unwrap().stored_types().unwrap();
    // Of 3 layers the first two thirds of `use_more_bits`: layer 2 has more bits, and so has the head.
    let counts: Vec<(&str, usize)> = types.iter().map(|(name, stored)| (name.as_str(), stored.tensors)).collect();
    assert_eq!(counts, [("Q4_K", 20), ("Q6_K", 3), ("f32", 7)]);
}

#[test]
fn what_a_file_cannot_say_is_refused() {
    let model = tempfile::tempdir().unwrap();
    tiny_model(model.path(), 7, Dims::default());
    let change = |key: &str, value: Value| {
        let path = model.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config[key] = value;
        fs::write(path, config.to_string()).unwrap();
    };
    let refused = || save(model.path(), &model.path().join("m.gguf"), GgufType::F16).unwrap_err().to_string();
    change("model_type", "mistral".into());
    change("sliding_window", 16.into());
    assert!(refused().contains("`sliding_window` of this model cannot be said"), "{}", refused());
    change("sliding_window", Value::Null);
    save(model.path(), &model.path().join("m.gguf"), GgufType::F16).unwrap();
    change("model_type", "stablelm".into());
    assert!(refused().contains("models of the family stablelm are not written as GGUF"), "{}", refused());

    change("model_type", "llama".into());
    let path = model.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    tokenizer["added_tokens"][1]["rstrip"] = true.into();
    fs::write(&path, tokenizer.to_string()).unwrap();
    assert!(refused().contains("the token \"</s>\" has the property `rstrip`"), "{}", refused());
}

/// The families that are written and have a checkpoint beside the checkout.
const FAMILIES: [&str; 15] = [
    "gemma-a",
    "gemma2-a",
    "gemma3_text-a",
    "phi3-a",
    "qwen2_moe-a",
    "qwen3_moe-a",
    "olmo2-a",
    "olmo3-a",
    "smollm3-a",
    "granite-a",
    "starcoder2-a",
    "gpt2-a",
    "gpt_neox-a",
    "glm4-a",
    "cohere2-a",
];

#[test]
fn families_are_the_same_models_in_half_precision() {
    let Some(folder) = beside("HARNESS_FAMILIES", "families") else { return };
    let (mut wrong, mut written) = (vec![], 0);
    for name in FAMILIES {
        let model = folder.join(name);
        if !model.exists() {
            skipped(format_args!("{} does not exist", model.display()));
            continue;
        }
        let out = tempfile::tempdir().unwrap();
        let file = out.path().join("m.gguf");
        // These tiny models have options that real ones lack: what a file cannot say is refused.
        match write_gguf(&model, &file, GgufType::F16, vec![], &mut |_, _| Control::Continue) {
            Err(error) if error.to_string().contains("cannot be said") => continue,
            Err(error) => wrong.push(format!("{name}: {error}")),
            Ok(()) => {
                written += 1;
                let tokens: Vec<u32> = (0..40).map(|i| (i * 37 + 11) % 90).collect();
                let off = difference(&hidden(&model, &tokens), &hidden(&file, &tokens));
                if off > 0.005 {
                    wrong.push(format!("{name}: logits differ by {off}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(written >= 8, "{written} of the families could be written");
}
