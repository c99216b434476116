//! `harness golden`.

use harness_test_support::World;
use serde_json::Value;

use super::{snapshot, world};

/// A world with a report in `report` and its metrics in `golden.json`.
fn accepted() -> World {
    let world = world();
    world.run(&["compare", "base", "a4", "-t", "toy_choice,toy_text", "--out", "report"]).expect(0);
    let outcome = world.run(&["golden", "accept", "report", "--golden", "golden.json"]).expect(0);
    assert!(outcome.stdout.contains("golden.json: 5 metrics accepted"), "{}", outcome.stdout);
    world
}

const CHECK: [&str; 5] = ["golden", "check", "report", "--golden", "golden.json"];

#[test]
fn equal_metrics_pass() {
    let world = accepted();
    let outcome = world.run(&CHECK).expect(0);
    assert_eq!(outcome.stdout, "all metrics equal golden.json\n");
    world.run(&["golden", "check", "report/report.json", "--golden", "golden.json"]).expect(0);
    let object = world.run(&[&CHECK[..], &["--json"]].concat()).expect(0).json();
    assert_eq!(object["regressions"], serde_json::json!([]));
}

/// Changes a number in `golden.json`.
fn change(world: &World, change: impl Fn(f64) -> f64) {
    let mut golden: Value = serde_json::from_str(&world.read("golden.json")).unwrap();
    let value = &mut golden["tasks"]["toy_choice"]["acc,none"]["a4"];
    *value = change(value.as_f64().expect("a value of acc")).into();
    world.write("golden.json", golden.to_string());
}

#[test]
fn a_changed_metric_ends_with_3_and_is_named() {
    let world = accepted();
    change(&world, |value| value + 0.25);
    let outcome = world.run(&CHECK).expect(3).says(&["1 metric differs from golden.json"]);
    assert!(outcome.stdout.starts_with("toy_choice acc,none a4: expected "), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("(difference -2.5"), "{}", outcome.stdout);
    let regressions = world.run(&[&CHECK[..], &["--json"]].concat()).code;
    assert_eq!(regressions, Some(3));
}

#[test]
fn a_change_within_the_tolerance_passes() {
    let world = accepted();
    change(&world, |value| value + 0.5e-6);
    world.run(&CHECK).expect(0);
    change(&world, |value| value + 1e-6);
    world.run(&CHECK).expect(3);
}

#[test]
fn missing_and_new_values_are_regressions() {
    let world = accepted();
    world.run(&["compare", "base", "a8", "-t", "toy_choice", "--out", "report"]).expect(0);
    let outcome = world.run(&CHECK).expect(3);
    assert!(outcome.stdout.contains("found nothing") && outcome.stdout.contains("it is new"), "{}", outcome.stdout);
}

#[test]
fn accept_keeps_tolerances() {
    let world = accepted();
    let mut golden: Value = serde_json::from_str(&world.read("golden.json")).unwrap();
    golden["tolerance"] = 0.01.into();
    golden["tasks"]["toy_choice"]["acc,none"]["tolerance"] = 0.5.into();
    world.write("golden.json", golden.to_string());
    world.run(&["golden", "accept", "report", "--golden", "golden.json"]).expect(0);
    let again: Value = serde_json::from_str(&world.read("golden.json")).unwrap();
    assert_eq!(again, golden);
    change(&world, |value| value + 0.25);
    world.run(&CHECK).expect(0);
}

#[test]
fn with_json_one_object_is_printed_even_on_a_regression() {
    let world = accepted();
    change(&world, |value| value + 0.25);
    let object = world.run(&[&CHECK[..], &["--json"]].concat()).expect(3).json();
    assert_eq!(object["regressions"][0]["task"], "toy_choice");
}

#[test]
fn files_that_are_wrong() {
    let world = accepted();
    world.write("bad.json", "{\"tolerance\": 1e-6, \"task\": {}}");
    world.write("torn.json", "{\"tolerance\": 1e-6,\n \"tasks\": {\"toy");
    world.write("negative.json", "{\"tolerance\": -1, \"tasks\": {}}");
    let calls: &[&[&str]] = &[
        &["golden", "check", "nowhere"],
        &["golden", "check", "report"],
        &["golden", "check", "report", "--golden", "bad.json"],
        &["golden", "check", "report", "--golden", "torn.json"],
        &["golden", "check", "report", "--golden", "negative.json"],
        &["golden", "check", "bad.json", "--golden", "golden.json"],
        &["golden", "accept", "nowhere", "--golden", "golden.json"],
    ];
    let text: Vec<String> =
        calls.iter().map(|call| world.hide_path(&world.run(call).expect(2).transcript(call))).collect();
    snapshot("wrong_golden", &text.join("\n"));
}
