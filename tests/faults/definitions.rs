//! Definitions and documents that no program should stumble over.

use harness_test_support::tasks;
use serde_json::{Value, json};

use super::world;

/// What hinders one definition is said, and hinders no other.
#[test]
fn broken_definitions_are_named_in_a_run() {
    let world = world();
    world.write("tasks/cycle_a.yaml", "include: cycle_b.yaml\ntask: cyclic\n");
    world.write("tasks/cycle_b.yaml", "include: cycle_a.yaml\n");
    world.write("tasks/twice.yaml", tasks::CHOICE);
    world.write("tasks/bytes.yaml", b"task: bytes\ndescription: \"caf\xe9\"\n");
    world.write(
        "tasks/z_filter.yaml",
        tasks::ANSWER.replace("toy_answer\n", "filtered\n").replace("regex\n", "regexx\n"),
    );
    let outcome = world.run(&["run", "base", "-t", "toy_choice"]).expect(0).says(&[
        "the includes form a cycle",
        "twice.yaml:1:1: the name \"toy_choice\" is already defined at",
        "bytes.yaml:2:18: the byte 0xE9 is not UTF-8",
    ]);
    assert!(outcome.stdout.contains("toy_choice"), "{}", outcome.stdout);
    world.run(&["run", "base", "-t", "cyclic"]).expect(2).says(&["the includes form a cycle", "named \"cyclic\""]);
    let outcome = world.run(&["run", "base", "-t", "filtered"]).expect(2);
    outcome.says(&["z_filter.yaml:", "unknown filter \"regexx\"; did you mean regex?"]);
}

#[test]
fn a_template_without_end_ends() {
    let world = world();
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}";
    world.replace("tasks/toy_choice.yaml", "Question: {{question}}\\nAnswer:", endless);
    let outcome = world.run(&["run", "base", "-t", "toy_choice"]).expect(2);
    outcome.says(&[
        "task toy_choice, test document 0: doc_to_text",
        "fuel (limits.template_instructions in harness.toml)",
        "toy_choice.yaml:8:",
    ]);
}

/// What a file may ask for is an option, and an error names it.
#[test]
fn limits_are_options() {
    let world = world();
    let experiment = world.read("harness.toml");
    for (limit, parts) in [
        ("line_bytes = 40", ["toy_choice.jsonl", "line 1 is longer than 40 bytes (limits.line_bytes in harness.toml)"]),
        (
            "yaml_values = 3",
            [".yaml:", "more than 3 values, those that aliases repeat counted each time (limits.yaml_values"],
        ),
        ("yaml_bytes = 20", [".yaml:1:1: ", "more than 20 bytes (limits.yaml_bytes"]),
        ("template_bytes = 20", ["toy_choice.yaml:8:", "values of more than 20 bytes, which is the limit (limits."]),
        ("template_instructions = 2", ["toy_choice.yaml:8:", "(limits.template_instructions"]),
        ("template_source = 9", ["toy_choice.yaml", "a source of more than 9 bytes"]),
        ("file_bytes = 30", ["larger than 30 bytes", "(limits.file_bytes"]),
        ("line_byte = 40", ["harness.toml", "unknown field `line_byte`"]),
    ] {
        world.write("harness.toml", format!("{experiment}\n[limits]\n{limit}\n"));
        world.run(&["run", "base", "-t", "toy_choice"]).expect(2).says(&parts);
    }
}

/// A pattern that backtracks without end is given up for the documents that make it do so, and those are named.
#[test]
fn a_costly_pattern_is_given_up_and_its_documents_are_named() {
    let world = world();
    let costly = r"^(\\w|\\w\\w|\\s|[^a])+\\1\\d{9}$";
    world.replace("tasks/toy_answer.yaml", "([a-m])", costly);
    world.replace("tasks/toy_answer.yaml", "max_gen_toks: 12", "max_gen_toks: 60");
    world.replace("tasks/toy_answer.yaml", "until: [\"\\n\"]", "until: []");
    let outcome = world.run(&["run", "base", "-t", "toy_answer", "--json"]).expect(0).json();
    let caveats = outcome["caveats"].as_array().unwrap();
    let named =
        caveats.iter().find(|caveat| caveat["kind"] == "costly_patterns").unwrap_or_else(|| panic!("{caveats:?}"));
    assert_eq!((&named["tasks"][0]["task"], &named["tasks"][0]["model"]), (&json!("toy_answer"), &json!("base")));
    assert!(!named["tasks"][0]["documents"].as_array().unwrap().is_empty());
    let text = world.run(&["run", "base", "-t", "toy_answer"]).expect(0).stdout;
    assert!(text.contains("backtracked without end: toy_answer `base` document"), "{text}");
}

#[test]
fn documents_without_a_right_choice_are_kept_and_named() {
    let world = world();
    let mut rows = tasks::choice_rows(6);
    rows[2]["answer"] = json!(7);
    rows[5]["answer"] = json!("none of them");
    world.write("tasks/toy_choice.jsonl", tasks::lines(&rows));
    let object = world.run(&["compare", "base", "a4", "-t", "toy_choice", "--json"]).expect(0).json();
    assert_eq!(object["rows"][0]["n"], 6, "no document is dropped");
    let of_kind = |kind: &str| -> Vec<Value> {
        object["caveats"].as_array().unwrap().iter().filter(|caveat| caveat["kind"] == kind).cloned().collect()
    };
    let expected = json!([{"task": "toy_choice", "model": null, "documents": [2, 5]}]);
    assert_eq!(of_kind("no_right_choice").iter().map(|caveat| &caveat["tasks"]).collect::<Vec<_>>(), [&expected]);
    let text = world.run(&["audit", "base", "a4", "-t", "toy_choice"]);
    assert!(text.stdout.contains("none of the choices") && text.stdout.contains("documents 2, 5"), "{text:?}");
}

#[test]
fn choices_that_are_none_are_named_with_their_document() {
    let world = world();
    let mut rows = tasks::choice_rows(4);
    rows[1]["choices"] = json!([]);
    world.write("tasks/toy_choice.jsonl", tasks::lines(&rows));
    let outcome = world.run(&["run", "base", "-t", "toy_choice"]).expect(2);
    outcome.says(&["task toy_choice, test document 1: doc_to_choice: gives no choices"]);
    world.write("tasks/toy_choice.jsonl", b"{\"question\": \"caf\xe9\", \"choices\": [\"a\"], \"answer\": 0}\n");
    let outcome = world.run(&["run", "base", "-t", "toy_choice"]).expect(2);
    outcome.says(&["toy_choice.jsonl, line 1", "0xE9", "UTF-8"]);
}

#[test]
fn a_document_of_ten_megabytes_is_cut_to_the_model() {
    let world = world();
    let mut rows = tasks::choice_rows(2);
    rows[1]["question"] = "word ".repeat(2 << 20).into();
    rows[1]["choices"] = json!([" yes"]);
    rows[1]["answer"] = json!(0);
    world.write("tasks/toy_choice.jsonl", tasks::lines(&rows));
    let outcome = world.run(&["run", "base", "-t", "toy_choice"]).expect(0);
    assert!(outcome.stdout.contains("Contexts were cut to the model's length"), "{}", outcome.stdout);
}
