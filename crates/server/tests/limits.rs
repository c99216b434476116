//! What the server refuses, who leaves, and how it ends.

mod support;

use std::{
    io::{BufRead as _, BufReader},
    time::Duration,
};

use harness_engine::Limits;
use harness_server::{ServerError, ServerKey, ServerOptions};
use serde_json::{Value, json};
use support::{Running, joined};

const JSON: (&str, &str) = ("Content-Type", "application/json");
const PATH: &str = "/v1/completions";

/// A text that takes a while.
fn long(seed: usize) -> Value {
    json!({"model": "base", "prompt": "The river", "max_tokens": 200, "temperature": 50, "seed": seed, "stream": true})
}

fn one_place() -> Limits {
    Limits { batch_sequences: 1, ..Limits::default() }
}

#[test]
fn a_key_opens() {
    let key = ServerKey::new("secret-1").unwrap();
    let server = Running::start(ServerOptions { key: Some(key), ..ServerOptions::default() }, Limits::default());
    assert_eq!(server.get("/health").0, 200, "whether it is there needs no key");
    for header in ["", "Bearer wrong", "Bearer secret-1x", "secret-1"] {
        for (method, path) in [("GET", "/v1/models"), ("POST", PATH), ("GET", "/metrics"), ("GET", "/nowhere")] {
            let (status, body) = server.ask(method, path, &[JSON, ("Authorization", header)], "{}");
            assert_eq!(status, 401, "{path}");
            let error: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(error["error"]["code"], json!("invalid_api_key"));
            assert!(!body.contains("secret"));
        }
    }
    assert_eq!(server.ask("GET", "/v1/models", &[("Authorization", "Bearer secret-1")], "").0, 200);
}

#[test]
fn other_machines_need_a_key() {
    let options = ServerOptions { host: "0.0.0.0".to_owned(), port: 0, ..ServerOptions::default() };
    let model = harness_server::ServedModel {
        name: "base".to_owned(),
        model: harness_engine::LocalModel::new(support::tiny(Limits::default())),
        base: None,
        think_end: None,
    };
    let server = harness_server::Server::new(vec![model], options).unwrap();
    let error = server.run(&harness_core::Stop::default(), |_| {}).unwrap_err();
    assert!(matches!(&error, ServerError::Option(reason) if reason.contains("HARNESS_API_KEY")), "{error}");
}

#[test]
fn wrong_requests_are_told_why() {
    let server = Running::start(ServerOptions { body_bytes: 4000, ..ServerOptions::default() }, Limits::default());
    let refused = |method: &str, path: &str, headers: &[(&str, &str)], body: &str, status: u16, says: &str| {
        let (found, answer) = server.ask(method, path, headers, body);
        assert_eq!(found, status, "{answer}");
        let error: Value = serde_json::from_str(&answer).unwrap();
        assert!(error["error"]["type"].is_string() && answer.contains(says), "{says}: {answer}");
    };
    refused("GET", "/v2", &[], "", 404, "/v2");
    refused("GET", PATH, &[], "", 405, "GET");
    refused("POST", PATH, &[], "{}", 415, "application/json");
    refused("POST", PATH, &[JSON], "{", 400, "JSON");
    refused("POST", PATH, &[JSON], "[]", 400, "object");
    refused("POST", PATH, &[JSON], r#"{"model": "base"}"#, 400, "prompt");
    refused("POST", PATH, &[JSON], r#"{"model": "best", "prompt": "a"}"#, 404, "expected one of: base, twin");
    refused("POST", PATH, &[JSON], r#"{"model": "base", "prompt": "a", "mirostat": 2}"#, 400, "mirostat");
    refused("POST", PATH, &[JSON], r#"{"model": "base", "prompt": [99999999]}"#, 400, "99999999");
    refused("POST", PATH, &[JSON], r#"{"model": "base", "prompt": "a", "guided_regex": "(a"}"#, 400, "unclosed group");
    let far = json!({"model": "base", "prompt": "a", "max_tokens": 1_000_000}).to_string();
    refused("POST", PATH, &[JSON], &far, 400, "context_length_exceeded");
    refused("POST", PATH, &[JSON], &format!("{{\"prompt\": \"{}\"}}", "a ".repeat(3000)), 413, "4000 bytes");
}

#[test]
fn who_disconnects_frees_the_place() {
    let server = Running::start(ServerOptions::default(), one_place());
    let mut first = BufReader::new(server.send("POST", PATH, &[JSON], &long(1).to_string()));
    let mut line = String::new();
    while !line.starts_with("data: ") {
        line.clear();
        first.read_line(&mut line).unwrap();
    }
    assert_eq!(server.metric("harness_generations_running"), 1);
    drop(first);
    let answer = server.answer(PATH, &json!({"model": "base", "prompt": "The", "max_tokens": 2, "temperature": 0}));
    assert_eq!(answer["choices"][0]["finish_reason"], json!("length"));
    server.until("harness_generations_left_total", 1);
    assert_eq!(server.metric("harness_generations_total"), 1, "the first was not finished");
}

#[test]
fn a_full_queue_says_so() {
    let server = Running::start(ServerOptions { queue: 2, ..ServerOptions::default() }, one_place());
    // More than may wait are taken where none waits.
    let mut many = long(1);
    many["n"] = json!(64);
    let running = server.send("POST", PATH, &[JSON], &many.to_string());
    server.until("harness_generations_running", 1);
    let (status, error) = server.post(PATH, &long(9));
    assert_eq!((status, &error["error"]["code"]), (429, &json!("queue_full")));
    drop(running);
    server.until("harness_generations_waiting", 0);
    let again = json!({"model": "base", "prompt": "The", "max_tokens": 1});
    assert_eq!(server.post(PATH, &again).0, 200, "who left waits no more");
}

#[test]
fn a_request_may_not_take_for_ever() {
    let patience = Duration::from_millis(1);
    let server = Running::start(ServerOptions { patience, ..ServerOptions::default() }, Limits::default());
    let mut ask = long(1);
    ask["stream"] = json!(false);
    ask["n"] = json!(16);
    let (status, error) = server.post(PATH, &ask);
    assert_eq!((status, &error["error"]["code"]), (504, &json!("timeout")));
}

#[test]
fn the_end_waits_for_what_is_in_flight() {
    let server = Running::usual();
    let mut ask = long(4);
    ask["stream"] = json!(false);
    let expected = server.answer(PATH, &ask)["choices"][0]["text"].clone();
    let mut stream = BufReader::new(server.send("POST", PATH, &[JSON], &long(4).to_string()));
    let mut text = String::new();
    while !text.contains("data: ") {
        stream.read_line(&mut text).unwrap();
    }
    server.stop.request();
    while stream.read_line(&mut text).unwrap() > 0 {}
    let pieces = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|piece| *piece != "[DONE]");
    let pieces: Vec<Value> = pieces.map(|piece| serde_json::from_str(piece).unwrap()).collect();
    assert_eq!(json!(joined(&pieces, 0)), expected);
    assert!(text.contains("[DONE]"));
    server.end().unwrap();
}

#[test]
fn five_hundred_streams_lose_nothing() {
    let server = Running::usual();
    let ask = |seed: usize| {
        json!({"model": if seed.is_multiple_of(2) { "base" } else { "twin" }, "prompt": format!("{seed} birds"), "max_tokens": 4,
            "temperature": 1, "seed": seed, "stream_options": {"include_usage": true}})
    };
    let streams: Vec<Vec<Value>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..500)
            .map(|seed| {
                scope.spawn({
                    let server = &server;
                    move || server.stream(PATH, &ask(seed))
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (seed, pieces) in streams.iter().enumerate().step_by(50) {
        let mut alone = ask(seed);
        alone.as_object_mut().unwrap().remove("stream_options");
        let answer = server.answer(PATH, &alone);
        assert_eq!(json!(joined(pieces, 0)), answer["choices"][0]["text"], "{seed}");
    }
    for pieces in &streams {
        let usage = &pieces.last().unwrap()["usage"];
        assert!((1..=4).contains(&usage["completion_tokens"].as_u64().unwrap()));
    }
    assert_eq!(server.metric("harness_generations_total"), 510);
}
