//! `harness compare`.

use std::fs;

use serde_json::Value;

use super::{snapshot, world};

const CALL: [&str; 4] = ["compare", "base", "a4", "a8"];

#[test]
fn prints_a_table_with_verdicts_and_caveats() {
    let world = world();
    let call = ["compare", "base", "a4", "a8", "--tasks", "toy_choice,toy_answer"];
    let outcome = world.run(&call).expect(0);
    snapshot("compare", &world.hide_path(&outcome.transcript(&call)));
    for word in ["toy_choice", "toy_answer", "base", "a4", "a8", "undecided"] {
        assert!(outcome.stdout.contains(word), "{word}:\n{}", outcome.stdout);
    }
}

#[test]
fn two_names_of_one_model_are_asked_once() {
    let world = world();
    world.replace("harness.toml", "[models.other]", "[models.twin]\npath = \"models/base\"\n[models.other]");
    let outcome = world.run(&["compare", "base", "a4", "twin", "-t", "toy_answer"]).expect(0);
    outcome.says(&["evaluate base, a4:", "evaluate twin: all 8 responses are stored"]);
    assert_eq!(world.stored(), 16);
}

#[test]
fn data_go_to_standard_output_and_progress_to_standard_error() {
    let world = world();
    let loud = world.run(&CALL).expect(0).says(&["load tasks", "evaluate base, a4, a8"]);
    let quiet = world.run(&["compare", "base", "a4", "a8", "--quiet"]).expect(0);
    assert_eq!(quiet.stderr, "");
    assert_eq!(quiet.stdout, loud.stdout);
    assert!(!loud.stdout.contains('\u{1b}') && !loud.stderr.contains('\u{1b}'), "no colours into pipes");
}

#[test]
fn json_is_one_object() {
    let object = world().run(&["compare", "base", "a4", "a8", "--json"]).expect(0).json();
    assert_eq!(object["models"], serde_json::json!(["base", "a4", "a8"]));
    let rows = object["rows"].as_array().unwrap();
    let tasks: Vec<&str> = rows.iter().map(|row| row["task"].as_str().unwrap()).collect();
    for task in ["toy_choice", "toy_answer", "toy_text"] {
        assert!(tasks.contains(&task), "{task} in {tasks:?}");
    }
    for row in rows {
        assert_eq!(row["cells"].as_array().unwrap().len(), 3);
        assert_eq!(row["contrasts"].as_array().unwrap().len(), 2);
        for contrast in row["contrasts"].as_array().unwrap() {
            let verdict = contrast["verdict"].as_str().unwrap();
            assert!(["better", "worse", "equivalent", "undecided"].contains(&verdict), "{verdict}");
        }
    }
    assert!(!object["caveats"].as_array().unwrap().is_empty(), "12 documents are too few");
}

#[test]
fn writes_all_reports_plots_and_the_manifest() {
    let world = world();
    let outcome = world.run(&["compare", "base", "a4", "a8", "--out", "report"]).expect(0);
    let mut names: Vec<String> = fs::read_dir(world.path("report"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let expected = [
        "comparison.png",
        "comparison.svg",
        "manifest.json",
        "report.csv",
        "report.html",
        "report.json",
        "report.md",
        "report.tex",
    ];
    assert_eq!(names, expected);

    assert!(world.bytes("report/comparison.png").starts_with(b"\x89PNG"));
    assert!(world.read("report/comparison.svg").contains("<svg"));
    assert!(world.read("report/report.tex").contains("\\toprule"));
    assert!(world.read("report/report.md").contains("toy_choice"));
    let header = world.read("report/report.csv").lines().next().unwrap().to_owned();
    assert!(header.contains("task") && header.contains("model"), "{header}");
    let report: Value = serde_json::from_str(&world.read("report/report.json")).unwrap();
    assert_eq!(report["comparison"]["models"], serde_json::json!(["base", "a4", "a8"]));
    let manifest: Value = serde_json::from_str(&world.read("report/manifest.json")).unwrap();
    assert!(manifest["hash"].is_string());
    let text = manifest.to_string();
    for name in ["base", "a4", "a8", "toy_choice", "toy_answer", "toy_text"] {
        assert!(text.contains(&format!("\"{name}\"")), "{name} in the manifest");
    }
    // The report that is printed is that of the file, but for what the file says of its origin.
    for line in outcome.stdout.lines().filter(|line| line.starts_with('|')) {
        assert!(world.read("report/report.md").contains(line), "{line}");
    }
}

#[test]
fn writes_only_the_formats_asked_for() {
    let world = world();
    world.run(&["compare", "base", "a4", "--out", "report", "--format", "csv,latex"]).expect(0);
    assert!(world.path("report/report.csv").is_file() && world.path("report/report.tex").is_file());
    assert!(!world.path("report/report.md").exists() && !world.path("report/report.json").exists());
}

#[test]
fn fail_on_undecided_ends_with_3_after_the_report() {
    let world = world();
    let plain = world.run(&CALL).expect(0);
    let outcome = world.run(&["compare", "base", "a4", "a8", "--fail-on", "undecided", "--out", "report"]).expect(3);
    assert_eq!(outcome.stdout, plain.stdout);
    assert!(world.path("report/report.json").is_file(), "the work is done");
    outcome.says(&["--fail-on undecided", "toy_choice"]);
}

#[test]
fn fail_on_worse_ends_with_3_only_if_something_is_worse() {
    let world = world();
    // An adapter that changes nothing is not worse.
    world.run(&["compare", "base", "zero", "--fail-on", "worse"]).expect(0);
    // Documents whose right answers are what the base says: any other model is worse at them.
    let rows = harness_test_support::tasks::choice_rows(120);
    world.write("tasks/toy_choice.jsonl", harness_test_support::tasks::lines(&rows));
    world.run(&["run", "base", "-t", "toy_choice", "--out", "samples"]).expect(0);
    let samples = world.read("samples/samples_toy_choice.jsonl");
    let chosen: Vec<usize> = samples.lines().map(|line| best_choice(&serde_json::from_str(line).unwrap())).collect();
    let rows: Vec<Value> = rows
        .into_iter()
        .zip(chosen)
        .map(|(mut row, choice)| {
            row["answer"] = choice.into();
            row
        })
        .collect();
    world.write("tasks/toy_choice.jsonl", harness_test_support::tasks::lines(&rows));
    let call = ["compare", "base", "other", "-t", "toy_choice", "--fail-on", "worse"];
    world.run(&call).expect(3).says(&["--fail-on worse", "other on toy_choice"]);
}

/// The continuation with the highest log-likelihood.
fn best_choice(sample: &Value) -> usize {
    let logprob = |response: &Value| response["output"]["logprob"].as_f64().expect("a log-likelihood");
    let responses = sample["responses"].as_array().expect("responses");
    (0..responses.len()).max_by(|&a, &b| logprob(&responses[a]).total_cmp(&logprob(&responses[b]))).expect("choices")
}

#[test]
fn from_store_asks_no_model() {
    let world = world();
    let call = ["compare", "base", "a4", "--from-store"];
    world.run(&call).expect(2).says(&["--from-store: 60 of 60 responses of base are not stored"]);
    let full = world.run(&["compare", "base", "a4"]).expect(0);
    let stored = world.stored();
    let again = world.run(&call).expect(0);
    assert_eq!(again.stdout, full.stdout);
    assert_eq!(world.stored(), stored);
}

#[test]
fn the_second_run_asks_nothing_and_prints_the_same() {
    let world = world();
    let first = world.run(&CALL).expect(0);
    let stored = world.stored();
    let second = world.run(&CALL).expect(0).says(&["evaluate base: all", "are stored"]);
    assert_eq!(second.stdout, first.stdout);
    assert_eq!(world.stored(), stored);
}

#[test]
fn trains_what_is_missing_once() {
    let world = world();
    let call = ["compare", "base", "r4", "-t", "toy_choice"];
    let first = world.run(&call).expect(0).says(&["train r4"]);
    let second = world.run(&call).expect(0);
    assert!(!second.stderr.contains("train r4"), "{}", second.stderr);
    assert_eq!(second.stdout, first.stdout);
    // What is there needs no permission to train.
    world.run(&["compare", "base", "r4", "-t", "toy_choice", "--no-train"]).expect(0);
}

#[test]
fn without_training_nothing_is_evaluated_before_a_missing_candidate_is_named() {
    let world = world();
    let outcome = world.run(&["compare", "base", "r4", "-t", "toy_choice", "--no-train"]).expect(2);
    assert!(!outcome.stderr.contains("evaluate"), "{}", outcome.stderr);
    assert!(!world.path(".harness").exists());
}

#[test]
fn models_by_path_need_no_experiment() {
    let world = world();
    world.write("sub/empty.toml", "");
    let call = [
        "compare",
        "models/base",
        "models/other",
        "-t",
        "toy_choice",
        "--include-path",
        "tasks",
        "--experiment",
        "sub/empty.toml",
    ];
    let outcome = world.run(&call).expect(0);
    assert!(outcome.stdout.contains("other"), "{}", outcome.stdout);
}
