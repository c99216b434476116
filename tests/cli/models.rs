//! `harness models`.

use super::{snapshot_of_calls, world};

#[test]
fn list_and_show() {
    let world = world();
    world.run(&["train", "r4"]).expect(0);
    let calls: &[&[&str]] = &[
        &["models", "list"],
        &["models", "show", "base"],
        &["models", "show", "a4"],
        &["models", "show", "r4"],
        &["models", "show", "adapters/zero"],
    ];
    snapshot_of_calls("models", &world, calls);
}

#[test]
fn list_as_json_names_everything() {
    let world = world();
    world.run(&["train", "r4"]).expect(0);
    let object = world.run(&["models", "list", "--json"]).expect(0).json();
    let experiment = object["experiment"].as_array().unwrap();
    let names: Vec<&str> = experiment.iter().map(|model| model["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a4", "a8", "base", "other", "r4", "zero"]);
    let trained = object["trained"].as_array().unwrap();
    assert!(trained.iter().any(|model| model["path"].as_str().unwrap().contains("r4-")), "{object}");
    assert!(
        trained.iter().all(|model| !model["path"].as_str().unwrap().contains("checkpoint-")),
        "checkpoints are no models of their own: {object}"
    );
}

#[test]
fn families_are_listed_from_the_code() {
    let outcome = world().run(&["models", "list", "--supported"]).expect(0);
    let line = |name: &str| outcome.stdout.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace();
    assert_eq!(line("llama ").collect::<Vec<_>>(), ["llama", "yes", "yes", "yes", "llama"]);
    assert_eq!(line("gemma3_text ").collect::<Vec<_>>(), ["gemma3_text", "yes", "yes", "no", "gemma3"]);
    assert_eq!(line("qwen3_moe ").collect::<Vec<_>>(), ["qwen3_moe", "yes", "yes", "no", "qwen3moe"]);
    let object = world().run(&["models", "list", "--supported", "--json"]).expect(0).json();
    let families = object["families"].as_array().unwrap();
    assert!(families.len() > 50);
    let gemma = families.iter().find(|family| family["model_type"] == "gemma2").unwrap();
    assert_eq!((&gemma["adapters"], &gemma["full_training"]), (&serde_json::json!(true), &serde_json::json!(false)));
    assert!(gemma["missing"].is_string());
}

#[test]
fn list_says_what_is_missing() {
    let world = world();
    std::fs::remove_dir_all(world.path("models/other")).unwrap();
    let outcome = world.run(&["models", "list"]).expect(0);
    let line = outcome.stdout.lines().find(|line| line.starts_with("other")).unwrap();
    assert!(line.contains("missing"), "{line}");
}

#[test]
fn a_merged_candidate_is_a_model_of_its_own() {
    let world = world();
    let says =
        |model: &str| world.run(&["generate", model, "-p", "Anna has", "--max-new-tokens", "8"]).expect(0).stdout;
    let outcome = world.run(&["models", "merge", "a8", "--out", "merged"]).expect(0);
    assert_eq!(outcome.stdout.trim(), "merged");
    assert_eq!(says("merged"), says("a8"));
    assert_ne!(says("merged"), says("base"));
    let files = |folder: &str| {
        let names = std::fs::read_dir(world.path(folder)).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(files("merged"), ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]);
    let again = world.run(&["models", "merge", "a8", "--out", "merged"]).expect(2);
    assert!(
        again.stderr.contains("--out merged: is there already; expected a new or empty folder"),
        "{}",
        again.stderr
    );
    let none = world.run(&["models", "merge", "base", "--out", "other"]).expect(2);
    assert!(none.stderr.contains("base: there is no adapter to merge"), "{}", none.stderr);

    let object = world.run(&["models", "merge", "a8", "--out", "file", "--gguf", "f16", "--json"]).expect(0).json();
    assert_eq!(object["gguf"], "F16");
    assert_eq!(files("file"), ["a8-F16.gguf"]);
    assert_eq!(says("file/a8-F16.gguf"), says("a8"));
    let shown = world.run(&["models", "show", "file", "--json"]).expect(0).json();
    assert_eq!((&shown["kind"], &shown["architecture"]), (&serde_json::json!("gguf"), &serde_json::json!("llama")));
    assert!(!files(".").iter().any(|name| name.starts_with(".file") || name.starts_with(".merged")), "no remains");
}

#[test]
fn show_as_json_holds_the_dimensions() {
    let object = world().run(&["models", "show", "base", "--json"]).expect(0).json();
    for (key, value) in [("layers", 2), ("hidden_size", 32), ("heads", 4), ("kv_heads", 2), ("max_length", 512)] {
        assert_eq!(object[key], value, "{key}");
    }
    assert_eq!(object["architecture"], "llama");
    assert!(object["chat_template"].as_str().unwrap().contains("messages"));
}
