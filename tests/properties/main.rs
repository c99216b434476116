//! What must hold whatever the models are: a comparison of toy models through the binary.

use harness_test_support::{Outcome, World, tasks};
use serde_json::Value;

fn world() -> World {
    World::new(env!("CARGO_BIN_EXE_harness"))
}

/// The caveats of a kind.
fn caveats<'a>(object: &'a Value, kind: &str) -> Vec<&'a Value> {
    object["caveats"].as_array().expect("caveats").iter().filter(|caveat| caveat["kind"] == kind).collect()
}

fn compare(world: &World, args: &[&str]) -> Value {
    world.run(&[&["compare", "--json"], args].concat()).expect(0).json()
}

#[test]
fn a_copy_under_another_name_is_recognised() {
    let world = world();
    world.copy("models/base", "models/copy");
    let object = compare(&world, &["base", "models/copy"]);
    let same = caveats(&object, "same_model_twice");
    assert_eq!(same.len(), 1, "{}", object["caveats"]);
    assert_eq!(same[0]["models"], serde_json::json!(["base", "copy"]));
    for row in object["rows"].as_array().unwrap() {
        assert_eq!(row["cells"][0]["value"], row["cells"][1]["value"]);
        assert_eq!(row["contrasts"][0]["difference"].as_f64(), Some(0.0), "{row}");
        assert_eq!(row["contrasts"][0]["verdict"], "undecided");
    }
    let text = world.run(&["compare", "base", "models/copy"]).expect(0).stdout;
    assert!(text.contains("`base` and `copy` are the same model."), "{text}");
}

#[test]
fn an_adapter_of_zeros_is_recognised() {
    let world = world();
    let object = compare(&world, &["base", "zero"]);
    let noop = caveats(&object, "no_op_adapter");
    assert_eq!((noop.len(), &noop[0]["model"], &noop[0]["base"]), (1, &"zero".into(), &"base".into()));
    for row in object["rows"].as_array().unwrap() {
        assert_eq!(row["cells"][0]["value"], row["cells"][1]["value"]);
    }
    let text = world.run(&["compare", "base", "zero"]).expect(0).stdout;
    assert!(text.contains("The adapter of `zero` changes nothing: it answers as `base` does."), "{text}");
    assert!(caveats(&compare(&world, &["base", "a4"]), "no_op_adapter").is_empty());
}

#[test]
fn models_that_answer_alike_are_recognised() {
    let world = world();
    // An adapter whose effect is far below what greedy answers show.
    harness_test_support::tiny_adapter(&world.path("adapters/zero"), "base", Default::default(), 4, 7, false);
    world.replace("adapters/zero/adapter_config.json", "\"lora_alpha\": 8", "\"lora_alpha\": 1e-30");
    let object = compare(&world, &["base", "zero", "-t", "toy_answer"]);
    let alike = [caveats(&object, "identical_outputs"), caveats(&object, "no_op_adapter")].concat();
    assert_eq!(alike.len(), 1, "{}", object["caveats"]);
}

#[test]
fn all_adapters_of_a_base_share_it() {
    let world = world();
    let outcome = world.run(&["compare", "base", "a4", "a8", "zero", "-t", "toy_choice"]).expect(0);
    assert_eq!(loads(&outcome), 1, "{}", outcome.stderr);
    let two = world.run(&["compare", "base", "a4", "other", "-t", "toy_choice"]).expect(0);
    assert_eq!(loads(&two), 2, "{}", two.stderr);
}

fn loads(outcome: &Outcome) -> usize {
    outcome.stderr.lines().filter(|line| line.starts_with("load ") && line.contains("parameters")).count()
}

/// Value and interval of a model by task and metric.
fn values(object: &Value, model: &str) -> Vec<(String, Value)> {
    let models = object["models"].as_array().unwrap();
    let index = models.iter().position(|name| name == model).expect("the model");
    let rows = object["rows"].as_array().unwrap();
    rows.iter().map(|row| (format!("{} {}", row["task"], row["key"]), row["cells"][index].clone())).collect()
}

#[test]
fn the_order_of_models_does_not_change_their_values() {
    let world = world();
    let first = compare(&world, &["base", "a4", "other"]);
    std::fs::remove_dir_all(world.path(".harness")).unwrap();
    let second = compare(&world, &["other", "base", "a4"]);
    let fewer = compare(&world, &["base", "a4"]);
    for model in ["base", "a4", "other"] {
        assert_eq!(values(&first, model), values(&second, model), "{model}");
    }
    assert_eq!(values(&first, "a4"), values(&fewer, "a4"), "a comparison with fewer models");
}

#[test]
fn memory_batches_and_threads_change_nothing() {
    let usual = world().run(&["compare", "base", "a4", "other", "--json"]).expect(0).stdout;
    let options: [&[&str]; 6] = [
        &["--batch-tokens", "1"],
        &["--batch-tokens", "37"],
        &["--batch-tokens", "5000"],
        &["--kv-memory", "1"],
        &["--batch-sequences", "1"],
        &["--batch-sequences", "3", "--batch-tokens", "64", "--kv-memory", "1"],
    ];
    for option in options {
        let outcome = world().run(&[&["compare", "base", "a4", "other", "--json"], option].concat()).expect(0);
        assert!(outcome.stdout == usual, "{option:?}");
    }
    for threads in ["1", "2", "3"] {
        let world = world();
        let mut command = world.command(&["compare", "base", "a4", "other", "--json"]);
        let output = command.env("RAYON_NUM_THREADS", threads).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout) == usual, "{threads} threads");
    }
}

#[test]
fn a_limit_is_a_prefix_of_the_whole() {
    let world = world();
    world.run(&["run", "base", "-t", "toy_choice", "-L", "5"]).expect(0);
    assert_eq!(world.stored(), 20);
    world.run(&["run", "base", "-t", "toy_choice"]).expect(0);
    assert_eq!(world.stored(), 48, "what was answered for the limit is not asked again");
}

#[test]
fn the_seed_of_resampling_changes_intervals_only() {
    let world = world();
    let first = compare(&world, &["base", "other"]);
    let second = compare(&world, &["base", "other", "--seed", "7"]);
    for model in ["base", "other"] {
        for ((name, a), (_, b)) in values(&first, model).into_iter().zip(values(&second, model)) {
            assert_eq!(a["value"], b["value"], "{name}");
        }
    }
    let again = compare(&world, &["base", "other", "--seed", "7"]);
    assert_eq!(second, again);
}

#[test]
fn the_better_model_is_found() {
    let world = world();
    // Texts in the words of `other`: it must find them more probable than `base` does.
    let prompts: Vec<String> = (0..24).map(|n| format!("{n} stones lie")).collect();
    let call = ["generate", "other", "-p", "-", "--max-new-tokens", "40", "--temperature", "1"];
    let said = world.run_with_input(&call, &(prompts.join("\n") + "\n")).expect(0).stdout;
    let rows: Vec<Value> = prompts
        .iter()
        .zip(said.lines())
        .map(|(prompt, said)| {
            let text = format!("{prompt}{}", said.replace("\\n", "\n"));
            serde_json::json!({"question": prompt, "choices": [said, "is nothing"], "answer": 0, "text": text})
        })
        .collect();
    world.write("tasks/toy_text.jsonl", tasks::lines(&rows));
    let object = compare(&world, &["base", "other", "-t", "toy_text"]);
    let rows = object["rows"].as_array().unwrap();
    let primary: Vec<&Value> = rows.iter().filter(|row| row["primary"] == true).collect();
    assert!(!primary.is_empty());
    for row in primary {
        assert_eq!(row["contrasts"][0]["verdict"], "better", "{row}");
    }
    let back = compare(&world, &["other", "base", "-t", "toy_text"]);
    for row in back["rows"].as_array().unwrap().iter().filter(|row| row["primary"] == true) {
        assert_eq!(row["contrasts"][0]["verdict"], "worse", "{row}");
    }
    world.run(&["compare", "other", "base", "-t", "toy_text", "--fail-on", "worse"]).expect(3);
    world.run(&["compare", "base", "other", "-t", "toy_text", "--fail-on", "worse"]).expect(0);
}
