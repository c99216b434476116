//! Tokenizers against lm-evaluation-harness's own splits.

use std::path::Path;

use harness_engine::{PairOptions, TextTokenizer, encode_pair, rolling_windows};
use harness_test_support::{beside, vectors, vectors_dir, workspace_root};
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

#[test]
fn streams_give_the_whole_text() {
    let Some(tokenizer) = stories() else { return };
    let byte_level = vectors_dir().map(|dir| toy(&dir, "toy_tokenizer_nobos.json", "<s>"));
    for tokenizer in std::iter::once(tokenizer).chain(byte_level) {
        for text in ["Once upon a time", "naïve 日本語 😀👩‍👧 end", "  spaces  ", "", "é", "tail\u{fffd}"]
        {
            let ids = tokenizer.encode(text, true).unwrap();
            let mut stream = tokenizer.stream(true);
            let mut out = String::new();
            for &id in &ids {
                out += &stream.push(id).unwrap();
                assert!(
                    text.trim_start().starts_with(out.trim_start()) || out.contains('\u{fffd}'),
                    "{out:?} of {text:?}"
                );
            }
            assert_eq!(stream.ids(), ids);
            out += &stream.finish().unwrap();
            assert_eq!(out, tokenizer.decode(&ids, true).unwrap(), "{text:?}");
        }
    }
}

proptest::proptest! {
    #[test]
    fn streams_of_any_tokens_give_the_whole_text(ids in proptest::collection::vec(0u32..512, 0..40)) {
        if let Some(dir) = vectors_dir() {
            let tokenizer = toy(&dir, "toy_tokenizer_nobos.json", "<s>");
            let mut stream = tokenizer.stream(false);
            let mut out = String::new();
            for &id in &ids {
                out += &stream.push(id).unwrap();
            }
            out += &stream.finish().unwrap();
            proptest::prop_assert_eq!(out, tokenizer.decode(&ids, false).unwrap());
        }
    }

    #[test]
    fn windows_cover_every_token_once(len in 0usize..200, max in 1usize..40, context in 1usize..40) {
        let tokens: Vec<u32> = (100..100 + len as u32).collect();
        let windows = rolling_windows(&tokens, 7, max, context);
        let targets: Vec<u32> = windows.iter().flat_map(|w| w.targets.clone()).collect();
        proptest::prop_assert_eq!(&targets, &tokens);
        for window in &windows {
            proptest::prop_assert!(window.input.len() <= max && window.targets.len() <= window.input.len());
            // What is read before the last target is the text itself, one place earlier.
            let shifted = &window.input[window.input.len() - (window.targets.len() - 1)..];
            proptest::prop_assert_eq!(shifted, &window.targets[..window.targets.len() - 1]);
        }
    }
}

#[test]
fn batches_equal_single_texts() {
    let Some(tokenizer) = stories() else { return };
    let texts: Vec<String> = (0..200).map(|i| format!("Once upon {i} times, there was a dog {}.", i * 7)).collect();
    let batch = tokenizer.encode_batch(&texts, true).unwrap();
    for (text, ids) in texts.iter().zip(&batch) {
        assert_eq!(ids, &tokenizer.encode(text, true).unwrap());
    }
    assert_eq!(batch[0][0], tokenizer.bos().unwrap().id);
    assert_ne!(tokenizer.encode(&texts[0], false).unwrap()[0], tokenizer.bos().unwrap().id);
}

#[test]
fn the_configuration_names_tokens() {
    let special = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                           "normalized": false, "special": true})
    };
    let json = serde_json::json!({
        "version": "1.0", "added_tokens": [special(0, "<s>")],
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "model": {"type": "BPE", "vocab": {"<s>": 0, "</s>": 1, "a": 2, "<pad>": 3}, "merges": []},
    })
    .to_string();
    let build = |config: &str| TextTokenizer::from_json(&json, Some(config)).unwrap();
    let ids = |config: &str| build(config).encode("aaa", true).unwrap();
    let roles = r#""bos_token": "<s>", "eos_token": {"content": "</s>"}"#;
    assert_eq!(ids(&format!("{{{roles}}}")), [2, 2, 2], "truncation is off");
    assert_eq!(ids(&format!(r#"{{{roles}, "add_bos_token": true}}"#)), [2, 2, 2], "tokenizer.json adds none");
    let long = build(&format!(r#"{{{roles}, "model_max_length": 1e30}}"#));
    assert_eq!((long.adds_bos(), long.model_max_length()), (false, None));

    let with = build(r#"{"eos_token": "</s>", "added_tokens_decoder": {"3": {"content": "<pad>", "special": true}}}"#);
    assert_eq!(with.encode("a<pad></s>", false).unwrap(), [2, 3, 1]);
    assert_eq!(with.decode(&[2, 3, 1], true).unwrap(), "a");
    assert_eq!(with.prefix_token().unwrap().text, "</s>");
    let error = TextTokenizer::from_json(&json, Some(r#"{"added_tokens_decoder": {"9": {"content": "<x>"}}}"#));
    assert!(error.unwrap_err().to_string().contains("\"<x>\""));
}

/// Every way of saying what is put around a text and which tokens are special, against what transformers 5.24 does
/// (recorded by tests/tools/tokenizer_grid.py).
#[test]
fn special_tokens_are_those_of_transformers() {
    let grid: Value = serde_json::from_str(include_str!("fixtures/tokenizers/grid.json")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for case in grid["cases"].as_array().unwrap() {
        let listed = serde_json::json!([{"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                                         "normalized": false, "special": true}]);
        let file = serde_json::json!({
            "version": "1.0", "added_tokens": case.get("added").unwrap_or(&listed), "pre_tokenizer": case.get("pre"),
            "post_processor": grid["posts"][case["post"].as_str().unwrap()],
            "model": {"type": "BPE", "vocab": grid["vocabulary"], "merges": []},
        });
        let none = serde_json::Map::new();
        let mut files = case.get("files").and_then(Value::as_object).unwrap_or(&none).clone();
        files.insert("tokenizer.json".to_owned(), file);
        files.insert("tokenizer_config.json".to_owned(), case["config"].clone());
        files.insert("config.json".to_owned(), serde_json::json!({"model_type": case["model"]}));
        let dir = folder.path().join(seen.to_string());
        std::fs::create_dir(&dir).unwrap();
        for (name, content) in &files {
            std::fs::write(dir.join(name), content.to_string()).unwrap();
        }
        // The class of Qwen 2 has a pre-tokenizer of its own: what the file says of spaces would split otherwise.
        if case["model"] == "qwen2" && case["pre"]["type"] == "Metaspace" {
            let error = TextTokenizer::load(&dir).expect_err("a pre-tokenizer that is not the class's").to_string();
            assert!(error.contains("Qwen2Tokenizer") && error.contains("Metaspace"), "{error}");
            seen += 1;
            continue;
        }
        let tokenizer = TextTokenizer::load(&dir).unwrap_or_else(|error| panic!("{case}: {error}"));
        let texts = case.get("texts").unwrap_or(&grid["texts"]).as_array().unwrap();
        let ids: Vec<Vec<u32>> =
            texts.iter().map(|text| tokenizer.encode(text.as_str().unwrap(), true).unwrap()).collect();
        assert_eq!(serde_json::json!(ids), case["ids"], "{case}");
        let mut special: Vec<u32> = ids.concat().into_iter().filter(|&id| tokenizer.is_special(id)).collect();
        special.sort_unstable();
        special.dedup();
        assert_eq!(serde_json::json!(special), case["special"], "{case}");
        let roles = [tokenizer.bos(), tokenizer.eos(), tokenizer.unk(), tokenizer.pad()];
        for (role, expected) in roles.into_iter().zip(case["roles"].as_array().unwrap()) {
            // A class names tokens that the vocabulary lacks; here they are not made up.
            let expected = expected.as_str().filter(|text| tokenizer.token_to_id(text).is_some());
            assert_eq!(role.map(|token| token.text.as_str()), expected, "{case}");
        }
        seen += 1;
    }
    assert!(seen > 300, "{seen} cases");
}

#[test]
fn a_class_of_encoders_is_refused() {
    let json = r#"{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#;
    let error = TextTokenizer::from_json(json, Some(r#"{"tokenizer_class": "T5TokenizerFast"}"#)).unwrap_err();
    assert!(error.to_string().contains("tokenizer_class T5Tokenizer"), "{error}");
}

/// Flags that ask for what the file does anyway leave the digest what it was when the flags were followed.
#[test]
fn digests_of_flags_that_change_nothing_stay() {
    let special = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                           "normalized": false, "special": true})
    };
    let with = |post: &Value, flag: Option<bool>| {
        let file = serde_json::json!({
            "version": "1.0", "added_tokens": [special(0, "<s>")], "post_processor": post,
            "model": {"type": "BPE", "vocab": {"<s>": 0, "a": 1}, "merges": []},
        });
        let config = serde_json::json!({"bos_token": "<s>", "add_bos_token": flag}).to_string();
        TextTokenizer::from_json(&file.to_string(), Some(&config)).unwrap().digest()
    };
    let bos = |pair: Value| {
        serde_json::json!({"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": pair, "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}})
    };
    let sequences =
        serde_json::json!([{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]);
    let swapped = serde_json::json!([{"Sequence": {"id": "B", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 1}}]);
    assert_eq!(with(&bos(sequences.clone()), Some(true)), with(&bos(swapped.clone()), Some(true)));
    assert_ne!(with(&bos(sequences.clone()), None), with(&bos(swapped), None));
    assert_eq!(
        with(&bos(sequences.clone()), Some(false)),
        with(&bos(sequences), None),
        "the file goes before the flag"
    );
}

#[test]
fn an_empty_context_needs_a_prefix() {
    let json = r#"{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#;
    let tokenizer = TextTokenizer::from_json(json, None).unwrap();
    let error = encode_pair(&tokenizer, "", "a", &PairOptions::default()).unwrap_err().to_string();
    assert!(error.contains("BOS or EOS"), "{error}");
}

#[test]
fn tokens_are_shown_to_people() {
    let Some(tokenizer) = stories() else { return };
    let ids = tokenizer.encode("Once é", true).unwrap();
    let shown: Vec<String> = ids.iter().map(|&id| tokenizer.token_text(id)).collect();
    assert_eq!(shown[0], "<s>");
    assert_eq!(shown[1..].concat().replace("<0xC3><0xA9>", "é"), " Once é");
    assert_eq!(tokenizer.token_text(9999), "<unknown id 9999>");
    assert!(tokenizer.is_special(1) && !tokenizer.is_special(300));
    assert_eq!(tokenizer.token_to_id("<s>"), Some(1));
}

#[test]
fn numbers_are_split_as_the_file_says_or_as_gpt2_does() {
    let file = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},
            {"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}]},
        "post_processor":null,"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},
        "model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,
            "fuse_unk":false,"byte_fallback":false,"vocab":{"1":0,"2":1,"12":2,"a":3},"merges":[["1","2"]]}}"#;
    let own = TextTokenizer::from_json(file, None).unwrap();
    assert_eq!(own.encode("a12", false).unwrap(), [3, 0, 1]);
    let gpt2 = own.clone().with_gpt2_splits().unwrap();
    assert_eq!(gpt2.encode("a12", false).unwrap(), [3, 2]);
    assert_ne!(own.digest(), gpt2.digest(), "answers to one are no answers to the other");
}

/// Encoding line by line gives what encoding at once gives.
#[test]
fn remembered_lines_change_no_token() {
    let parts = [
        "a",
        "Word",
        " the",
        " ",
        "  ",
        "\n",
        "\n\n",
        "\n \n",
        "\t",
        "\r\n",
        "1",
        "23",
        ".",
        ":",
        "'s",
        "é",
        "中文",
        "\u{301}",
        "<|im_start|>",
        "<|im_end|>",
        "</s>",
        "<s>",
        "Answer:",
        "_",
        "(",
        "=",
        "-",
        "\u{a0}",
        "\u{1f}",
    ];
    let mut tokenizers: Vec<TextTokenizer> = stories().into_iter().collect();
    if let Some(dir) = vectors_dir() {
        tokenizers.push(toy(&dir, "toy_tokenizer_bos.json", "<s>"));
        tokenizers.push(toy(&dir, "toy_tokenizer_nobos.json", "<s>"));
    }
    let digits = |individual: bool| {
        let file = format!(
            r#"{{"version":"1.0","added_tokens":[{{"id":300,"content":"<s>","single_word":false,"lstrip":false,
            "rstrip":false,"normalized":false,"special":true}}],"normalizer":null,
            "pre_tokenizer":{{"type":"Sequence","pretokenizers":[{{"type":"Digits","individual_digits":{individual}}},
                {{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}}]}},
            "decoder":{{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}},
            "model":{{"type":"BPE","vocab":{},"merges":[["Ċ","Ċ"],["1","2"],["Ġ","t"]]}}}}"#,
            vocabulary()
        );
        TextTokenizer::from_json(&file, None).unwrap()
    };
    for tokenizer in [digits(true), digits(false)] {
        assert!(tokenizer.remembers_lines());
        tokenizers.push(tokenizer);
    }
    if let Some(folder) = beside("HARNESS_SMOLLM2", "models/smollm2") {
        let smollm2 = TextTokenizer::load(&folder.join("hf")).unwrap();
        for tokenizer in [smollm2.clone(), smollm2.with_gpt2_splits().unwrap()] {
            assert!(tokenizer.remembers_lines());
            tokenizers.push(tokenizer);
        }
    }
    let mut state = 7u64;
    let mut next = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    for tokenizer in &tokenizers {
        for _ in 0..2000 {
            let text: String = (0..next(14)).map(|_| parts[next(parts.len())]).collect();
            for special in [false, true] {
                let found = tokenizer.encode(&text, special).unwrap();
                assert_eq!(found, tokenizer.encode_whole(&text, special).unwrap(), "{text:?}");
            }
        }
    }
}

/// The 256 byte-level letters, two pairs and their ids as JSON.
fn vocabulary() -> String {
    let mut next = 256;
    let letters = (0..=255u8).map(|byte| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => {
            next += 1;
            char::from_u32(next - 1).unwrap()
        }
    });
    let words = letters.map(String::from).chain(["ĊĊ", "12", "Ġt"].map(str::to_owned));
    let ids: serde_json::Map<String, Value> = words.enumerate().map(|(id, word)| (word, id.into())).collect();
    Value::Object(ids).to_string()
}
