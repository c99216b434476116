//! Wrong calls: one message that names what was found, what was expected and the nearest choice; exit code 2.

use super::{snapshot_of_calls, world};

#[test]
fn unknown_words() {
    let calls: &[&[&str]] = &[
        &["compar", "base", "a4"],
        &["compare", "base"],
        &["compare", "base", "a4", "--limt", "3"],
        &["compare", "base", "a4", "--fail-on", "wors"],
        &["compare", "base", "a4", "--out", "r", "--format", "pdf"],
        &["train", "r4", "--resume", "--force"],
        &["generate", "base"],
        &["run", "base", "--fewshot-in-one-turn"],
    ];
    snapshot_of_calls("wrong_words", &world(), calls);
}

#[test]
fn unknown_models() {
    let calls: &[&[&str]] = &[
        &["run", "bas", "-t", "toy_choice"],
        &["compare", "base", "a44", "-t", "toy_choice"],
        &["generate", "models/bse", "-p", "x"],
        &["chat", "nothing-like-it"],
        &["train", "r5"],
        &["train", "base"],
        &["models", "show", "othr"],
        &["run", "openai:gpt@host/v1", "-t", "toy_choice"],
        &["run", "https://host/v1", "-t", "toy_choice"],
        &["compare", "base", "base", "-t", "toy_choice"],
        &["compare", "base", "models/base", "-t", "toy_choice"],
        &["compare", "base", "r4", "-t", "toy_choice", "--no-train"],
        &["generate", "r4", "-p", "x"],
    ];
    snapshot_of_calls("wrong_models", &world(), calls);
}

#[test]
fn unknown_tasks() {
    let calls: &[&[&str]] = &[
        &["run", "base", "-t", "toy_choise"],
        &["run", "base", "-t", "toy_choice,mmlu_astronmy"],
        &["tasks", "show", "toy_answr"],
        &["tasks", "show", "toy_answer", "--doc", "99"],
        &["tasks", "check", "nowhere"],
        &["run", "base", "-t", "toy_choice", "--include-path", "nowhere"],
    ];
    snapshot_of_calls("wrong_tasks", &world(), calls);
}

#[test]
fn no_tasks() {
    let world = world();
    world.write("bare.toml", "[models.base]\npath = \"models/base\"\n");
    snapshot_of_calls("no_tasks", &world, &[&["run", "base", "--experiment", "bare.toml"]]);
}

#[test]
fn wrong_values() {
    let calls: &[&[&str]] = &[
        &["run", "base", "-L", "0"],
        &["run", "base", "-L", "-3"],
        &["run", "base", "-L", "2.5"],
        &["run", "base", "-L", "many"],
        &["run", "base", "-n", "-1"],
        &["run", "base", "--gen-kwargs", "temperature"],
        &["run", "base", "--gen-kwargs", "temprature=1"],
        &["run", "base", "--gen-kwargs", "max_gen_toks=few"],
        &["run", "base", "--batch-tokens", "0"],
        &["run", "base", "--batch-sequences", "0"],
        &["run", "base", "--kv-memory", "0"],
        &["generate", "base", "-p", "x", "--temperature", "-1"],
        &["generate", "base", "-p", "x", "--top-k", "0", "--temperature", "1"],
        &["generate", "base", "-p", "x", "--min-p", "2", "--temperature", "1"],
        &["chat", "base", "--repetition-penalty", "0"],
        &["generate", "base", "-p", "x", "--top-p", "1.5", "--temperature", "1"],
        &["generate", "base", "-p", "x", "--max-new-tokens", "0"],
        &["train", "r4", "--max-steps", "0", "--dry-run"],
    ];
    snapshot_of_calls("wrong_values", &world(), calls);
}

#[test]
fn a_wrong_call_writes_nothing() {
    let world = world();
    for call in [
        &["run", "base", "-t", "toy_choise"][..],
        &["compare", "base", "a44"],
        &["compare", "base", "a4", "-L", "0", "--out", "report"],
        &["train", "r4", "--base", "nothing"],
    ] {
        world.run(call).expect(2);
    }
    assert!(!world.path(".harness").exists() && !world.path("report").exists());
}

#[test]
fn with_json_an_error_is_one_object_on_standard_output() {
    let world = world();
    let outcome = world.run(&["run", "base", "-t", "toy_choise", "--json"]).expect(2);
    let object = outcome.json();
    assert_eq!(object["exit_code"], 2);
    assert!(object["error"].as_str().unwrap().contains("did you mean toy_choice?"), "{object}");
    let object = world.run(&["run", "base", "--limt", "3", "--json"]).expect(2).json();
    assert_eq!(object["exit_code"], 2);
    assert!(object["error"].as_str().unwrap().contains("'--limit'"), "{object}");
}
