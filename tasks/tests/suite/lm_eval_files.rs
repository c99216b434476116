//! lm-eval's files: written as it writes them, read whatever version wrote them.

use std::path::Path;

use harness_core::MetricKey;
use harness_tasks::{
    BuildOptions, Limit, MemoryData, Registry,
    lm_eval_files::{RunDescription, read_results, read_runs, read_samples, sanitize_model_name, write_run},
};
use harness_test_support::{close, reference_dir, vectors_dir};
use serde_json::{Value, json};

use crate::{
    common::{rows, task},
    end_to_end::{Evaluated, toy},
};

const DATE: &str = "2026-11-22T01-49-42.758627";

fn description(limit: Option<usize>) -> RunDescription {
    RunDescription {
        model: "fake/model".into(),
        options: BuildOptions { limit: limit.map(Limit::Count), ..BuildOptions::default() },
        bootstrap_iters: 1000,
        date: DATE.into(),
        ..RunDescription::default()
    }
}

fn lines(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Equal up to 1e-12 in numbers.
fn same(found: &Value, expected: &Value, at: &str) {
    match (found, expected) {
        (Value::Number(a), Value::Number(b)) => {
            assert!(close(a.as_f64().unwrap(), b.as_f64().unwrap(), 1e-12), "{at}: {a} instead of {b}");
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{at}");
            a.iter().zip(b).enumerate().for_each(|(i, (a, b))| same(a, b, &format!("{at}[{i}]")));
        }
        (Value::Object(a), Value::Object(b)) => {
            let keys = |map: &serde_json::Map<String, Value>| map.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(a), keys(b), "{at}");
            a.iter().for_each(|(key, value)| same(value, &b[key], &format!("{at}.{key}")));
        }
        _ => assert_eq!(found, expected, "{at}"),
    }
}

#[test]
fn written_files_equal_lm_evals() {
    let Some(folder) = vectors_dir().map(|folder| folder.join("e2e")).filter(|folder| folder.is_dir()) else {
        return;
    };
    let inputs: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("inputs.json")).unwrap()).unwrap();
    for (run, limit) in [("full", None), ("limit10", Some(10))] {
        let mut registry = Registry::default();
        for (name, group) in inputs["groups"].as_object().unwrap() {
            let mut group = group.clone();
            group["group"] = json!(name);
            registry.add_definition(Path::new(&format!("{name}.yaml")), &group.to_string()).unwrap();
        }
        let names: Vec<&String> = inputs["task_configs"].as_object().unwrap().keys().collect();
        for name in &names {
            let config = inputs["task_configs"][name.as_str()].to_string();
            registry.add_definition(Path::new(&format!("{name}.yaml")), &config).unwrap();
        }
        let selection = registry.select(&["toy_group"]).unwrap();
        let evaluated: Vec<Evaluated> = names.iter().map(|name| toy(name, &inputs, limit)).collect();
        let outcomes: Vec<_> = evaluated.iter().map(Evaluated::outcome).collect();
        let out = tempfile::tempdir().unwrap();
        let paths = write_run(out.path(), &description(limit), &outcomes, &selection.groups).unwrap();
        assert!(paths[0].ends_with(format!("fake__model/results_{DATE}.json")));

        let theirs = folder.join(run).join("fake__model");
        let expected = read_runs(&theirs).unwrap().remove(0);
        let text = std::fs::read_to_string(expected.results.as_ref().unwrap()).unwrap();
        let (expected_json, found): (Value, Value) = (
            serde_json::from_str(&text).unwrap(),
            serde_json::from_str(&std::fs::read_to_string(&paths[0]).unwrap()).unwrap(),
        );
        for key in ["groups", "group_subtasks", "n-samples", "task_hashes"] {
            for (name, value) in expected_json[key].as_object().into_iter().flatten() {
                if let (Value::Object(found), Value::Object(_)) = (&found[key][name], value) {
                    same(&Value::Object(found.clone()), value, &format!("{run} {key} {name}"));
                } else {
                    assert_eq!(&found[key][name], value, "{run} {key} {name}");
                }
            }
        }
        for (name, value) in expected_json["results"].as_object().unwrap() {
            for (metric, value) in value.as_object().unwrap() {
                same(&found["results"][name][metric], value, &format!("{run} {name} {metric}"));
            }
        }
        for task in &expected.tasks {
            let mine = paths.iter().find(|p| p.to_string_lossy().contains(&format!("samples_{}_", task.name))).unwrap();
            let theirs = lines(task.samples_file.as_ref().unwrap());
            let mine = lines(mine);
            assert_eq!(mine.len(), theirs.len());
            for (mine, theirs) in mine.iter().zip(&theirs) {
                same(mine, theirs, &format!("{run} {} document {}", task.name, theirs["doc_id"]));
            }
        }
    }
}

#[test]
fn every_reference_run_reads_back_to_its_values() {
    let Some(folder) = reference_dir().map(|folder| folder.join("lm-eval/open")) else { return };
    let runs = read_runs(&folder).unwrap();
    assert_eq!(runs.len(), 9);
    let (mut values, mut documents) = (0, 0);
    for run in &runs {
        assert_eq!(run.version.as_deref(), Some("0.4.13.dev0"));
        for task in &run.tasks {
            assert!(!task.samples.is_empty(), "{} has its samples", task.name);
            documents += task.documents().len();
            for scores in task.scores() {
                let value = scores.statistic.value(&scores.statistic.sum(scores.stats.iter().map(|(_, s)| s)));
                let expected = task.results[&scores.key].value;
                assert!(close(value, expected, 1e-12), "{} {}: {value} instead of {expected}", task.name, scores.key);
                values += 1;
            }
        }
    }
    assert_eq!((values, documents), (74, 200 + 200 + 150 + 20 + 40 + 40 + 15 + 171 + 3));
    let mmlu = runs.iter().find(|run| !run.groups.is_empty()).unwrap();
    assert_eq!((mmlu.tasks.len(), mmlu.groups.len()), (57, 5));
    let group = &mmlu.groups[0];
    assert_eq!((group.name.as_str(), group.n, mmlu.leaves("mmlu").len()), ("mmlu", Some(171), 57));
    assert_eq!(mmlu.above("mmlu_anatomy").map(|group| group.name.as_str()), Some("mmlu_stem"));
    let acc = group.results[&MetricKey::new("acc", "none")];
    assert!((acc.value - 42.0 / 171.0).abs() < 1e-15 && acc.stderr.is_some());
}

/// A small run of this program's own, written and read back.
#[test]
fn what_is_written_reads_back() {
    let config = json!({"task": "t", "output_type": "multiple_choice", "test_split": "test", "doc_to_text": "q",
        "doc_to_choice": "c", "doc_to_target": "g", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"},
        {"metric": "f1"}, {"metric": "mcc"}, {"metric": "brier_score"}], "metadata": {"version": 2}});
    let docs: Vec<Value> = (0..12)
        .map(|i| json!({"q": format!("Is {i} odd?"), "c": ["no", "yes, it is"], "g": i % 2, "n": 1.0, "é": null}))
        .collect();
    let data = MemoryData::default().with("test", rows(&Value::Array(docs)));
    let evaluated = Evaluated::new(task(&config, data), &BuildOptions::default());
    let out = tempfile::tempdir().unwrap();
    let paths = write_run(out.path(), &description(None), &[evaluated.outcome()], &[]).unwrap();
    let run = read_results(&paths[0]).unwrap();
    assert_eq!((run.model.as_str(), run.date.as_deref()), ("fake/model", Some(DATE)));
    let saved = &run.tasks[0];
    assert_eq!((saved.version.as_str(), saved.num_fewshot, saved.samples.len()), ("2", Some(0), 12));
    for (id, document) in saved.documents() {
        assert_eq!(document, evaluated.prepared.documents[id].doc, "a document has the id it has here");
    }
    for scores in saved.scores() {
        let value = scores.statistic.value(&scores.statistic.sum(scores.stats.iter().map(|(_, s)| s)));
        assert!(close(value, saved.results[&scores.key].value, 1e-12), "{}", scores.key);
        for ((_, stats), scored) in scores.stats.iter().zip(&evaluated.scored) {
            let own = scored.scores.iter().find(|score| score.key == scores.key).unwrap();
            assert!(stats.iter().zip(&own.stats).all(|(a, b)| close(*a, *b, 1e-12)), "{}", scores.key);
        }
    }
    let stderr = |metric: &str| saved.results[&MetricKey::new(metric, "none")].stderr;
    assert!(["acc", "f1", "mcc"].iter().all(|metric| stderr(metric).is_some()) && stderr("brier_score").is_none());

    let named = write_run(&out.path().join("mine.json"), &description(None), &[evaluated.outcome()], &[]).unwrap();
    assert!(named[0].ends_with(format!("mine_{DATE}.json")) && named[1].parent() == Some(out.path()));
}

#[test]
fn earlier_versions_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    // 0.3: metrics without filters, no samples.
    let old = json!({"results": {"piqa": {"acc": 0.5, "acc_stderr": 0.1, "acc_norm": 0.25}}, "versions": {"piqa": 0},
        "config": {"model": "hf-causal", "model_args": "pretrained=gpt2,dtype=float", "num_fewshot": 0}});
    write("a/results.json", old.to_string());
    // 0.4.0: filters, one array of samples under `.jsonl`, arguments as lists, NaN.
    let middle = json!({"results": {"piqa": {"acc,none": 1.0, "acc_stderr,none": "N/A", "alias": " - piqa"}},
        "configs": {"piqa": {"validation_split": "validation"}}, "config": {"model_args": "pretrained=gpt2"}});
    write("b/results.json", middle.to_string().replace("1.0", "NaN"));
    let sample = json!([{"doc_id": 0, "doc": {"goal": "g"}, "target": 1, "arguments": [["c", " d"], ["c", " e"]],
        "resps": [[[-1.5, false]], [[-2.5, true]]], "filtered_resps": [[-1.5, false], [-2.5, true]], "acc": 1.0}]);
    write("b/pretrained__gpt2_piqa.jsonl", serde_json::to_string_pretty(&sample).unwrap());
    // Samples alone.
    let line = json!({"doc_id": "3", "doc": {"q": 1}, "target": "x", "filter": "strict", "metrics": ["exact_match"],
        "arguments": {"gen_args_0": {"arg_0": "p", "arg_1": {"until": []}}}, "resps": [["x"]], "filtered_resps": ["x"],
        "exact_match": true, "doc_hash": "h"});
    write(&format!("c/samples_math_algebra_{DATE}.jsonl"), format!("{line}\n\n"));

    let runs = read_runs(folder.path()).unwrap();
    let names: Vec<(&str, usize)> = runs.iter().map(|run| (run.model.as_str(), run.tasks.len())).collect();
    assert_eq!(names, [("gpt2", 1), ("gpt2", 1), ("c", 1)]);
    let values = &runs[0].tasks[0].results;
    assert_eq!(values[&MetricKey::new("acc", "none")].stderr, Some(0.1));
    assert_eq!(values[&MetricKey::new("acc_norm", "none")].value, 0.25);
    let piqa = &runs[1].tasks[0];
    assert!(piqa.results[&MetricKey::new("acc", "none")].value.is_nan() && piqa.alias == "piqa");
    assert_eq!((piqa.samples[0].arguments.len(), piqa.split()), (2, Some("validation")));
    assert_eq!(piqa.scores()[0].stats, [(0, vec![1.0, 1.0])]);
    let math = &runs[2].tasks[0];
    assert_eq!((math.name.as_str(), math.samples[0].doc_id), ("math_algebra", 3));
    assert_eq!(math.scores()[0].stats, [(3, vec![1.0, 1.0])]);
    assert_eq!(math.scores()[0].key, MetricKey::new("exact_match", "strict"));
}

#[test]
fn bad_files_are_named_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let message = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let error = if name.ends_with("jsonl") { read_samples(&path).err() } else { read_results(&path).err() };
        error.map(|e| e.to_string()).unwrap_or_default()
    };
    for (name, text, expected) in [
        ("results.json", "{\n  \"results\": [}", "line 2, column 15: not valid JSON"),
        ("results.json", "{}", "no object `results`"),
        ("s.jsonl", "{\"doc_id\": 0, \"doc\": {}}\n{\"doc\": {}}\n", "line 2: found no number `doc_id`"),
        ("s.jsonl", "{\"doc_id\": 0}\n", "line 1: found no object `doc`"),
    ] {
        let found = message(name, text);
        assert!(found.contains(name) && found.contains(expected), "{found}");
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(read_runs(empty.path()).unwrap_err().to_string().contains("no results_*.json"));
    assert_eq!(sanitize_model_name("a/b:c**d"), "a__b__c__d");
}
