//! The decoder on a real model: a 260k-parameter Llama with the tokens that two other implementations generate.

mod answers;

use std::sync::Arc;

use answers::answers;
use harness_core::{Output, Request, Sampling};
use harness_engine::{LoadedBase, LocalModel, ModelOptions};
use harness_test_support::beside;
use serde_json::Value;

fn stories() -> Option<(LocalModel, Value)> {
    let dir = beside("HARNESS_MODELS", "models")?.join("stories260k");
    let expected = std::fs::read_to_string(dir.join("expected_greedy.json")).unwrap();
    let base = LoadedBase::load(&dir, ModelOptions::default()).unwrap();
    Some((LocalModel::new(Arc::new(base)), serde_json::from_str(&expected).unwrap()))
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn stories260k_generates_the_expected_tokens() {
    let Some((model, expected)) = stories() else { return };
    let greedy = ids(&expected["greedy_ids"]);
    let new = greedy.len() - 1;
    let request = Request::Generate {
        prompt: String::new(),
        stop: vec![],
        sampling: Sampling { max_new_tokens: new, ..Sampling::default() },
    };
    let found = answers(&model, &[request]).unwrap();
    let Output::Text { token_ids, token_logprobs, .. } = &found[0].output else { unreachable!() };
    assert_eq!(token_ids, &greedy[1..]);
    let (scored, is_greedy) = &model.score_tokens(&[greedy], &[1]).unwrap()[0];
    assert!(is_greedy);
    assert_eq!(scored, token_logprobs, "decoding with a cache and scoring in one pass give the same bits");
    let sum: f64 = scored.iter().map(|&x| f64::from(x)).sum();
    let reference = expected["sum_logprob"].as_f64().unwrap();
    assert!((sum - reference).abs() < 1e-3, "{sum} for {reference}");
}
