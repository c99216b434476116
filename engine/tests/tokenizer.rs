//! Tokenizers against lm-evaluation-harness's own splits.

use std::path::Path;

use harness_engine::{PairOptions, TextTokenizer, encode_pair, rolling_windows};
use harness_test_support::{vectors, vectors_dir, workspace_root};
use serde_json::Value;

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn stories() -> Option<TextTokenizer> {
    let dir = workspace_root().join("../shared/models/stories260k");
    dir.exists().then(|| TextTokenizer::load(&dir).unwrap())
}

fn toy(dir: &Path, name: &str, prefix: &str) -> TextTokenizer {
    let json = std::fs::read_to_string(dir.join(name)).unwrap();
    TextTokenizer::from_json(&json, Some(&format!(r#"{{"bos_token": "{prefix}"}}"#))).unwrap()
}

#[test]
fn pairs_split_as_in_lm_eval() {
    let (Some(cases), Some(dir)) = (vectors("encode_pair"), vectors_dir()) else { return };
    for case in cases {
        let input = &case.input;
        let prefix = input["prefix_token"].as_str().unwrap();
        let tokenizer = toy(&dir, input["tokenizer"].as_str().unwrap(), prefix);
        let options = PairOptions { add_bos: input["add_bos_token"].as_bool(), prefix_token: None };
        let (context, continuation) = (input["context"].as_str().unwrap(), input["continuation"].as_str().unwrap());
        let pair = encode_pair(&tokenizer, context, continuation, &options).unwrap();
        assert_eq!(pair.context, ids(&case.expected["context_ids"]), "{}: context of {input}", case.id);
        assert_eq!(pair.continuation, ids(&case.expected["continuation_ids"]), "{}: continuation of {input}", case.id);
        if let Some(expected) = case.expected["model_input_max_length_8"].as_array() {
            let (found, cut) = pair.model_input(8);
            assert_eq!(found, ids(&Value::Array(expected.clone())), "{}: input of {input}", case.id);
            assert_eq!(cut, (pair.context.len() + pair.continuation.len()).saturating_sub(9), "{}", case.id);
        }
    }
}

#[test]
fn windows_roll_as_in_lm_eval() {
    let Some(cases) = vectors("rolling_windows") else { return };
    for case in cases {
        let number = |key: &str| case.input[key].as_u64().unwrap() as usize;
        let windows = rolling_windows(
            &ids(&case.input["tokens"]),
            number("prefix_token") as u32,
            number("max_seq_len"),
            number("context_len"),
        );
        let pairs = |key: &str| -> Vec<(Vec<u32>, Vec<u32>)> {
            case.expected[key].as_array().unwrap().iter().map(|pair| (ids(&pair[0]), ids(&pair[1]))).collect()
        };
        let found: Vec<_> = windows.iter().map(|w| (w.input.clone(), w.targets.clone())).collect();
        assert_eq!(found, pairs("windows"), "{}", case.id);
        let disjoint: Vec<_> = windows.iter().map(|w| (w.context().to_vec(), w.targets.clone())).collect();
        assert_eq!(disjoint, pairs("disjoint"), "{}", case.id);
    }
}
