//! `harness tasks`.

use super::{snapshot, snapshot_of_calls, world};

#[test]
fn list_names_tasks_and_groups() {
    let world = world();
    let outcome = world.run(&["tasks", "list"]).expect(0);
    for name in
        ["arc_easy", "arc_challenge", "gsm8k", "mmlu_astronomy", "dolly_test", "wikitext", "tiny_mmlu", "toy_choice"]
    {
        assert!(outcome.stdout.lines().any(|line| line.starts_with(name)), "{name}");
    }
    assert!(outcome.stdout.lines().last().unwrap().contains("mmlu"), "{}", outcome.stdout);
    let object = world.run(&["tasks", "list", "--json"]).expect(0).json();
    let tasks = object["tasks"].as_array().unwrap();
    assert_eq!(tasks.iter().filter(|task| task["task"].as_str().unwrap().starts_with("mmlu_")).count(), 57);
    let choice = tasks.iter().find(|task| task["task"] == "toy_choice").unwrap();
    assert_eq!(choice["output_type"], "multiple_choice");
    assert_eq!(choice["metrics"], serde_json::json!(["acc,none", "acc_norm,none"]));
}

#[test]
fn show_prints_a_prompt_as_the_model_sees_it() {
    let calls: &[&[&str]] = &[
        &["tasks", "show", "toy_choice"],
        &["tasks", "show", "toy_answer", "--doc", "3"],
        &["tasks", "show", "toy_text", "--doc", "1"],
        &["tasks", "show", "tiny_gsm8k", "-n", "1"],
        &["tasks", "show", "toy_answer", "--model", "base"],
        &["tasks", "show", "toy_answer", "--model", "base", "--apply-chat-template"],
        &["tasks", "show", "toy_answer", "--apply-chat-template"],
    ];
    snapshot_of_calls("tasks_show", &world(), calls);
}

#[test]
fn show_as_json_holds_requests_and_tokens() {
    let object = world().run(&["tasks", "show", "toy_choice", "--model", "base", "--json"]).expect(0).json();
    let requests = object["requests"].as_array().unwrap();
    assert_eq!(requests.len(), 4);
    for (request, tokens) in requests.iter().zip(object["tokens"].as_array().unwrap()) {
        let joined: String = tokens.as_array().unwrap().iter().map(|token| token.as_str().unwrap()).collect();
        let text = format!("{}{}", request["context"].as_str().unwrap(), request["continuation"].as_str().unwrap());
        assert!(joined.contains(&text) || joined == text, "{joined:?} against {text:?}");
    }
}

#[test]
fn check_accepts_good_definitions() {
    let world = world();
    let outcome = world.run(&["tasks", "check", "tasks"]).expect(0);
    assert_eq!(
        outcome.stdout,
        "3 files, 3 valid; 3 tasks: 3 runnable (0 of them with built-in functions), 0 needing Python, 0 with template \
         errors; 0 groups; 0 problems\n"
    );
    let object = world.run(&["tasks", "check", "tasks", "--json"]).expect(0).json();
    assert_eq!((&object["tasks"], object["problems"].as_array().unwrap().len()), (&3.into(), 0));
}

#[test]
fn check_names_file_line_and_column_of_all_problems() {
    let world = world();
    for (name, from, to) in [
        ("unknown_key", "test_split: test", "test_spilt: test"),
        ("bad_template", "{{question}}\\nAnswer", "{{question\\nAnswer"),
        ("bad_metric", "metric: acc_norm", "metric: acc_nrm"),
        ("bad_type", "output_type: multiple_choice", "output_type: multiple_choise"),
        ("bad_yaml", "metric_list:", "metric_list: ["),
    ] {
        let text = harness_test_support::tasks::CHOICE.replace("toy_choice", name);
        assert!(text.contains(from));
        world.write(&format!("broken/{name}.yaml"), text.replace(from, to));
    }
    let call = ["tasks", "check", "broken"];
    let outcome = world.run(&call).expect(2);
    snapshot("tasks_check", &world.hide_path(&outcome.transcript(&call)));
    for name in ["unknown_key", "bad_template", "bad_metric", "bad_type", "bad_yaml"] {
        let line = outcome.stdout.lines().find(|line| line.contains(&format!("{name}.yaml:")));
        assert!(line.is_some(), "{name} has no line with a place in:\n{}", outcome.stdout);
    }
}

#[test]
fn check_counts_what_needs_python() {
    let world = world();
    let text = harness_test_support::tasks::CHOICE;
    let renamed =
        |name: &str, more: &str| format!("{}{more}\n", text.replace("task: toy_choice", &format!("task: {name}")));
    world.write("mine/a.yaml", renamed("a", "process_docs: !function utils.clean"));
    world.write("mine/b.yaml", renamed("b", "process_docs: !function utils.clean"));
    world.write("hellaswag/c.yaml", renamed("c", "process_docs: !function utils.process_docs"));
    let outcome = world.run(&["tasks", "check", "mine"]).expect(0);
    assert!(outcome.stdout.contains("     2  process_docs: utils.clean (a, b)"), "{}", outcome.stdout);
    let object = world.run(&["tasks", "check", "hellaswag", "--json"]).expect(0).json();
    assert_eq!((&object["runnable"], &object["native"]), (&1.into(), &1.into()));
}
