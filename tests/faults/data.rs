//! Tasks and their data that are wrong.

use harness_test_support::{World, tasks};

use super::world;

#[track_caller]
fn refused(world: &World, words: &[&str]) {
    world.run(&["run", "base", "-t", "toy_choice"]).expect(2).says(words);
    assert_eq!(world.stored(), 0);
}

/// Replaces a line of the rows; lines count from 1.
fn change_line(world: &World, number: usize, line: &str) {
    let text = world.read("tasks/toy_choice.jsonl");
    let lines: Vec<&str> = text.lines().enumerate().map(|(n, old)| if n + 1 == number { line } else { old }).collect();
    world.write("tasks/toy_choice.jsonl", lines.join("\n") + "\n");
}

#[test]
fn an_unknown_key_is_shown_with_line_and_column() {
    let world = world();
    world.replace("tasks/toy_choice.yaml", "test_split: test", "test_spilt: test");
    refused(&world, &["toy_choice.yaml:6:1", "test_spilt", "test_split"]);
}

#[test]
fn a_template_error_is_shown_with_line_and_column() {
    let world = world();
    world.replace("tasks/toy_choice.yaml", "{{question}}", "{{question}");
    refused(&world, &["toy_choice.yaml:8:"]);
    world.replace("tasks/toy_choice.yaml", "{{question}", "{{question | uper}}");
    refused(&world, &["toy_choice.yaml:8:", "uper"]);
}

#[test]
fn a_missing_column_is_named() {
    let world = world();
    world.replace("tasks/toy_choice.yaml", "{{question}}", "{{qestion}}");
    refused(&world, &["qestion", "question"]);
}

#[test]
fn a_target_that_is_no_column_and_no_choice_is_named() {
    let world = world();
    world.replace("tasks/toy_choice.yaml", "doc_to_target: answer", "doc_to_target: anser");
    refused(&world, &["toy_choice", "doc_to_target", "anser", "did you mean answer?"]);
}

#[test]
fn one_row_without_a_column_is_named() {
    let world = world();
    change_line(&world, 5, r#"{"choices": ["a", "b"], "answer": 0}"#);
    refused(&world, &["toy_choice", "4", "question"]);
}

#[test]
fn bad_json_is_named_with_its_line() {
    let world = world();
    change_line(&world, 7, r#"{"question": "What?", "choices": ["#);
    refused(&world, &["toy_choice.jsonl", "line 7", "JSON"]);
    change_line(&world, 7, "[1, 2]");
    refused(&world, &["toy_choice.jsonl", "line 7"]);
}

#[test]
fn a_target_outside_the_choices_is_warned_of() {
    let world = world();
    change_line(&world, 3, r#"{"question": "What?", "choices": ["a", "b"], "answer": 7}"#);
    let outcome = world.run(&["run", "base", "-t", "toy_choice"]).expect(0);
    outcome.says(&["toy_choice", "1 document with no right choice, scored 0"]);
}

#[test]
fn a_file_that_is_not_there() {
    let world = world();
    std::fs::remove_file(world.path("tasks/toy_choice.jsonl")).unwrap();
    refused(&world, &["toy_choice", "toy_choice.jsonl"]);
}

#[test]
fn a_task_without_documents() {
    let world = world();
    world.write("tasks/toy_choice.jsonl", "");
    refused(&world, &["toy_choice"]);
    world.write("tasks/toy_choice.jsonl", "\n\n");
    refused(&world, &["toy_choice"]);
}

#[test]
fn a_broken_task_does_not_stop_the_others() {
    let world = world();
    world.replace("tasks/toy_choice.yaml", "test_split: test", "test_spilt: test");
    world.run(&["run", "base", "-t", "toy_answer"]).expect(0);
    let list = world.run(&["tasks", "list"]).expect(0).says(&["left out", "toy_choice.yaml:6:1"]);
    assert!(list.stdout.contains("toy_answer"), "{}", list.stdout);
    world.run(&["run", "base", "-t", "toy_choice"]).expect(2);
}

#[test]
fn data_that_nobody_downloads() {
    let world = world();
    let outcome = world.run(&["run", "base", "-t", "arc_easy", "-L", "1"]).expect(2);
    outcome.says(&["arc_easy", "--data-dir", "hub"]);
}

#[test]
fn a_context_longer_than_the_model_is_cut_counted_and_reported() {
    let world = world();
    let mut rows = tasks::choice_rows(4);
    rows[1]["question"] = format!("{} What is left?", "A long story. ".repeat(200)).into();
    world.write("tasks/toy_choice.jsonl", tasks::lines(&rows));
    let call = ["compare", "base", "a4", "-t", "toy_choice"];
    let outcome = world.run(&call).expect(0);
    assert!(outcome.stdout.contains("Contexts were cut to the model's length"), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("4 of 16 requests"), "{}", outcome.stdout);
    let object = world.run(&["compare", "base", "a4", "-t", "toy_choice", "--json"]).expect(0).json();
    let caveats = object["caveats"].as_array().unwrap();
    let cut = caveats.iter().find(|caveat| caveat["kind"] == "truncated_contexts").expect("the caveat");
    let shares = cut["shares"].as_array().unwrap();
    assert_eq!(shares.len(), 2);
    assert!(shares.iter().all(|share| share["count"] == 4 && share["of"] == 16), "{cut}");
    // The same in generation, where room for the answer is kept.
    let mut rows = tasks::answer_rows(2);
    rows[0]["question"] = "A long story. ".repeat(200).into();
    world.write("tasks/toy_answer.jsonl", tasks::lines(&rows));
    let outcome = world.run(&["compare", "base", "a4", "-t", "toy_answer"]).expect(0);
    assert!(outcome.stdout.contains("1 of 2 requests"), "{}", outcome.stdout);
}
