//! Tiny checkpoints of every family against references by transformers, where they are beside the checkout.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use harness_core::Control;
use harness_decoder::{
    Adapter, BaseModel, Checkpoint, Decoder, DecoderConfig, DecoderError, KvBlock, Piece, Weights, merge_adapter,
};
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

/// Where models are computed, and what is asked of them there.
struct Place {
    base: Box<dyn Fn(DecoderConfig, Weights, usize) -> Result<BaseModel, DecoderError>>,
    /// Largest difference of log-probabilities, or largest mean difference where activations are rounded; `None` = the
    /// reference's tolerance for the largest.
    tolerance: Option<f64>,
    /// Whether weights and activations are rounded: then the most probable token may be another.
    rounded: bool,
}

fn processor() -> Place {
    let base = |config, weights, length| Ok(BaseModel::new(config, weights, length));
    Place { base: Box::new(base), tolerance: None, rounded: false }
}

struct Model {
    decoder: Decoder,
    width: usize,
}

impl Model {
    fn load(path: &Path, place: &Place) -> Result<Self, String> {
        let load = || {
            let checkpoint = Checkpoint::open(path)?;
            let mut config = checkpoint.config()?;
            let (weights, _) = checkpoint.weights(&mut config)?;
            let (width, length) = (config.hidden_size, config.max_position_embeddings);
            Ok::<_, DecoderError>(Self { decoder: Decoder::new((place.base)(config, weights, length)?.into()), width })
        };
        load().map_err(|error| error.to_string())
    }

    fn with_adapter(self, path: &Path) -> Result<Self, String> {
        let base = self.decoder.base();
        let load = || Decoder::with_adapter(Arc::clone(base), &Adapter::load(path, base.config())?);
        Ok(Self { decoder: load().map_err(|error| error.to_string())?, width: self.width })
    }

    /// A base with an adapter merged into it.
    fn merged(base: &Path, adapter: &Path, place: &Place) -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        let merged = merge_adapter(base, adapter, folder.path(), &mut |_, _| Control::Continue);
        merged.map_err(|error| error.to_string())?;
        Self::load(folder.path(), place)
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

/// The largest and the mean difference from a reference, or what else is wrong. `merged`: whether adapters are merged into
/// their bases.
fn check(path: &Path, place: &Place, merged: bool) -> Result<[f64; 2], String> {
    let reference: Value = serde_json::from_slice(&std::fs::read(path.join("reference.json")).unwrap()).unwrap();
    let model = match reference["base"].as_str() {
        Some(base) if merged => Model::merged(&path.with_file_name(base), path, place)?,
        Some(base) => Model::load(&path.with_file_name(base), place)?.with_adapter(path)?,
        None => Model::load(path, place)?,
    };
    let (mut worst, mut sum, mut count) = (0f64, 0f64, 0);
    let mut compare = |found: &[Vec<f32>], ids: &[u32], expected: &Value| {
        for (position, expected) in expected.as_array().unwrap().iter().enumerate() {
            let found = f64::from(found[position][ids[position + 1] as usize]);
            let difference = (found - expected.as_f64().unwrap()).abs();
            worst = if difference.is_nan() { f64::INFINITY } else { worst.max(difference) };
            (sum, count) = (sum + difference, count + 1);
        }
    };
    for sequence in reference["sequences"].as_array().unwrap() {
        let tokens = ids(&sequence["ids"]);
        let found = model.log_probs(&tokens, &[tokens.len()]);
        compare(&found, &tokens, &sequence["next_logprobs"]);
        let most: Vec<u32> = found.iter().map(|row| argmax(row)).collect();
        if !place.rounded && most != ids(&sequence["argmax"]) {
            return Err(format!("other tokens are the most probable; the largest difference is {worst:e}"));
        }
        if tokens.len() > 9 {
            compare(&model.log_probs(&tokens, &[2, 1, 5, tokens.len() - 8]), &tokens, &sequence["next_logprobs"]);
        }
    }
    let tolerance = place.tolerance.unwrap_or_else(|| reference["tolerance"].as_f64().unwrap());
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
    let greedy = if place.rounded { vec![] } else { ids(&reference["greedy"]["tokens"]) };
    for (step, &expected) in greedy.iter().enumerate() {
        let next = argmax(model.log_probs(&tokens, &[tokens.len()]).last().unwrap());
        if next != expected {
            return Err(format!("greedy token {step} is {next}, expected {expected}"));
        }
        tokens.push(next);
    }
    let mean = sum / f64::from(count);
    let measured = if place.rounded { mean } else { worst };
    if measured.is_nan() || measured > tolerance {
        return Err(format!("differences of {worst:e}, on average {mean:e}, above {tolerance:e}"));
    }
    Ok([worst, mean])
}

#[test]
fn log_probabilities_are_those_of_transformers() {
    check_all(&processor(), |name| !name.contains("-lora") && !name.starts_with("quant-"), false);
}

#[test]
fn quantised_weights_are_those_of_their_formats() {
    check_all(&processor(), |name| name.starts_with("quant-"), false);
}

/// What is quantised stays so in memory: the weights, of which the embedding is none unless it is the head, need no more
/// than the file.
#[expect(clippy::print_stdout, reason = "the sizes, for whoever asks with --nocapture")]
fn quantised_weights_are_as_small_as_their_files(place: &Place) {
    for path in checkpoints(|name| name.starts_with("quant-")) {
        let file = std::fs::metadata(path.join("model.safetensors")).unwrap().len() as usize;
        let model = Model::load(&path, place).unwrap();
        let bytes = model.decoder.base().bytes();
        println!("{}: {bytes} bytes of {file} in the file, {}", path.display(), model.decoder.base().storage());
        assert!(bytes <= file, "{}: {bytes} bytes of weights, {file} in the file", path.display());
    }
}

#[test]
fn quantised_weights_stay_as_small_as_their_files() {
    quantised_weights_are_as_small_as_their_files(&processor());
}

#[test]
fn adapters_are_those_of_peft() {
    check_all(&processor(), |name| name.contains("-lora"), false);
}

#[test]
fn merged_adapters_are_those_of_peft() {
    check_all(&processor(), |name| name.contains("-lora"), true);
}

#[cfg(feature = "cuda")]
mod on_a_gpu {
    use super::*;
    use harness_kernels::cuda::{Device, Float};

    fn place(float: Float, tolerance: f64) -> Option<Place> {
        let device = match Device::open(0) {
            Ok(device) => device,
            Err(error) => {
                skipped(error);
                return None;
            }
        };
        let base = move |config, weights: Weights, length| {
            BaseModel::on_device(config, &weights, length, device.clone(), float)
        };
        Some(Place { base: Box::new(base), tolerance: Some(tolerance), rounded: float != Float::F32 })
    }

    #[test]
    fn families_in_f32() {
        if let Some(place) = place(Float::F32, 1e-4) {
            check_all(&place, |_| true, false);
        }
    }

    #[test]
    fn quantised_weights_stay_as_small_as_their_files() {
        // In f32, what a file has unquantised in 16 bits, as a head that is the embedding, takes twice its bytes.
        if let Some(place) = place(Float::Bf16, 0.0) {
            quantised_weights_are_as_small_as_their_files(&place);
        }
    }

    // Weights are rounded from f32 to bf16 as well, and near ties of experts fall otherwise. The models of transformers in
    // bf16 differ by up to 0.04 on average from these references in f32, and in single places by 0.5; here one differs by
    // 0.058, deepseek_v3, where a route of one token falls otherwise.
    #[test]
    fn families_in_bf16() {
        if let Some(place) = place(Float::Bf16, 6e-2) {
            check_all(&place, |_| true, false);
        }
    }
}

#[expect(clippy::print_stdout, reason = "the largest differences, for whoever asks with --nocapture")]
fn check_all(place: &Place, of: impl Fn(&str) -> bool, merged: bool) {
    let paths = checkpoints(of);
    if paths.is_empty() {
        return skipped("no families beside the checkout");
    }
    let mut wrong = vec![];
    for path in &paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match check(path, place, merged) {
            Ok([worst, mean]) => println!("{name}: {worst:.1e}, on average {mean:.1e}"),
            Err(reason) => wrong.push(format!("{name}: {reason}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), paths.len(), wrong.join("\n"));
}
