//! Judged rows of `harness compare`.

use std::sync::Arc;

use harness_test_support::{Dims, World, tiny_model};
use serde_json::Value;

use super::{
    PROGRAM,
    server::{Server, scripted::Scripted},
};

const CALL: [&str; 7] = ["compare", "base", "a4", "-t", "toy_answer,toy_choice", "--include-path", "tasks"];

fn run(world: &World, extra: &[&str], code: i32) -> harness_test_support::Outcome {
    world.run(&[&CALL[..], extra].concat()).expect(code)
}

/// A world with a judge behind a server that always prefers the first output.
fn judged() -> (World, Server) {
    let world = World::new(PROGRAM);
    let says = Scripted::new(1_000_000, Box::new(|_, _| ("Well. [RESULT] A".into(), vec![])));
    let server = Server::sound(Arc::new(says), "m");
    let experiment = world.read("harness.toml");
    world.write("harness.toml", format!("[models.m]\nendpoint = \"openai:m@{}\"\n{experiment}", server.url()));
    world.replace("harness.toml", "include_path = [\"tasks\"]\n", "");
    (world, server)
}

#[test]
fn a_comparison_takes_judged_rows() {
    let world = World::new(PROGRAM);
    let text = run(&world, &["--judge", "overlap"], 0).stdout;
    assert!(text.contains("win_rate overlap") && text.contains("is no language model"), "{text}");
    let found = run(&world, &["--judge", "overlap", "--json", "--out", "result"], 0).json();
    let rows = found["rows"].as_array().unwrap();
    let judged: Vec<&Value> = rows.iter().filter(|row| row["key"]["metric"] == "win_rate").collect();
    assert_eq!(judged.len(), 1, "only generated text is judged");
    assert_eq!((&judged[0]["task"], &judged[0]["cells"][0]["value"]), (&"toy_answer".into(), &0.5.into()));
    assert!(judged[0]["contrasts"][0]["verdict"].is_string() && judged[0]["primary"] == false, "{}", judged[0]);
    let manifest: Value = serde_json::from_str(&world.read("result/manifest.json")).unwrap();
    let record = &manifest["manifest"]["settings"]["judge"];
    assert!(record["judge"] == "overlap" && record["protocol"]["digest"].is_string(), "{record}");
}

#[test]
fn a_wrong_judge_is_noticed_before_a_model_is_asked() {
    let world = World::new(PROGRAM);
    for (extra, says) in [
        (["--judge", "nobody"].as_slice(), "--judge nobody"),
        (&["--judge", "overlap", "--judge-protocol", "mt-bench"], "compares two outputs of one turn"),
        (&["--judge", "overlap", "--judge-protocol", "pairwize"], "did you mean `pairwise`"),
    ] {
        let outcome = run(&world, extra, 2);
        assert!(outcome.stderr.contains(says), "{}", outcome.stderr);
        assert_eq!(world.stored(), 0, "{extra:?}");
    }
}

#[test]
fn stored_verdicts_are_enough_and_no_judge_is_asked_for_others() {
    let (world, server) = judged();
    let first = run(&world, &["--judge", "m", "--json"], 0).json();
    let asked = server.bodies().len();
    assert!(asked > 10, "{asked}");
    let again = run(&world, &["--judge", "m", "--json", "--from-store"], 0).json();
    assert_eq!((&again["rows"], server.bodies().len()), (&first["rows"], asked));
    let outcome = run(&world, &["--judge", "m", "--judge-protocol", "alpaca-eval", "--from-store"], 2);
    assert!(
        outcome.stderr.contains("--from-store: ") && outcome.stderr.contains("verdicts of the judge m"),
        "{}",
        outcome.stderr
    );
    assert_eq!(server.bodies().len(), asked);
    let caveats = first["caveats"].to_string();
    assert!(caveats.contains("position_bias"), "{caveats}");
}

#[test]
fn a_judge_that_is_the_base_is_reported() {
    let world = World::new(PROGRAM);
    // The same model with room for a judge's prompt.
    tiny_model(&world.path("models/base"), 1, Dims { max_length: 8192, ..Dims::default() });
    let text = run(&world, &["--judge", "base", "--judge-protocol", "alpaca-eval"], 0).stdout;
    assert!(text.contains("The judge and `a4` share the base `base`"), "{text}");
    assert!(text.contains("The judge and `base` share the base `base`"), "{text}");
}

#[test]
fn a_judge_sees_what_was_asked_without_the_template() {
    let (world, server) = judged();
    let extra = ["--judge", "m", "--apply-chat-template"];
    run(&world, &extra, 0);
    let bodies = server.bodies();
    let shown: Vec<String> = bodies.iter().map(|body| body["messages"].to_string()).collect();
    assert!(
        !shown.is_empty() && shown.iter().all(|text| !text.contains("<|im_start|>") && !text.contains("<user>")),
        "{}",
        shown[0]
    );
}
