//! Verdicts, audits, imports and lineage through the command line.

use std::fs;

use serde_json::{Value, json};

use super::{snapshot, snapshot_of_calls, world};

const CALL: [&str; 4] = ["compare", "base", "a4", "a8"];

#[test]
fn all_pairs_are_tested_and_ranked() {
    let world = world();
    let object = world.run(&["compare", "base", "a4", "a8", "--pairs", "all", "--json"]).expect(0).json();
    let row = &object["rows"][0];
    assert_eq!(row["contrasts"].as_array().unwrap().len(), 3);
    assert_eq!(row["ranking"].as_array().unwrap().len(), 3);
    let text = world.run(&["compare", "base", "a4", "a8", "--pairs", "all"]).expect(0).stdout;
    assert!(text.contains("Differences of all pairs") && text.contains("Ranking, best first"), "{text}");
}

#[test]
fn settings_of_a_call_go_before_those_of_the_experiment() {
    let world = world();
    world.run(&["compare", "base", "a4", "--alpha", "1.5"]).expect(2).says(&["alpha is 1.5", "between 0 and 1"]);
    world.run(&["compare", "base", "a4", "--margin", "0"]).expect(2).says(&["margin is 0"]);
    let object = world
        .run(&["compare", "base", "a4", "--alpha", "0.1", "--correction", "bh", "--test", "permutation", "--json"])
        .expect(0)
        .json();
    assert_eq!((&object["settings"]["alpha"], &object["settings"]["correction"]), (&json!(0.1), &json!("bh")));
    let test = object["rows"][0]["contrasts"][0]["test"].as_str().unwrap();
    assert!(test.starts_with("permutation"), "{test}");
}

#[test]
fn flips_are_those_of_mcnemars_table() {
    let world = world();
    let call = ["compare", "base", "other", "-t", "toy_choice"];
    let row = world.run(&[&call[..], &["--json"]].concat()).expect(0).json()["rows"][0].clone();
    let flips = world.run(&[&call[..], &["--flips", "--json"]].concat()).expect(0).json()["flips"][0].clone();
    let of = |name: &str| flips[name].as_u64().unwrap();
    assert_eq!(flips["won"], row["contrasts"][0]["flips"]["won"]);
    assert_eq!(flips["lost"], row["contrasts"][0]["flips"]["lost"]);
    assert_eq!(of("won") + of("lost") + of("both_right") + of("both_wrong"), of("n"));
    let documents = flips["documents"].as_array().unwrap();
    assert_eq!(documents.len() as u64, of("won") + of("lost"));
    let margins: Vec<f64> = documents.iter().map(|flip| flip["margin"].as_f64().unwrap().abs()).collect();
    assert!(margins.windows(2).all(|pair| pair[0] >= pair[1]), "{margins:?}");
    let text = world.run(&[&call[..], &["--flips", "--most-flips", "1"]].concat()).expect(0).stdout;
    assert!(text.contains("other against base") && text.contains("margin"), "{text}");
}

#[test]
fn a_plan_asks_no_model() {
    let world = world();
    let call = ["compare", "base", "a4", "--plan", "--tokens-per-second", "1000", "--price", "2"];
    let outcome = world.run(&call).expect(0);
    for word in ["toy_choice", "documents", "detectable", "time: at most", "cost: at most"] {
        assert!(outcome.stdout.contains(word), "{word}:\n{}", outcome.stdout);
    }
    assert!(!world.path(".harness/store").exists() && !outcome.stderr.contains("evaluate"));
    let object = world.run(&["compare", "base", "a4", "--plan", "--json", "--limit", "5"]).expect(0).json();
    assert_eq!(object["tasks"][0]["documents"], 5);
    assert_eq!(object["tests"], 3);
}

#[test]
fn documents_are_added_until_it_is_decided() {
    let world = world();
    world.write(
        "tasks/toy_choice.jsonl",
        harness_test_support::tasks::lines(&harness_test_support::tasks::choice_rows(90)),
    );
    let call = ["compare", "base", "other", "-t", "toy_choice", "--stop-when", "decided", "--json"];
    let outcome = world.run(&call).expect(0).says(&["look at 32 of 90 documents"]);
    let contrast = &outcome.json()["rows"][0]["contrasts"][0];
    assert_eq!((&contrast["test"], &contrast["method"]), (&json!("sequential"), &json!("confidence_sequence")));
}

#[test]
fn an_audit_tells_a_copy_and_an_adapter_of_zeros() {
    let world = world();
    world.run(&["audit", "base", "zero"]).expect(2).says(&["--from-store"]);
    world.run(&["compare", "base", "zero"]).expect(0);
    let text = world.run(&["audit", "base", "zero"]).expect(0).stdout;
    assert!(text.contains("The adapter of `zero` changes nothing"), "{text}");
    world.run(&["audit", "base", "zero", "--strict"]).expect(3).says(&["--strict"]);
    world.run(&["compare", "base", "a4"]).expect(0);
    let object = world.run(&["audit", "base", "a4", "-t", "toy_choice", "--json"]).expect(0).json();
    assert_eq!(object["alarms"], 0, "{object}");
}

#[test]
fn a_report_is_explained_to_its_last_byte() {
    let world = world();
    world.run(&["compare", "base", "a4", "-t", "toy_choice", "--out", "report"]).expect(0);
    let call = ["explain", "report", "toy_choice/a4"];
    let text = world.run(&call).expect(0).stdout;
    for word in ["weights", "adapter", "task toy_choice", "outputs on toy_choice", "value recomputed from the store"] {
        assert!(text.contains(word), "{word}:\n{text}");
    }
    assert!(!text.contains("CHANGED"), "{text}");
    // One byte of the adapter.
    let path = world.path("adapters/a4/adapter_model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let mut changed = bytes.clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&path, changed).unwrap();
    world.run(&call).expect(3).says(&["adapter_model.safetensors"]);
    fs::write(&path, bytes).unwrap();
    world.run(&call).expect(0);
    // One letter of the data.
    let rows = world.read("tasks/toy_choice.jsonl");
    world.write("tasks/toy_choice.jsonl", rows.replacen('a', "b", 1));
    world.run(&call).expect(3).says(&["toy_choice.jsonl"]);
    world.write("tasks/toy_choice.jsonl", rows);
    // A number of the report.
    let report = world.read("report/report.json");
    let mut object: Value = serde_json::from_str(&report).unwrap();
    object["comparison"]["rows"][0]["cells"][1]["value"] = json!(0.987);
    world.write("report/report.json", object.to_string());
    world.run(&call).expect(3).says(&["value recomputed from the store"]);
    world.run(&["explain", "report", "toy_choise/a4"]).expect(2).says(&["toy_choice:acc"]);
    world.run(&["explain", "nothing", "toy_choice/a4"]).expect(2).says(&["neither a report folder"]);
}

#[test]
fn the_value_of_a_group_is_recomputed_from_its_tasks() {
    let world = world();
    let rows = world.read("tasks/toy_choice.jsonl");
    let half = rows.lines().take(7).map(|row| format!("{row}\n")).collect::<String>();
    world.write("tasks/toy_half.jsonl", half);
    let task = world.read("tasks/toy_choice.yaml").replace("toy_choice", "toy_half");
    world.write("tasks/toy_half.yaml", task);
    let group = "group: toys\ntask: [toy_choice, toy_half]\naggregate_metric_list:\n  - metric: acc\n    weight_by_size: WEIGHT\n";
    for weight in ["true", "false"] {
        world.write("tasks/toys.yaml", group.replace("WEIGHT", weight));
        world.run(&["compare", "base", "a4", "-t", "toys,toy_answer", "--out", "report"]).expect(0);
        let text = world.run(&["explain", "report", "toys/a4"]).expect(0).stdout;
        for word in ["outputs on toy_choice", "outputs on toy_half", "value recomputed from the store"] {
            assert!(text.contains(word), "{word}:\n{text}");
        }
        assert!(!text.contains("CHANGED") && !text.contains("task toy_answer"), "{text}");
    }
    let mut object: Value = serde_json::from_str(&world.read("report/report.json")).unwrap();
    object["comparison"]["rows"][0]["cells"][1]["value"] = json!(0.987);
    world.write("report/report.json", object.to_string());
    world.run(&["explain", "report", "toys/a4"]).expect(3).says(&["value recomputed from the store"]);
}

#[test]
fn stored_comparisons_are_rendered_again() {
    let world = world();
    let first = world.run(&CALL).expect(0).stdout;
    let all = world.run(&["report", "comparison", "--json"]).expect(0).json();
    let id = all["comparisons"][0]["id"].as_str().unwrap().to_owned();
    let again = world.run(&["report", "comparison", &id]).expect(0).stdout;
    for line in first.lines().filter(|line| line.starts_with('|')) {
        assert!(again.contains(line), "{line}");
    }
    let latex = world.run(&["report", "comparison", &id, "--format", "latex"]).expect(0).stdout;
    assert!(latex.contains("\\toprule"));
    world.run(&["report", "comparison", "zzz"]).expect(2).says(&["nor a stored comparison", &id]);
}

#[test]
fn another_seed_is_another_look() {
    let world = world();
    let looks = |seed: &str| {
        let object = world.run(&["compare", "base", "a4", "--seed", seed, "--json"]).expect(0).json();
        let caveats = object["caveats"].as_array().unwrap().clone();
        caveats.into_iter().find(|caveat| caveat["kind"] == "many_looks").map(|caveat| caveat["earlier"].clone())
    };
    assert_eq!(looks("1"), None);
    assert_eq!(looks("1"), None, "the same again is no other look");
    assert_eq!(looks("2"), Some(json!(1)));
    assert_eq!(looks("3"), Some(json!(2)));
}

#[test]
fn results_of_other_tools_are_compared_and_audited() {
    let world = world();
    let rows: String = (0..160).map(|i| format!("\"question {i},\nsecond line\",{}\n", u8::from(i % 3 == 0))).collect();
    world.write("a.csv", format!("\u{feff}question,correct\n{rows}"));
    let better: String = (0..160)
        .map(|i| format!("{{\"question\": \"question {i},\\nsecond line\", \"correct\": \"{}\"}}\n", i % 2))
        .collect();
    world.write("b.jsonl", &better);
    let import = |format: &str, file: &str, name: &str| {
        let map = "id=question,acc=correct";
        world.run(&["import", format, file, "--name", name, "--task", "exam", "--map", map])
    };
    import("csv", "a.csv", "one").expect(0);
    import("jsonl", "b.jsonl", "two").expect(0);
    import("csv", "a.csv", "one").expect(2).says(&["--force"]);
    import("csv", "a.csv", "base").expect(2).says(&["the experiment has a model"]);
    let object = world.run(&["compare", "one", "two", "--json"]).expect(0).json();
    assert_eq!(
        (&object["rows"][0]["n"], &object["rows"][0]["contrasts"][0]["test"]),
        (&json!(160), &json!("mcnemar_exact"))
    );
    // A copy under another name, and one answer of 160 missing.
    import("csv", "a.csv", "copy").expect(0);
    let text = world.run(&["audit", "one", "copy"]).expect(0).stdout;
    assert!(text.contains("imported from files with the same content") && text.contains("equal scores"), "{text}");
    let short: String = better.lines().skip(1).map(|line| format!("{line}\n")).collect();
    world.write("c.jsonl", short);
    import("jsonl", "c.jsonl", "short").expect(0);
    world.run(&["compare", "one", "short"]).expect(2).says(&["lacks 1 document", "question 0", "--intersect"]);
    let text = world.run(&["audit", "one", "short"]).expect(0).stdout;
    assert!(text.contains("1 of `one` left out"), "{text}");
    // Nothing in common.
    world.write("d.csv", "question,correct\nother,1\nmore,0\n");
    import("csv", "d.csv", "apart").expect(0);
    world.run(&["compare", "one", "apart", "--intersect"]).expect(2).says(&["no document in common", "\"other\""]);
}

#[test]
fn means_of_other_tools_are_compared_unpaired() {
    let world = world();
    world.write("a.csv", "task,acc,se,n\nexam,0.50,0.02,600\n");
    world.write("b.csv", "task,acc,se,n\nexam,0.60,0.02,600\n");
    for name in ["a", "b"] {
        let file = format!("{name}.csv");
        world.run(&["import", "csv", &file, "--name", name, "--map", "task=task,mean=acc,stderr=se,n=n"]).expect(0);
    }
    let outcome = world.run(&["compare", "a", "b"]).expect(0);
    assert!(
        outcome.stdout.contains("unpaired z") && outcome.stdout.contains("not paired by document"),
        "{}",
        outcome.stdout
    );
}

#[test]
fn wrong_imports() {
    let world = world();
    world.write("x.csv", "id,score\n1,nan\n");
    world.write("y.csv", "id,score\n1,1\n1,0\n");
    world.write("z.jsonl", "{\"id\": 1, \"score\": 1}\n{broken\n");
    snapshot_of_calls(
        "wrong_imports",
        &world,
        &[
            &["import", "csv", "x.csv", "--name", "x", "--task", "t"],
            &["import", "csv", "y.csv", "--name", "y", "--task", "t"],
            &["import", "jsonl", "z.jsonl", "--name", "z", "--task", "t"],
            &["import", "csv", "x.csv", "--name", "x"],
            &["import", "csv", "x.csv", "--name", "x", "--task", "t", "--map", "id=ids,acc=score"],
            &["import", "csv", "x.csv", "--name", "a/b", "--task", "t"],
            &["import", "csv", "none.csv", "--name", "x", "--task", "t"],
        ],
    );
    assert!(!world.path(".harness/imports").exists());
}

#[test]
fn metrics_are_certified() {
    let world = world();
    let outcome = world.run(&["verify"]).expect(0);
    for metric in ["bleu", "chrf", "ter", "rouge", "mcnemar", "wilson", "tost"] {
        assert!(outcome.stdout.contains(metric), "{metric}:\n{}", outcome.stdout);
    }
}

#[test]
fn a_small_simulation_writes_its_tables_and_plots() {
    let world = world();
    let call = ["verify", "--simulate", "--runs", "20", "--documents", "30,60", "--out", "simulation"];
    let outcome = world.run(&call);
    assert!(matches!(outcome.code, Some(0 | 3)), "{}", outcome.stderr);
    assert!(world.read("simulation/simulation.md").contains("| clustered | 60 |"));
    assert!(world.path("simulation/power.svg").is_file() && world.path("simulation/simulation.json").is_file());
    world.run(&["verify", "--simulate", "--documents", "3"]).expect(2).says(&["at least 10"]);
}

#[test]
fn the_help_of_these_commands() {
    let world = world();
    for command in ["audit", "import", "explain", "verify"] {
        let outcome = world.run(&[command, "--help"]).expect(0);
        assert!(outcome.stdout.lines().all(|line| line.chars().count() <= 100), "{}", outcome.stdout);
        snapshot(&format!("help_{command}"), &outcome.stdout);
    }
}
