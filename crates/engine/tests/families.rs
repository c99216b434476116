//! Tiny checkpoints of every family against references by transformers, where they are beside the checkout.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use harness_decoder::{Adapter, BaseModel, Checkpoint, Decoder, KvBlock, Piece};
use harness_engine::TextTokenizer;
use harness_test_support::{beside, skipped};
use serde_json::Value;

/// The checkpoints whose names satisfy a condition.
fn checkpoints(of: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Some(folder) = beside("HARNESS_FAMILIES", "families") else { return vec![] };
    let only = std::env::var("HARNESS_FAMILY").ok();
    let wanted = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        path.join("reference.json").exists() && of(&name) && only.as_deref().is_none_or(|only| name.starts_with(only))
    };
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).filter(wanted).collect();
    found.sort();
    found
}

struct Model {
    decoder: Decoder,
    width: usize,
}

impl Model {
    fn load(path: &Path) -> Result<Self, String> {
        let load = || {
            let checkpoint = Checkpoint::open(path)?;
            let mut config = checkpoint.config()?;
            let (weights, _) = checkpoint.weights(&mut config)?;
            Ok::<_, harness_decoder::DecoderError>((config, weights))
        };
        let (config, weights) = load().map_err(|error| error.to_string())?;
        let (width, length) = (config.hidden_size, config.max_position_embeddings);
        Ok(Self { decoder: Decoder::new(BaseModel::new(config, weights, length).into()), width })
    }

    fn with_adapter(self, path: &Path) -> Result<Self, String> {
        let base = self.decoder.base();
        let load = || Decoder::with_adapter(Arc::clone(base), &Adapter::load(path, base.config())?);
        Ok(Self { decoder: load().map_err(|error| error.to_string())?, width: self.width })
    }

    /// Log-probabilities of all tokens at every position, computed in parts of these lengths.
    fn log_probs(&self, ids: &[u32], cuts: &[usize]) -> Vec<Vec<f32>> {
        let (mut hidden, mut path, mut from) = (vec![], Vec::<KvBlock>::new(), 0);
        for &len in cuts {
            let mut pieces = [Piece {
                tokens: &ids[from..from + len],
                path: path.iter().collect(),
                tail: Some(self.decoder.kv_block(0)),
                wanted: (0..len).collect(),
                length: ids.len(),
            }];
            hidden.extend(self.decoder.forward(&mut pieces).unwrap());
            let [piece] = pieces;
            path.push(piece.tail.unwrap());
            from += len;
        }
        assert_eq!(hidden.len(), ids.len() * self.width);
        let logits = self.decoder.logits(&hidden).unwrap();
        let normalise = |row: &[f32]| {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|x| f64::from(x - max).exp()).sum();
            row.iter().map(|x| x - max - sum.ln() as f32).collect()
        };
        logits.chunks_exact(self.decoder.vocab_size()).map(normalise).collect()
    }
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn argmax(row: &[f32]) -> u32 {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]).then(b.cmp(&a))).unwrap() as u32
}

/// The largest difference from a reference, or what else is wrong.
fn check(path: &Path) -> Result<f64, String> {
    let reference: Value = serde_json::from_slice(&std::fs::read(path.join("reference.json")).unwrap()).unwrap();
    let model = match reference["base"].as_str() {
        Some(base) => Model::load(&path.with_file_name(base))?.with_adapter(path)?,
        None => Model::load(path)?,
    };
    let mut worst = 0f64;
    let mut compare = |found: &[Vec<f32>], ids: &[u32], expected: &Value| {
        for (position, expected) in expected.as_array().unwrap().iter().enumerate() {
            let found = f64::from(found[position][ids[position + 1] as usize]);
            let difference = (found - expected.as_f64().unwrap()).abs();
            worst = if difference.is_nan() { f64::INFINITY } else { worst.max(difference) };
        }
    };
    for sequence in reference["sequences"].as_array().unwrap() {
        let tokens = ids(&sequence["ids"]);
        let found = model.log_probs(&tokens, &[tokens.len()]);
        compare(&found, &tokens, &sequence["next_logprobs"]);
        let most: Vec<u32> = found.iter().map(|row| argmax(row)).collect();
        if most != ids(&sequence["argmax"]) {
            return Err(format!("other tokens are the most probable; the largest difference is {worst:e}"));
        }
        if tokens.len() > 9 {
            compare(&model.log_probs(&tokens, &[2, 1, 5, tokens.len() - 8]), &tokens, &sequence["next_logprobs"]);
        }
    }
    let tolerance = reference["tolerance"].as_f64().unwrap();
    let text = &reference["text"];
    if let Some(prompt) = text["prompt"].as_str() {
        let tokenizer = TextTokenizer::load(path).map_err(|error| error.to_string())?;
        let tokens = tokenizer.encode(prompt, true).map_err(|error| error.to_string())?;
        if tokens != ids(&text["ids"]) {
            return Err(format!("other tokens: {tokens:?}"));
        }
        compare(&model.log_probs(&tokens, &[tokens.len()]), &tokens, &text["next_logprobs"]);
    }
    let mut tokens = ids(&reference["greedy"]["prompt"]);
    for (step, &expected) in ids(&reference["greedy"]["tokens"]).iter().enumerate() {
        let next = argmax(model.log_probs(&tokens, &[tokens.len()]).last().unwrap());
        if next != expected {
            return Err(format!("greedy token {step} is {next}, expected {expected}"));
        }
        tokens.push(next);
    }
    if worst > tolerance { Err(format!("the largest difference is {worst:e}, above {tolerance:e}")) } else { Ok(worst) }
}

#[test]
fn log_probabilities_are_those_of_transformers() {
    check_all(|name| !name.contains("-lora") && !name.starts_with("quant-"));
}

#[test]
fn quantised_weights_are_those_of_their_formats() {
    check_all(|name| name.starts_with("quant-"));
}

/// What is quantised stays so in memory: the packed weights, of which the embedding is none unless it is the head, need no
/// more than the file.
#[test]
#[expect(clippy::print_stdout, reason = "the sizes, for whoever asks with --nocapture")]
fn quantised_weights_stay_as_small_as_their_files() {
    for path in checkpoints(|name| name.starts_with("quant-")) {
        let file = std::fs::metadata(path.join("model.safetensors")).unwrap().len() as usize;
        let model = Model::load(&path).unwrap();
        let bytes = model.decoder.base().bytes();
        println!("{}: {bytes} bytes of {file} in the file, {}", path.display(), model.decoder.base().storage());
        assert!(bytes <= file, "{}: {bytes} bytes of weights, {file} in the file", path.display());
    }
}

#[test]
fn adapters_are_those_of_peft() {
    check_all(|name| name.contains("-lora"));
}

#[expect(clippy::print_stdout, reason = "the largest differences, for whoever asks with --nocapture")]
fn check_all(of: impl Fn(&str) -> bool) {
    let paths = checkpoints(of);
    if paths.is_empty() {
        return skipped("no families beside the checkout");
    }
    let mut wrong = vec![];
    for path in &paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match check(path) {
            Ok(worst) => println!("{name}: {worst:.1e}"),
            Err(reason) => wrong.push(format!("{name}: {reason}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), paths.len(), wrong.join("\n"));
}
