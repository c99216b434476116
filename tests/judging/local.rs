//! Local judges.

use std::collections::BTreeSet;

use harness_test_support::{Dims, World, tiny_model};
use serde_json::Value;

use super::{PROGRAM, fixture, write_outputs};

/// A model with random weights, which without a constraint would never write a verdict.
fn judged(protocol: &str, extra: &[&str]) -> (World, Value) {
    let world = World::empty(PROGRAM);
    // The prompts of the protocols are long in the small vocabulary of the toy model.
    tiny_model(&world.path("judge"), 7, Dims { layers: 1, max_length: 8192, ..Dims::default() });
    write_outputs(&world, &fixture(6));
    let mut call = vec![
        "judge",
        protocol,
        "other.json",
        "--judge",
        "./judge",
        "--judge-max-tokens",
        "24",
        "--json",
        "--out",
        "result",
    ];
    call.extend(extra);
    let found = world.run(&call).expect(0).json();
    (world, found)
}

#[test]
fn a_constrained_judge_always_has_a_verdict() {
    for (protocol, extra) in [("pairwise", vec!["--baseline", "base.json"]), ("absolute", vec![])] {
        let (world, found) = judged(protocol, &extra);
        let result = &found["results"]["models"][0];
        let value = if protocol == "pairwise" { &result["pair"]["win_rate"] } else { &result["score"]["score"] };
        assert_eq!((&value["unparsed"], &value["n"]), (&0.into(), &6.into()), "{found}");
        let judgments = world.read("result/judgments.jsonl");
        let last: BTreeSet<String> = judgments
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter(|judgment| judgment["attempts"] != 0)
            .map(|judgment| judgment["raw"].as_str().unwrap().rsplit("[RESULT] ").next().unwrap().to_owned())
            .collect();
        let allowed: &[&str] = if protocol == "pairwise" { &["A", "B"] } else { &["1", "2", "3", "4", "5"] };
        assert!(last.iter().all(|verdict| allowed.contains(&verdict.as_str())), "{last:?}");
    }
}

#[test]
fn people_judge_from_a_file() {
    let world = World::empty(PROGRAM);
    let rows = fixture(5);
    write_outputs(&world, &rows);
    let verdicts: Vec<String> = rows
        .iter()
        .enumerate()
        .filter(|(n, _)| *n != 4)
        .map(|(n, (instruction, ..))| {
            let preference = if n == 0 { 0.0 } else { 1.0 };
            serde_json::json!({"item": instruction, "model": "other-model", "baseline": "base-model", "preference": preference})
                .to_string()
        })
        .collect();
    world.write("people.jsonl", verdicts.join("\n"));
    let call =
        ["judge", "alpaca-eval", "other.json", "--baseline", "base.json", "--judge", "human:people.jsonl", "--json"];
    let found = world.run(&call).expect(0).json();
    let result = &found["results"]["models"][0]["pair"];
    // One loss, three wins, and one pair of equal outputs, which is a draw without a verdict.
    assert_eq!((&result["wins"], &result["ties"], &result["losses"]), (&3.into(), &1.into(), &1.into()), "{found}");
    assert_eq!(result["win_rate"]["value"], 0.7);
    world.write("people.jsonl", r#"{"item": "another", "model": "m", "score": 3}"#);
    let message = world.run(&call).expect(2).json()["error"].as_str().unwrap().to_owned();
    assert!(
        message.contains("no verdict is about anything judged here") && message.contains("\"another\""),
        "{message}"
    );
}
