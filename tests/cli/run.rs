//! `harness run`.

use serde_json::Value;

use super::world;

#[test]
fn prints_the_values_of_one_model() {
    let outcome = world().run(&["run", "base"]).expect(0).says(&["60 requests"]);
    for word in ["toy_choice", "toy_answer", "toy_text", "acc_norm", "exact_match", "word_perplexity", "base"] {
        assert!(outcome.stdout.contains(word), "{word}:\n{}", outcome.stdout);
    }
}

#[test]
fn json_is_one_object() {
    let object = world().run(&["run", "base", "--json"]).expect(0).json();
    assert_eq!(object["models"], serde_json::json!(["base"]));
    assert!(object["rows"].as_array().unwrap().iter().all(|row| row["contrasts"].as_array().unwrap().is_empty()));
}

#[test]
fn writes_every_answer_and_score() {
    let world = world();
    world.run(&["run", "base", "--out", "samples"]).expect(0);
    for (task, documents, requests) in [("toy_choice", 12, 4), ("toy_answer", 8, 1), ("toy_text", 4, 1)] {
        let text = world.read(&format!("samples/samples_{task}.jsonl"));
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), documents, "{task}");
        for line in &lines {
            assert_eq!(line["task"], task);
            assert_eq!(line["requests"].as_array().unwrap().len(), requests);
            assert_eq!(line["responses"].as_array().unwrap().len(), requests);
            assert!(!line["scores"].as_array().unwrap().is_empty());
        }
    }
    let manifest: Value = serde_json::from_str(&world.read("samples/manifest.json")).unwrap();
    assert!(manifest.to_string().contains("harness_version"), "{manifest}");
}

#[test]
fn the_values_are_those_of_the_samples() {
    let world = world();
    let object = world.run(&["run", "base", "-t", "toy_choice", "--json", "--out", "samples"]).expect(0).json();
    let text = world.read("samples/samples_toy_choice.jsonl");
    let right = text
        .lines()
        .filter(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let logprob = |i: usize| line["responses"][i]["output"]["logprob"].as_f64().unwrap();
            let best = (0..4).max_by(|&a, &b| logprob(a).total_cmp(&logprob(b))).unwrap();
            line["target"].to_string().contains(&best.to_string()) || line["doc"]["row"]["answer"] == best
        })
        .count();
    let row = object["rows"].as_array().unwrap().iter().find(|row| row["key"]["metric"] == "acc").unwrap();
    let value = row["cells"][0]["value"].as_f64().unwrap();
    assert!((value - right as f64 / 12.0).abs() < 1e-12, "{value} against {right} of 12");
}

#[test]
fn limit_takes_the_first_documents() {
    let world = world();
    world.run(&["run", "base", "-t", "toy_choice", "-L", "3", "--out", "three"]).expect(0);
    world.run(&["run", "base", "-t", "toy_choice", "-L", "0.5", "--out", "half"]).expect(0);
    world.run(&["run", "base", "-t", "toy_choice", "--out", "all"]).expect(0);
    let all = world.read("all/samples_toy_choice.jsonl");
    for (folder, count) in [("three", 3), ("half", 6)] {
        let some = world.read(&format!("{folder}/samples_toy_choice.jsonl"));
        assert_eq!(some.lines().count(), count);
        assert!(all.starts_with(&some), "{folder}");
    }
}

#[test]
fn examples_from_the_evaluated_split_are_a_caveat_and_never_the_document_itself() {
    let world = world();
    let call = ["run", "base", "-t", "toy_answer", "-n", "3", "--json", "--out", "samples"];
    let object = world.run(&call).expect(0).json();
    let caveats = object["caveats"].as_array().unwrap();
    let found: Vec<&Value> = caveats.iter().filter(|caveat| caveat["kind"] == "examples_from_test").collect();
    assert_eq!(found.len(), 1, "{caveats:?}");
    assert_eq!(found[0]["tasks"], serde_json::json!([["toy_answer", 8]]));
    let text = world.read("samples/samples_toy_answer.jsonl");
    for line in text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let prompt = line["requests"][0]["prompt"].as_str().unwrap();
        let question = prompt.rsplit("Question: ").next().unwrap();
        assert_eq!((prompt.matches("Question: ").count(), prompt.matches(question).count()), (4, 1), "{prompt}");
    }
}

#[test]
fn generation_settings_reach_the_requests() {
    let world = world();
    world
        .run(&["run", "base", "-t", "toy_answer", "-L", "1", "--gen-kwargs", "max_gen_toks=3", "--out", "samples"])
        .expect(0);
    let line: Value = serde_json::from_str(&world.read("samples/samples_toy_answer.jsonl")).unwrap();
    assert_eq!(line["requests"][0]["sampling"]["max_new_tokens"], 3, "{line}");
    assert_eq!(line["responses"][0]["output"]["token_ids"].as_array().unwrap().len(), 3, "{line}");
}

#[test]
fn the_chat_template_wraps_prompts() {
    let world = world();
    let call = [
        "run",
        "base",
        "-t",
        "toy_answer",
        "-L",
        "1",
        "--apply-chat-template",
        "--system-instruction",
        "Be brief.",
        "--out",
        "samples",
    ];
    world.run(&call).expect(0);
    let line: Value = serde_json::from_str(&world.read("samples/samples_toy_answer.jsonl")).unwrap();
    let prompt = line["requests"][0]["prompt"].as_str().unwrap();
    assert!(prompt.starts_with("<system> Be brief.\n<user> Question: "), "{prompt:?}");
    assert!(prompt.ends_with("\n<assistant> "), "{prompt:?}");
}

#[test]
fn an_adapter_that_was_trained_on_other_texts_is_told() {
    let world = world();
    let chat = ["run", "r4", "-t", "toy_answer", "-L", "1", "--apply-chat-template"];
    let outcome = world.run(&chat).expect(0).says(&["warning: r4 was trained on plain texts"]);
    assert!(outcome.stdout.contains("`r4` was trained on plain texts (template instruction)"), "{}", outcome.stdout);
    let plain = world.run(&chat[..6]).expect(0);
    assert!(!plain.stdout.contains("was trained") && !plain.stderr.contains("warning"), "{plain:?}");
}

#[test]
fn an_adapter_of_conversations_is_asked_as_it_was_trained() {
    let world = world();
    let row = |i: usize| {
        let message = |role: &str, content: String| serde_json::json!({"role": role, "content": content});
        let answer = message("assistant", i.to_string());
        serde_json::json!({"messages": [message("user", format!("Say {i}.")), answer]})
    };
    world.write("data/instructions.jsonl", harness_test_support::tasks::lines(&(0..40).map(row).collect::<Vec<_>>()));
    world.replace("recipes/r4.toml", "template = \"instruction\"", "template = \"model\"");
    let folder = world.run(&["train", "r4"]).expect(0).stdout.trim().to_owned();
    let text: Value =
        serde_json::from_str(world.read(&format!("{folder}/data/train.jsonl")).lines().next().unwrap()).unwrap();
    assert!(text["text"].as_str().unwrap().starts_with("<user> Say "), "{text}");
    let call = ["run", "r4", "-t", "toy_answer", "-L", "1", "--apply-chat-template"];
    let same = world.run(&call).expect(0);
    assert!(!same.stdout.contains("was trained") && !same.stderr.contains("warning"), "{same:?}");
    world.run(&call[..6]).expect(0).says(&["r4 was trained on conversations (template model), prompts here do not go"]);

    // The base gets another template. The adapter keeps the one from its training; a caveat names prompts without it.
    let experiment = world.read("harness.toml").replace("adapter = \"adapters/a4\"", &format!("adapter = {folder:?}"));
    world.write("harness.toml", experiment);
    let config = world.read("models/base/tokenizer_config.json").replace("<{{", "<<{{");
    world.write("models/base/tokenizer_config.json", config);
    let call = ["run", "a4", "-t", "toy_answer", "-L", "1", "--apply-chat-template", "--tokenizer", "base"];
    let own = world.run(&call[..7]).expect(0);
    assert!(!own.stderr.contains("was trained on"), "{own:?}");
    world.run(&call).expect(0).says(&["a4 was trained on conversations in another form (template model)"]);
}

#[test]
fn one_run_serves_every_command() {
    let world = world();
    world.run(&["run", "base"]).expect(0);
    world.run(&["run", "a4"]).expect(0);
    world.run(&["compare", "base", "a4", "--from-store"]).expect(0);
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    use std::process::Stdio;
    let world = world();
    let mut command = world.command(&["tasks", "list"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn data_sets_are_found_by_flag_environment_and_experiment() {
    let world = world();
    world.write(
        "tasks/toy_set.yaml",
        "task: toy_set\ndataset_path: someone/toy_set\ntest_split: test\noutput_type: loglikelihood_rolling\n\
         doc_to_text: \"\"\ndoc_to_target: \"{{text}}\"\nmetric_list:\n  - metric: byte_perplexity\n",
    );
    let rows = harness_test_support::tasks::lines(&harness_test_support::tasks::text_rows(2));
    world.write("sets/toy_set/test.jsonl", rows);
    let call = ["run", "base", "-t", "toy_set"];
    world.run(&call).expect(2).says(&["toy_set", "--data-dir", "HARNESS_DATA_DIR"]);
    let by_flag = world.run(&["run", "base", "-t", "toy_set", "--data-dir", "sets"]).expect(0).stdout;
    let output = world.command(&call).env("HARNESS_DATA_DIR", world.path("sets")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), by_flag);
    world.write("harness.toml", format!("data_dirs = [\"sets\"]\n{}", world.read("harness.toml")));
    assert_eq!(world.run(&call).expect(0).stdout, by_flag);
}

#[test]
fn lm_evals_files_are_written() {
    let world = world();
    let call = ["run", "base", "--json", "--lm-eval-output", "out", "--bootstrap-iters", "200"];
    let object = world.run(&call).expect(0).json();
    let folder = std::fs::read_dir(world.path("out")).unwrap().next().unwrap().unwrap().path();
    assert!(folder.to_string_lossy().ends_with("models__base"), "{}", folder.display());
    let runs = harness_tasks::lm_eval_files::read_runs(&folder).unwrap();
    assert_eq!((runs.len(), runs[0].tasks.len()), (1, 3));
    for task in &runs[0].tasks {
        assert!(!task.samples.is_empty(), "{}", task.name);
        for (key, metric) in &task.results {
            let row = object["rows"].as_array().unwrap().iter().find(|row| {
                row["task"] == task.name && row["key"]["metric"] == key.metric && row["key"]["filter"] == key.filter
            });
            let value = row.unwrap()["cells"][0]["value"].as_f64().unwrap();
            assert!((value - metric.value).abs() <= 1e-12 * value.abs(), "{} {key}", task.name);
        }
    }
}

#[test]
fn a_dry_run_asks_nothing() {
    let world = world();
    let outcome = world.run(&["run", "base", "--dry-run"]).expect(0);
    assert!(outcome.stdout.contains("3 tasks, 24 documents, 60 requests"), "{}", outcome.stdout);
    assert!(world.segments().is_empty());
    let plan = world.run(&["run", "base", "--dry-run", "--json"]).expect(0).json()["plan"].clone();
    assert!(plan["computed_tokens"].as_u64() <= plan["requested_tokens"].as_u64() && plan["requests"] == 60);
}

#[test]
fn a_task_that_needs_python_is_left_out() {
    let world = world();
    let text = harness_test_support::tasks::CHOICE.replace("task: toy_choice", "task: needs");
    world.write("tasks/needs.yaml", format!("{text}process_docs: !function utils.clean\n"));
    let outcome = world.run(&["run", "base", "-t", "toy_choice,needs"]).expect(0);
    assert!(
        outcome.stderr.contains("needs is left out") && outcome.stderr.contains("utils.clean"),
        "{}",
        outcome.stderr
    );
    assert!(outcome.stdout.contains("toy_choice"));
    world.run(&["run", "base", "-t", "needs"]).expect(2).says(&["process_docs needs the Python function utils.clean"]);
}

/// What another tool wrote is compared document by document, and other prompts are noticed.
#[test]
fn what_lm_eval_wrote_is_compared_with_a_run_of_the_same_documents() {
    let world = world();
    let import = |folder: &str, name: &str| world.run(&["import", "lm-eval", folder, "--name", name]).expect(0);
    world.run(&["run", "base", "--lm-eval-output", "same", "--bootstrap-iters", "100"]).expect(0);
    world.run(&["run", "base", "--lm-eval-output", "told", "--system-instruction", "Hm. "]).expect(0);
    import("same", "same");
    import("told", "told");
    let caveats = |other: &str| -> Vec<Value> {
        let object = world.run(&["compare", "base", other, "--json", "--all-rows"]).expect(0).json();
        for row in object["rows"].as_array().unwrap() {
            assert!(row["n"].as_u64().unwrap() >= 4 && !row["contrasts"].as_array().unwrap().is_empty(), "{row}");
            let values = |cell: usize| row["cells"][cell]["value"].as_f64().unwrap();
            assert!(other != "same" || (values(0) - values(1)).abs() <= 1e-9 * values(0).abs(), "{row}");
        }
        let differ = |caveat: &&Value| caveat["kind"] == "different_conditions";
        object["caveats"].as_array().unwrap().iter().filter(differ).cloned().collect()
    };
    assert_eq!(caveats("same"), Vec::<Value>::new());
    let told = caveats("told");
    let conditions = told[0]["conditions"].as_array().unwrap();
    let tasks: Vec<&Value> = conditions.iter().filter(|c| c["what"] == "prompts").map(|c| &c["task"]).collect();
    assert_eq!(tasks, ["toy_answer", "toy_choice"], "a text that is scored whole has no instruction");
}
