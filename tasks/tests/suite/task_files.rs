//! Folders of lm-eval's definition files: includes, groups, tags, Python functions, and what is wrong with some.

use std::{fmt::Write as _, path::Path, sync::Arc};

use harness_tasks::{BuildOptions, MemoryData, Registry, Selection, Task, TaskError};
use serde_json::{Value, json};

use crate::common::{arguments, generation, likelihood, rows};

const BASE: &str = "test_split: test\ndoc_to_text: \"{{q}}\"\ndoc_to_target: a\n";

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

fn registry(files: &[(&str, &str)]) -> Registry {
    let folder = folder(files);
    let mut registry = Registry::default();
    registry.add_folder(folder.path()).unwrap();
    registry
}

/// The prompt of the first document of a selected task.
fn prompt(registry: &Registry, selection: &Selection, task: &str) -> String {
    let task = selection.tasks.iter().find(|t| t.id == task).unwrap();
    let data = MemoryData::default().with("test", rows(&json!([{"q": "Q", "a": "A", "b": "B"}])));
    let task = registry.load(task, Arc::new(data)).unwrap();
    arguments(&task.build(&BuildOptions::default(), None).unwrap().documents[0].requests[0])[0].clone()
}

#[test]
fn groups_set_what_their_tasks_use() {
    let base = format!("{BASE}task: one\ntag: [family, kin]\n");
    let files: [(&str, &str); 6] = [
        ("one.yaml", &base),
        ("two.yaml", "include: one.yaml\ntask: two\ntag: family\n"),
        ("old.yaml", &format!("{BASE}task: old\ngroup: ancient\n")),
        (
            "g.yaml",
            "group: g\ndescription: \"G \"\ntask:\n  - family\n  - {task: own, test_split: test, doc_to_text: b, doc_to_target: a}\n",
        ),
        (
            "h.yaml",
            "group: h\ntask:\n  - group: g\n    description: \"H \"\n  - group: inner\n    task: [old]\n    fewshot_delimiter: x\nmetadata: {version: 3}\n",
        ),
        ("s.yaml", "group: s\ntask: one\naggregate_metric_list: {metric: acc, filter_list: none}\n"),
    ];
    let registry = registry(&files);
    assert!(registry.broken().is_empty(), "{:?}", registry.broken());
    assert_eq!(registry.tasks(), ["old", "one", "two"]);
    let g = registry.select(&["g"]).unwrap();
    assert_eq!(g.groups[0].leaves(), ["one", "two", "own"]);
    assert_eq!(prompt(&registry, &g, "two"), "G Q");
    assert_eq!(prompt(&registry, &g, "own"), "G B");
    let h = registry.select(&["h"]).unwrap();
    assert_eq!(h.groups[0].leaves(), ["one", "two", "own", "old"]);
    assert_eq!((h.groups[0].version.as_str(), prompt(&registry, &h, "one")), ("3", "H Q".to_owned()));
    let s = registry.select(&["s"]).unwrap();
    assert_eq!(
        (s.groups[0].leaves(), s.groups[0].aggregates[0].filters.as_slice()),
        (vec!["one"], ["none".to_owned()].as_slice())
    );
    assert_eq!(registry.select(&["ancient"]).unwrap().tasks[0].id, "old");
    assert_eq!(prompt(&registry, &registry.select(&["kin"]).unwrap(), "one"), "Q");
}

#[test]
fn a_task_that_is_left_out_leaves_its_groups() {
    let base = format!("{BASE}task: one\n");
    let registry = registry(&[
        ("one.yaml", &base),
        ("two.yaml", "include: one.yaml\ntask: two\n"),
        ("g.yaml", "group: g\ntask: [{group: h, task: [one]}, two]\n"),
    ]);
    let mut selection = registry.select(&["g"]).unwrap();
    selection.remove(&["one".to_owned()]);
    assert_eq!(selection.groups[0].leaves(), ["two"]);
    assert_eq!((selection.tasks.len(), selection.groups[0].members.len()), (1, 1));
    selection.remove(&["two".to_owned()]);
    assert!(selection.groups.is_empty());
}

#[test]
fn includes_lists_and_duplicates_are_read_as_lm_eval_reads_them() {
    let base = format!("{BASE}task_list:\n  - task: listed\n  - {{task: second, description: D}}\n");
    let files: [(&str, &str); 7] = [
        ("_base", BASE),
        ("base.yaml", &base),
        ("heir.yaml", "include: [base.yaml, sub/more.yaml]\ntask: heir\n"),
        ("sub/more.yaml", "include: ../_base\ndescription: M\n"),
        ("a/x.yaml", "include: ../_base\ntask: twice\n"),
        ("b/x.yaml", "include: ../_base\ntask: twice\n"),
        ("keys.yaml", "include: _base\ntask: keys\nrepeats: 1\nrepeats: 2\n"),
    ];
    let registry = registry(&files);
    assert_eq!(registry.tasks(), ["heir", "keys", "listed", "second", "twice"]);
    let broken = registry.broken();
    assert!(matches!(&*broken[0], TaskError::DuplicateName { name, .. } if name == "twice"), "{broken:?}");
    assert!(broken[0].to_string().contains("b/x.yaml:1:1") && broken.len() == 1);
    assert!(
        registry.notes()[0].contains("keys.yaml:4:1: the key \"repeats\" is given twice"),
        "{:?}",
        registry.notes()
    );
    let heir = registry.select(&["heir"]).unwrap();
    assert_eq!(prompt(&registry, &heir, "heir"), "MQ");
    let report = registry.check();
    assert_eq!((report.files, report.parsed, report.tasks, report.runnable), (6, 6, 5, 5));
    assert_eq!((report.problems.len(), report.notes.len()), (1, 1));
}

#[test]
fn a_folder_replaces_what_is_built_in() {
    let folder = folder(&[("arc_easy.yaml", &format!("{BASE}task: arc_easy\n"))]);
    let mut registry = Registry::builtin().unwrap();
    registry.add_folder(folder.path()).unwrap();
    assert!(registry.broken().is_empty());
    assert!(registry.notes()[0].contains("arc_easy replaces the definition at built-in:/arc/arc_easy.yaml"));
    assert!(registry.info("arc_easy").unwrap().tags.is_empty());
    assert!(!registry.tags()["ai2_arc"].contains("arc_easy"));
}

#[test]
fn files_that_cannot_be_read_hinder_no_other() {
    let folder = folder(&[
        ("good.yaml", &format!("{BASE}task: good\n")),
        ("cycle_a.yaml", "include: cycle_b.yaml\ntask: a\n"),
        ("cycle_b.yaml", "include: cycle_a.yaml\n"),
        ("missing.yaml", "include: nowhere.yaml\ntask: m\n"),
        ("list.yaml", "- 1\n- 2\n"),
        ("tag.yaml", &format!("{BASE}task: tagged\ndescription: !other x\n")),
        ("group.yaml", "group: g\ntask: [nothing]\n"),
        ("empty_group.yaml", "group: e\n"),
        ("template.yaml", "task: t\ntest_split: test\ndoc_to_text: \"{{ q\"\ndoc_to_target: a\n"),
    ]);
    std::fs::write(folder.path().join("bytes.yaml"), b"task: x\ndescription: \"caf\xe9\"\n").unwrap();
    let mut registry = Registry::default();
    registry.add_folder(folder.path()).unwrap();
    let report = registry.check();
    assert_eq!((report.files, report.parsed, report.tasks, report.runnable), (10, 5, 3, 1));
    assert_eq!(report.template_errors.len(), 1);
    for expected in [
        "bytes.yaml:2:18: the byte 0xE9 is not UTF-8",
        "the includes form a cycle",
        "nowhere.yaml",
        "list.yaml:1:1: a definition must be a mapping, found a list",
        "tag.yaml:5:21: unknown tag !other",
    ] {
        assert!(report.problems.iter().any(|problem| problem.contains(expected)), "{expected}\n{:#?}", report.problems);
    }
    let select = |name: &str| registry.select(&[name]).unwrap_err().to_string();
    assert!(select("g").contains("group.yaml:2:8: no task, group or tag is named \"nothing\""), "{}", select("g"));
    assert!(select("e").contains("the group e has no tasks"));
}

#[test]
fn python_is_named_by_key_and_function() {
    let registry = registry(&[
        ("mine/a.yaml", &format!("{BASE}task: a\nprocess_docs: !function utils.clean\n")),
        (
            "mine/b.yaml",
            &format!(
                "{BASE}task: b\nmetric_list:\n  - metric: !function utils.score\n    aggregation: !function utils.mean\n"
            ),
        ),
        ("mine/c.yaml", "task: c\nclass: !function task.C\n"),
        (
            "hellaswag/h.yaml",
            "task: h\nvalidation_split: v\noutput_type: multiple_choice\nprocess_docs: !function utils.process_docs\ndoc_to_text: \"{{query}}\"\ndoc_to_target: \"{{label}}\"\ndoc_to_choice: choices\n",
        ),
    ]);
    let report = registry.check();
    assert_eq!((report.tasks, report.runnable, report.native, report.needing_python), (4, 1, 1, 3));
    let needs: Vec<(&str, &str)> = report.needs_python.iter().map(|n| (n.key.as_str(), n.function.as_str())).collect();
    assert_eq!(
        needs,
        [
            ("class", "task.C"),
            ("process_docs", "utils.clean"),
            ("aggregation", "utils.mean"),
            ("metric", "utils.score")
        ]
    );
    let error = registry.info("a").unwrap_err().to_string();
    assert!(error.contains("process_docs needs the Python function utils.clean"), "{error}");
}

/// The families whose Python functions are provided, with lm-eval's own names.
#[test]
fn classic_families_run() {
    let registry = Registry::builtin().unwrap();
    let load = |name: &str, split: &str, doc: Value| {
        let data = MemoryData::default().with(split, rows(&json!([doc])));
        registry.load_by_name(name, Arc::new(data)).unwrap()
    };
    let texts = |name: &str, split: &str, doc: Value| -> Vec<Vec<String>> {
        let task = load(name, split, doc);
        task.build(&BuildOptions { num_fewshot: Some(0), ..BuildOptions::default() }, None).unwrap().documents[0]
            .requests
            .iter()
            .map(arguments)
            .collect()
    };
    let hellaswag = json!({"activity_label": "Dog", "ctx_a": "It runs.", "ctx_b": "the dog", "endings": ["sits.", "flies [sub] off."], "label": "0"});
    assert_eq!(
        texts("hellaswag", "validation", hellaswag),
        [["Dog: It runs. The dog", " sits."], ["Dog: It runs. The dog", " flies off."]]
    );
    let winogrande = json!({"sentence": "A met B as _ was late.", "option1": "A", "option2": "B", "answer": "2"});
    assert_eq!(
        texts("winogrande", "validation", winogrande),
        [["A met B as A", " was late."], ["A met B as B", " was late."]]
    );
    let logiqa = json!({"context": "C", "question": "Q", "options": ["w", "x", "y", "z"], "label": "b\n"});
    assert_eq!(
        texts("logiqa", "test", logiqa)[1],
        ["Passage: C\nQuestion: Q\nChoices:\nA. w\nB. x\nC. y\nD. z\nAnswer:", " x"]
    );
    let mathqa = json!({"Problem": "P", "options": "a ) 1 , b ) 2 , c ) 3 , d ) 4 , e ) 5", "correct": "c"});
    assert_eq!(texts("mathqa", "test", mathqa)[4], ["Question: P\nAnswer:", " 5"]);
    let race =
        json!({"article": "A.", "problems": "[{'question': 'Q?', 'answer': 'D', 'options': ['1', '2', '3', '4']}]"});
    assert_eq!(texts("race", "test", race)[3], ["Article: A.\n\nQ?", " 4"]);
    let truth = json!({"question": "Q?", "mc1_targets": {"choices": ["x", "y"], "labels": [1, 0]},
        "mc2_targets": {"choices": ["x", "y", "z"], "labels": [1, 0, 1]}});
    assert!(texts("truthfulqa_mc1", "validation", truth.clone())[0][0].ends_with("Spain.\n\nQ: Q?\nA:"));
    let mc2 = load("truthfulqa_mc2", "validation", truth);
    let item = mc2.build(&BuildOptions::default(), None).unwrap().documents.remove(0);
    let responses = [likelihood(0.25f64.ln(), false), likelihood(0.5f64.ln(), false), likelihood(0.25f64.ln(), true)];
    assert!((mc2.score(&item, &responses).unwrap().scores[0].stats[0] - 0.5).abs() < 1e-12);
    let cot = load("gsm8k_cot", "test", json!({"question": "How many?", "answer": "So.\n#### 7"}));
    let item = cot.build(&BuildOptions::default(), None).unwrap().documents.remove(0);
    let prompt = &arguments(&item.requests[0])[0];
    assert!(
        prompt.starts_with("Q: There are 15 trees") && prompt.ends_with("The answer is 8.\n\nQ: How many?\nA:"),
        "{prompt}"
    );
    assert_eq!(prompt.matches("Q: ").count(), 9);
    let scored = cot.score(&item, &[generation("2 + 5 = 7. The answer is 7.")]).unwrap();
    assert!(scored.scores.iter().all(|score| score.stats == [1.0, 1.0]));
}

/// As many files as lm-eval's own tree has, of the kinds it has.
#[test]
fn thirteen_thousand_files_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let mut names = String::new();
    for family in 0..130 {
        let dir = folder.path().join(format!("family_{family}"));
        std::fs::create_dir_all(&dir).unwrap();
        let template = format!(
            "{BASE}tag: family_{family}_tasks\nmetric_list:\n  - metric: exact_match\n    aggregation: mean\nmetadata:\n  version: 1.0\n"
        );
        std::fs::write(dir.join("_default_template_yaml"), template).unwrap();
        for task in 0..99 {
            let mut text =
                format!("include: _default_template_yaml\ntask: family_{family}_{task}\ndataset_name: name_{task}\n");
            match task % 9 {
                0..=4 => text.push_str("process_docs: !function utils.process_docs\n"),
                5 => text.push_str("description: \"Über {{q}}: \\u4e2d\\n\\n\"\n"),
                6 => text.push_str("fewshot_config: {sampler: first_n, split: test}\nnum_fewshot: 2\n"),
                7 => text.push_str("task_alias: 'it''s'\ngeneration_kwargs:\n  until: [\"\\n\"]\n"),
                _ => text.push_str("doc_to_text: |\n  Question: {{q}}\n  Answer:\n"),
            }
            std::fs::write(dir.join(format!("task_{task}.yaml")), text).unwrap();
        }
        std::fs::write(dir.join("group.yaml"), format!("group: family_{family}\ntask: [family_{family}_tasks]\naggregate_metric_list:\n  - metric: exact_match\n")).unwrap();
        let _ = writeln!(names, "  - family_{family}");
    }
    std::fs::write(folder.path().join("all.yaml"), format!("group: all\ntask:\n{names}")).unwrap();
    let mut registry = Registry::default();
    registry.add_folder(folder.path()).unwrap();
    let report = registry.check();
    assert_eq!((report.files, report.parsed, report.groups), (13_001, 13_001, 131));
    assert_eq!((report.tasks, report.needing_python, report.runnable), (12_870, 130 * 55, 130 * 44));
    assert!(report.problems.is_empty() && report.template_errors.is_empty());
    assert_eq!(report.needs_python.len(), 1);
    let selection = registry.select(&["all"]).unwrap();
    assert_eq!((selection.tasks.len(), selection.groups[0].leaves().len()), (12_870, 12_870));
}

#[test]
fn documents_of_any_size_and_endless_templates_end() {
    let mut registry = Registry::default();
    let path = Path::new("big.yaml");
    registry.add_definition(path, &format!("{BASE}task: big\n")).unwrap();
    let long = "word ".repeat(2 << 20);
    let data = MemoryData::default().with("test", rows(&json!([{"q": long, "a": "x"}])));
    let task = registry.load_by_name("big", Arc::new(data)).unwrap();
    let prepared = task.build(&BuildOptions::default(), None).unwrap();
    assert_eq!(arguments(&prepared.documents[0].requests[0])[0].len(), long.len());
    let endless = "task: endless\ntest_split: test\ndoc_to_text: \"{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}\"\ndoc_to_target: a\n";
    registry.add_definition(Path::new("endless.yaml"), endless).unwrap();
    let data = MemoryData::default().with("test", rows(&json!([{"q": "?", "a": "x"}])));
    let error = registry.load_by_name("endless", Arc::new(data)).unwrap_err().to_string();
    assert!(error.contains("task endless, test document 0: doc_to_text") && error.contains("fuel"), "{error}");
}

#[test]
fn what_is_done_to_examples_is_said() {
    let config = |more: &str| format!("{BASE}task: t\n{more}");
    let warnings = |more: &str, options: &BuildOptions| {
        let mut registry = Registry::default();
        registry.add_definition(Path::new("t.yaml"), &config(more)).unwrap();
        let docs = rows(&json!([{"q": "1", "a": "x"}, {"q": "2", "a": "x"}, {"q": "3", "a": "x"}]));
        let data = MemoryData::default().with("test", docs.clone()).with("train", docs);
        let task = registry.load_by_name("t", Arc::new(data)).unwrap();
        task.build(options, None).unwrap().warnings
    };
    let asked = BuildOptions { num_fewshot: Some(2), ..BuildOptions::default() };
    let fixed = warnings("num_fewshot: 0\n", &asked);
    assert_eq!(fixed, ["t: the definition fixes num_fewshot to 0, so --num-fewshot 2 has no effect (as in lm-eval)"]);
    assert!(warnings("training_split: train\n", &asked).is_empty());
    assert!(warnings("num_fewshot: 0\n", &BuildOptions::default()).is_empty());
}

#[test]
fn a_document_of_the_evaluated_split_is_never_its_own_example() {
    let docs = rows(&json!([{"q": "1", "a": "x"}, {"q": "2", "a": "x"}, {"q": "3", "a": "x"}, {"q": "4", "a": "x"}]));
    let train = rows(&json!([{"q": "2", "a": "x", "id": 9}, {"q": "7", "a": "x", "id": 8}]));
    let build = |more: &str, shots: usize| {
        let mut registry = Registry::default();
        let config = format!("task: t\n{more}doc_to_text: q\ndoc_to_target: a\n");
        registry.add_definition(Path::new("t.yaml"), &config).unwrap();
        let data = MemoryData::default().with("test", docs.clone()).with("validation", docs.clone());
        let task = registry.load_by_name("t", Arc::new(data.with("train", train.clone()))).unwrap();
        let options = BuildOptions { num_fewshot: Some(shots), ..BuildOptions::default() };
        let prepared = task.build(&options, None).unwrap();
        let mut own = vec![];
        for (index, document) in prepared.documents.iter().enumerate() {
            let prompt = &arguments(&document.requests[0])[0];
            assert_eq!(prompt.matches(" x\n\n").count(), shots, "{more}: {prompt:?}");
            if prompt.contains(&format!("{} x", index + 1)) {
                own.push(index);
            }
        }
        assert_eq!(prepared.shared_examples, own, "{more}");
        (prepared.evaluated_split_shown, own)
    };
    // Whichever key makes the evaluated split the pool.
    for more in [
        "test_split: test\n",
        "test_split: test\nfewshot_split: test\n",
        "test_split: test\nfewshot_config: {split: test}\n",
        "test_split: test\nfewshot_config: {sampler: first_n}\n",
        "validation_split: validation\n",
        "validation_split: validation\nfewshot_split: validation\n",
    ] {
        assert_eq!(build(more, 3), (true, vec![]), "{more}");
    }
    // Rows that another split shares stay, as in lm-eval, and are told.
    assert_eq!(build("test_split: test\ntraining_split: train\n", 2), (false, vec![1]));
    assert_eq!(build("test_split: test\nvalidation_split: validation\n", 4), (false, vec![0, 1, 2, 3]));
    let samples = "test_split: test\nfewshot_config: {samples: [{q: '3', a: x}, {q: '9', a: x}], sampler: first_n}\n";
    assert_eq!(build(samples, 2), (false, vec![2]));
}

/// lm-eval's own task tree, where `HARNESS_LM_EVAL_TASKS` names it.
#[test]
#[allow(clippy::print_stderr, reason = "a test says what it skips and what it found")]
fn lm_evals_own_tree_parses() {
    let Some(folder) = std::env::var_os("HARNESS_LM_EVAL_TASKS") else {
        eprintln!("skipped: set HARNESS_LM_EVAL_TASKS to lm_eval/tasks");
        return;
    };
    let mut registry = Registry::default();
    registry.add_folder(Path::new(&folder)).unwrap();
    let report = registry.check();
    let problems: Vec<&String> = report.problems.iter().chain(&report.template_errors).collect();
    eprintln!(
        "{} files, {} parse, {} tasks: {} run ({} natively), {} need Python; {problems:#?}",
        report.files, report.parsed, report.tasks, report.runnable, report.native, report.needing_python
    );
    assert!(report.files > 13_000 && report.parsed * 1000 >= report.files * 995, "{} parse", report.parsed);
}
