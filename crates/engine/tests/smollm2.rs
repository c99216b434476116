//! A real 135M chat model against runs of lm-evaluation-harness on the same weights, by token ids.
//!
//! `HARNESS_SMOLLM2` names the folder that holds `hf/` (the Hugging Face layout) and the GGUF file; without it these
//! tests say that they skip.

#![allow(clippy::print_stdout, reason = "tests show the differences they found")]

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use harness_core::{ChatMessage, ChatOptions, ChatRole, Control, LanguageModel, Output, Request, Sampling};
use harness_engine::{LoadedBase, LocalModel, ModelOptions};
use harness_test_support::{beside, reference_dir};
use serde_json::Value;

fn smollm2() -> Option<PathBuf> {
    beside("HARNESS_SMOLLM2", "models/smollm2")
}

fn load(path: &Path) -> LocalModel {
    LocalModel::new(Arc::new(LoadedBase::load(path, ModelOptions::default()).unwrap()))
}

fn gguf(folder: &Path) -> PathBuf {
    folder.join("SmolLM2-135M-Instruct.Q4_1.gguf")
}

fn lines(path: &Path) -> Vec<Value> {
    let mut text = String::new();
    zstd::Decoder::new(std::fs::File::open(path).unwrap()).unwrap().read_to_string(&mut text).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn loglikelihoods_equal_those_of_lm_eval() {
    let (Some(folder), Some(reference)) = (smollm2(), reference_dir()) else { return };
    let model = load(&folder.join("hf"));
    let runs = ["arc_easy_200", "arc_challenge_150", "arc_challenge_25shot_20", "arc_easy_40_chat", "mmlu_5shot_3"];
    for run in runs {
        let calls = lines(&reference.join("lm-eval/open").join(run).join("calls.jsonl.zst"));
        let (mut sequences, mut first) = (vec![], vec![]);
        for call in &calls {
            let context = ids(&call["context"]);
            first.push(context.len());
            sequences.push([context, ids(&call["continuation"])].concat());
        }
        let found = model.score_tokens(&sequences, &first).unwrap();
        let mut worst = 0f64;
        for (call, (logprobs, is_greedy)) in calls.iter().zip(&found) {
            let sum: f64 = logprobs.iter().map(|&x| f64::from(x)).sum();
            worst = worst.max((sum - call["logprob"].as_f64().unwrap()).abs());
            assert_eq!(*is_greedy, call["greedy"].as_bool().unwrap(), "{run}: {call}");
        }
        println!("{run}: {} log-likelihoods, largest difference {worst:.1e}", calls.len());
        assert!(worst < 2e-3, "{run}: {worst}");
    }
}

#[test]
fn generations_equal_those_of_lm_eval() {
    let (Some(folder), Some(reference)) = (smollm2(), reference_dir()) else { return };
    let model = load(&folder.join("hf"));
    let calls = lines(&reference.join("lm-eval/open/gsm8k_5shot_15/calls.jsonl.zst"));
    let sampling = Sampling { max_new_tokens: 128, ..Sampling::default() };
    let requests: Vec<Request> = calls
        .iter()
        .map(|call| {
            let prompt = model.base().tokenizer().decode(&ids(&call["context"]), false).unwrap();
            let stop = call["stop"].as_array().unwrap().iter().map(|s| s.as_str().unwrap().to_owned()).collect();
            Request::Generate { prompt, stop, sampling: sampling.clone() }
        })
        .collect();
    let mut found = vec![vec![]; calls.len()];
    model
        .answer(&requests, &mut |index, response| {
            if let Output::Text { token_ids, .. } = response.output {
                found[index] = token_ids;
            }
            Control::Continue
        })
        .unwrap();
    for (call, found) in calls.iter().zip(&found) {
        assert_eq!(found, &ids(&call["new_tokens"]));
    }
    println!("gsm8k_5shot_15: {} generations equal", calls.len());
}

#[test]
fn perplexity_of_wikitext() {
    let (Some(folder), Some(data)) = (smollm2(), beside("HARNESS_DATA_DIR", "data")) else { return };
    let mut text = String::new();
    let file = std::fs::File::open(data.join("wikitext-2-raw/wiki.test.raw.zst")).unwrap();
    zstd::Decoder::new(file).unwrap().read_to_string(&mut text).unwrap();
    for path in [folder.join("hf"), gguf(&folder)] {
        let model = load(&path);
        let tokens = model.base().tokenizer().encode(&text, false).unwrap();
        let windows: Vec<Vec<u32>> = tokens.chunks(1024).take(8).map(<[u32]>::to_vec).collect();
        let scored = model.score_tokens(&windows, &[1; 8]).unwrap();
        let (mut sum, mut count) = (0f64, 0);
        for (logprobs, _) in scored {
            count += logprobs.len();
            sum += logprobs.iter().map(|&x| f64::from(x)).sum::<f64>();
        }
        let perplexity = (-sum / count as f64).exp();
        println!("{}: perplexity {perplexity:.4} over {count} tokens", path.display());
        assert!((perplexity - 29.22).abs() < 0.1, "{perplexity}");
    }
}

#[test]
fn the_chat_model_knows_the_capital_of_france() {
    let Some(folder) = smollm2() else { return };
    let model = load(&gguf(&folder));
    let question = ChatMessage::new(ChatRole::User, "What is the capital of France?");
    let prompt = model.apply_chat_template(&[question], ChatOptions { add_generation_prompt: true }).unwrap();
    let sampling = Sampling { max_new_tokens: 40, ..Sampling::default() };
    let request = Request::Generate { prompt, stop: vec![], sampling };
    let mut answer = String::new();
    model
        .answer(&[request], &mut |_, response| {
            if let Output::Text { text, .. } = response.output {
                answer = text;
            }
            Control::Continue
        })
        .unwrap();
    println!("{answer}");
    assert!(answer.contains("Paris"), "{answer}");
}
