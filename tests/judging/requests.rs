//! How a judge behind a server is asked, and what ends the asking.

use std::{
    process::Command,
    sync::{Arc, atomic::Ordering},
};

use harness_test_support::{Dims, World, tiny_model, wait_until};
use serde_json::{Value, json};

use super::{
    PROGRAM, fixture,
    server::{Fault, Server, scripted::Scripted},
    write_outputs,
};

const CALL: [&str; 7] = ["judge", "pairwise", "other.json", "--baseline", "base.json", "--judge", "j"];

fn says() -> Scripted {
    Scripted::new(1_000_000, Box::new(|_, _| ("Both are short. [RESULT] A".into(), vec![])))
}

/// A world with a judge `j` whose sections have these lines.
fn world(server: &Server, model: &str, judge: &str) -> World {
    let world = World::empty(PROGRAM);
    write_outputs(&world, &fixture(20));
    let experiment =
        format!("[models.m]\nendpoint = \"openai:m@{}\"\n{model}[judges.j]\nmodel = \"m\"\n{judge}", server.url());
    world.write("harness.toml", experiment);
    world
}

#[test]
fn ctrl_c_does_not_wait_for_a_server_that_is_silent() {
    let silent = |_: usize, body: &Value| body.to_string().contains("number 7").then_some(Fault::Silent);
    let server = Server::start(Arc::new(says()), "m", None, Box::new(silent));
    let world = world(&server, "timeout = 3000\n", "");
    let call = [&CALL[..], &["--repeats", "0", "--self-pairs", "0"]].concat();
    let child = world.start("first", &call);
    // Of 40 questions about 20 pairs, 2 are never answered.
    wait_until("all but the silent ones are answered", || world.stored() == 38);
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let outcome = world.finish("first", child).expect(1);
    assert!(
        outcome.stderr.contains("interrupted: 38 of 40 open questions of j are answered and stored"),
        "{}",
        outcome.stderr
    );
    assert_eq!((outcome.stdout.as_str(), world.stored()), ("", 38));
}

#[test]
fn a_judge_has_limits_of_its_own() {
    let server = Server::sound(Arc::new(says()), "m");
    let most = || server.shared.most_in_flight.swap(0, Ordering::SeqCst);
    world(&server, "concurrency = 16\n", "concurrency = 1\n").run(&CALL).expect(0);
    assert_eq!(most(), 1);
    let fast = world(&server, "", "requests_per_minute = 60000\n");
    fast.run(&[&CALL[..], &["--requests-per-minute", "30000", "--concurrency", "2"]].concat()).expect(0);
    assert!(most() <= 2);
    let outcome = fast.run(&[&CALL[..], &["--requests-per-minute", "0"]].concat()).expect(2);
    assert!(outcome.stderr.contains("--requests-per-minute 0: expected a positive number"), "{}", outcome.stderr);
    tiny_model(&fast.path("nowhere"), 1, Dims::default());
    fast.write("local.toml", "[models.m]\npath = \"nowhere\"\n[judges.j]\nmodel = \"m\"\nconcurrency = 3\n");
    let outcome = fast.run(&[&CALL[..], &["--experiment", "local.toml"]].concat()).expect(2);
    assert!(outcome.stderr.contains("[judges.j]: `concurrency` belongs to an endpoint"), "{}", outcome.stderr);
}

#[test]
fn settings_that_a_server_does_not_take_are_reported() {
    let server = Server::sound(Arc::new(says()), "m");
    let with = |model: &str| {
        let found = world(&server, model, "").run(&[&CALL[..], &["--json"]].concat()).expect(0).json();
        let caveats = found["comparison"]["caveats"].to_string();
        let last = server.bodies().pop().unwrap();
        (last.get("repetition_penalty").is_some(), caveats.contains("repetition_penalty 1.03"))
    };
    assert_eq!(with(""), (true, false), "most servers take it");
    assert_eq!(with("extended_sampling = false\n"), (false, true), "left out, and said");
    let world = world(&server, "extended_sampling = false\n", "");
    let outcome = world.run(&["generate", "m", "-p", "Hi", "--temperature", "1", "--top-k", "5"]).expect(2);
    assert!(outcome.stderr.contains("top_k 5"), "asked for by name it is refused: {}", outcome.stderr);
}

#[test]
fn variables_for_chat_templates_are_sent() {
    let server = Server::sound(Arc::new(says()), "m");
    let sent = |model: &str, further: &[&str]| {
        let world = world(&server, model, "");
        let call = ["generate", "m", "-p", "Hi", "--chat", "--max-new-tokens", "5"];
        world.run(&[&call[..], further].concat()).expect(0);
        server.bodies().pop().unwrap().get("chat_template_kwargs").cloned()
    };
    let section = "chat_template_kwargs = { enable_thinking = false, effort = 2 }\n";
    assert_eq!(sent("", &[]), None);
    assert_eq!(sent(section, &[]), Some(json!({"enable_thinking": false, "effort": 2})));
    let line = ["--chat-template-kwargs", r#"{"enable_thinking": true}"#];
    assert_eq!(sent(section, &line), Some(json!({"enable_thinking": true, "effort": 2})));
    let refused = |model: &str, says: &str| {
        let outcome = world(&server, model, "").run(&["generate", "m", "-p", "Hi"]).expect(2);
        assert!(outcome.stderr.contains(says), "{}", outcome.stderr);
    };
    refused("api = \"completions\"\nchat_template_kwargs = { a = 1 }\n", "expected api = \"chat\"");
    refused("date = \"2025-01-30\"\n", "`date` belongs to a model on this machine");
    refused("tokenizer = \"base\"\n", "`tokenizer` belongs to a model on this machine");
}
