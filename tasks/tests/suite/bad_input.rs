//! What wrong definitions and data get: one message that names place, finding and remedy.

use std::{path::Path, sync::Arc};

use crate::common::rows;
use harness_tasks::{BuildOptions, FileData, Limit, MemoryData, Registry, Task, TaskError};
use serde_json::{Value, json};

const GOOD: &str = "task: t\ntest_split: test\ndoc_to_text: \"{{q}}\"\ndoc_to_target: a\n";

/// The message for a definition, its documents, and a build.
fn message(text: &str, docs: &Value) -> String {
    fn run(text: &str, docs: &Value) -> Result<(), TaskError> {
        let mut registry = Registry::default();
        registry.add_definition(Path::new("dir/t.yaml"), text)?;
        let data = MemoryData::default().with("test", rows(docs));
        let task = registry.load_by_name("t", Arc::new(data))?;
        task.build(&BuildOptions::default(), None).map(drop)
    }
    run(text, docs).map_or_else(|error| error.to_string(), |()| "no error".to_owned())
}

#[test]
fn every_mistake_is_named() {
    let docs = json!([{"q": "?", "a": "x", "c": ["x", "y"]}]);
    let mc = "task: t\ntest_split: test\noutput_type: multiple_choice\ndoc_to_text: q\ndoc_to_target: a\n";
    let cases: Vec<(String, &Value, &str)> = vec![
        (GOOD.into(), &docs, "no error"),
        (
            format!("{GOOD}doc_to_choise: c\n"),
            &docs,
            "dir/t.yaml:5:1: unknown key \"doc_to_choise\" in a task; did you mean doc_to_choice?",
        ),
        (
            format!("{GOOD}num_fewshot: many\n"),
            &docs,
            "dir/t.yaml:5:14: num_fewshot must be an integer of at least 0, found a string \"many\"",
        ),
        (GOOD.replace("{{q}}", "Q: {{ q | nofilter }}"), &docs, "dir/t.yaml:3:"),
        (GOOD.replace("{{q}}", "Q: {{ q "), &docs, "template error"),
        (
            GOOD.replace("{{q}}", "{{qq}}"),
            &docs,
            "task t, test document 0: doc_to_text: the data has no column qq; its columns are q, a, c; did you mean q?",
        ),
        (
            format!("{GOOD}process_docs: !function utils.process\n"),
            &docs,
            "dir/t.yaml:5:25: process_docs needs the Python function utils.process",
        ),
        (format!("{GOOD}output_type: multiple_chioce\n"), &docs, "unknown output_type"),
        (
            format!(
                "{GOOD}filter_list:\n  - name: f\n    filter:\n      - function: regex\n        regex_pattern: '('\n"
            ),
            &docs,
            "dir/t.yaml:9:24: regular expression `(` is not valid",
        ),
        (
            format!("{GOOD}filter_list:\n  - name: f\n    filter:\n      - function: regexp\n"),
            &docs,
            "unknown filter \"regexp\"; did you mean regex?",
        ),
        (
            format!("{GOOD}metric_list:\n  - metric: exact_mach\n"),
            &docs,
            "dir/t.yaml:6:13: unknown metric \"exact_mach\" for generate_until; did you mean exact_match?",
        ),
        (
            format!("{GOOD}metric_list:\n  - metric: exact_match\n    ignore_caps: true\n"),
            &docs,
            "unknown key \"ignore_caps\" in exact_match; did you mean ignore_case?",
        ),
        (format!("{GOOD}generation_kwargs: {{max_gen_tok: 5}}\n"), &docs, "did you mean max_gen_toks?"),
        (
            format!("{GOOD}fewshot_config: {{sampler: random}}\n"),
            &docs,
            "unknown sampler \"random\"; known: default, first_n",
        ),
        (format!("{mc}doc_to_choice: []\n"), &docs, "doc_to_choice is an empty list"),
        (format!("{mc}doc_to_choice: \"{{{{ [] }}}}\"\n"), &docs, "doc_to_choice: gives no choices"),
        (format!("{mc}doc_to_choice: \"{{{{ q }}}}\"\n"), &docs, "\"?\" is not a list"),
        (mc.into(), &docs, "multiple_choice needs doc_to_choice"),
        (format!("{GOOD}num_fewshot: 2\n"), &docs, "2 examples were asked for, but the split \"test\" has only 1"),
        (GOOD.replace("test_split: test", "test_split: tset"), &docs, "there is no split \"tset\"; there are: test"),
        (GOOD.into(), &Value::Null, "task t: the split \"test\" has no documents"),
        (format!("{GOOD}include: missing.yaml\n"), &docs, "dir/t.yaml:5:10: cannot include dir/missing.yaml"),
        (format!("{GOOD}include: t.yaml\n"), &docs, "the includes form a cycle: dir/t.yaml -> dir/t.yaml"),
        (format!("{GOOD}doc_to_text: Again?\n"), &docs, "no error"),
        ("task: [\n".into(), &docs, "not valid YAML"),
    ];
    for (text, docs, expected) in cases {
        let found = message(&text, docs);
        assert!(found.contains(expected), "{text}\nexpected: {expected}\nfound:    {found}");
    }
}

#[test]
fn gold_outside_of_the_choices_scores_zero_with_a_warning() {
    let config = json!({"task": "t", "output_type": "multiple_choice", "test_split": "test", "doc_to_text": "q",
        "doc_to_choice": ["a", "b"], "doc_to_target": "gold"});
    let task = |docs: Value| crate::common::task(&config, MemoryData::default().with("test", rows(&docs)));
    let docs = json!([{"q": "?", "gold": 7}, {"q": "?", "gold": 1}]);
    let prepared = task(docs.clone()).build(&BuildOptions::default(), None).unwrap();
    let warning = "t: 1 document with no right choice, scored 0 (number 0)";
    assert_eq!(prepared.warnings, [warning]);
    // A limit that leaves no other document does not make the data wrong.
    let first = BuildOptions { limit: Some(Limit::Count(1)), ..BuildOptions::default() };
    assert_eq!(task(docs).build(&first, None).unwrap().warnings, [warning]);
    // Where no document has an answer, it is the definition or the data that is wrong.
    let error = task(json!([{"q": "?", "gold": "A"}, {"q": "?", "gold": "B"}])).build(&first, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "task t: doc_to_target: none of the 2 documents of test has its answer among its choices, so all would score \
         0; that of the first is \"A\", with the choices [\"a\", \"b\"]; the columns are gold, q"
    );
}

#[test]
fn a_column_that_no_document_has_is_named() {
    let docs = json!([{"question": "Is it?", "answer": true, "passage": "x", "void": null, "options": ["no", "yes"]}]);
    let task = |text: &str, target: &str, choice: &str| {
        format!(
            "task: t\ntest_split: test\noutput_type: multiple_choice\ndoc_to_text: {text}\ndoc_to_target: {target}\n\
             doc_to_choice: {choice}\n"
        )
    };
    let columns = "its columns are answer, options, passage, question, void";
    let cases = [
        (task("question", "answer", "[no way, sure]"), "no error".to_owned()),
        (task("question", "answer", "options"), "no error".to_owned()),
        (task("question", "label", "[no way, sure]"), format!("task t: doc_to_target: the data has no column label; {columns}")),
        (
            task("questions", "answer", "options"),
            format!("task t: doc_to_text: the data has no column questions; {columns}; did you mean question?"),
        ),
        (
            task("question", "answer", "option"),
            format!("task t: doc_to_choice: the data has no column option; {columns}; did you mean options?"),
        ),
        (task("question", "void", "options"), "task t: doc_to_target: the column void is null in all rows".to_owned()),
        // The same choice is right of all documents.
        (task("question", "sure", "[no way, sure]"), "no error".to_owned()),
        // Undefined names that are not printed, and text that is no name.
        (task("\"{% if hint is defined %}{{hint}}{% endif %}{{question}}\"", "answer", "options"), "no error".to_owned()),
        (task("\"{{hint | default('')}}{{question}}\"", "answer", "options"), "no error".to_owned()),
        (task("\"Is it so?\"", "answer", "options"), "no error".to_owned()),
        (task("\"\"", "answer", "options"), "no error".to_owned()),
        (
            format!(
                "{}fewshot_config: {{samples: [{{question: x, label: 1, options: [a, b]}}], doc_to_text: qestion}}\n\
                 num_fewshot: 1\n",
                task("question", "answer", "options")
            ),
            "task t: few-shot doc_to_text: the data has no column qestion; its columns are label, options, question; did \
             you mean question?"
                .to_owned(),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(message(&text, &docs), expected, "{text}");
    }
}

#[test]
fn names_are_unique_and_unknown_ones_get_suggestions() {
    let mut registry = Registry::builtin().unwrap();
    let error = registry.select(&["arc_esay"]).unwrap_err().to_string();
    assert_eq!(error, "no task, group or tag is named \"arc_esay\"; did you mean arc_easy?");
    let error = registry.add_definition(Path::new("mine.yaml"), &GOOD.replace("task: t", "task: gsm8k")).unwrap_err();
    assert!(matches!(error, TaskError::DuplicateName { .. }), "{error}");
    assert!(
        error.to_string().contains("mine.yaml:1:1: the name \"gsm8k\" is already defined at built-in:/gsm8k"),
        "{error}"
    );
    let cyclic = "group: g\ntask: [g]\n";
    registry.add_definition(Path::new("g.yaml"), cyclic).unwrap();
    assert!(registry.select(&["g"]).unwrap_err().to_string().contains("the group g contains itself"));
}

#[test]
fn includes_and_groups_resolve() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("_base.yaml", "test_split: test\ndoc_to_text: \"{{q}}\"\ndoc_to_target: a\ntag: family\n");
    write("_other.yaml", "doc_to_text: Other!\ndescription: D\n");
    write("one.yaml", "include: [_base.yaml, _other.yaml]\ntask: one\n");
    write("list.yaml", "include: _base.yaml\ntask_list:\n  - task: two\n  - task: three\n    description: E\n");
    write("g.yaml", "group: all\ntask:\n  - family\n  - group: sub\n    task: [{task: one, description: F}]\n");
    write("broken.yaml", "task: [");
    let mut registry = Registry::default();
    registry.add_folder(folder.path()).unwrap();
    assert_eq!(registry.tasks(), ["one", "three", "two"]);
    assert_eq!(registry.broken().len(), 1);
    assert_eq!(registry.tags()["family"].len(), 3);
    let selection = registry.select(&["all"]).unwrap();
    assert_eq!(selection.groups[0].leaves(), ["one", "three", "two"]);
    let rows_ = rows(&json!([{"q": "Q", "a": "A"}]));
    let task = registry.load_by_name("one", Arc::new(MemoryData::default().with("test", rows_))).unwrap();
    let view = task.show(0, &BuildOptions::default(), None).unwrap();
    let pieces: Vec<&str> = view.pieces.iter().map(|piece| piece.text.as_str()).collect();
    assert_eq!(pieces, ["D", "Other!"], "the later include wins");
}

#[test]
fn every_builtin_definition_is_sound() {
    let registry = Registry::builtin().unwrap();
    let names = registry.tasks();
    for name in &names {
        registry.info(name).unwrap();
    }
    assert_eq!(names.iter().filter(|name| name.starts_with("mmlu_")).count(), 57);
    let selection = registry.select(&["mmlu"]).unwrap();
    assert_eq!((selection.tasks.len(), selection.groups[0].leaves().len()), (57, 57));
    assert_eq!(registry.select(&["mmlu_stem_tasks"]).unwrap().tasks.len(), 19);
    assert_eq!(registry.select(&["arc_*"]).unwrap().tasks.len(), 2);
}

#[test]
fn a_name_with_a_star_is_a_name_first() {
    let mut registry = Registry::default();
    for (file, name) in [("1.yaml", "a*"), ("2.yaml", "ab")] {
        let text = format!("task: \"{name}\"\ntag: \"t*\"\noutput_type: generate_until\n");
        registry.add_definition(Path::new(file), &text).unwrap();
    }
    let ids = |name: &str| registry.select(&[name]).unwrap().tasks.into_iter().map(|task| task.id).collect::<Vec<_>>();
    assert_eq!(ids("a*"), ["a*"]);
    assert_eq!(ids("*b"), ["ab"]);
    assert_eq!(ids("t*"), ["a*", "ab"]);
}

/// Definitions whose rows are built in work without any data folder.
#[test]
fn tasks_with_rows_of_their_own_build() {
    let registry = Registry::builtin().unwrap();
    let source = Arc::new(FileData::default());
    for name in registry.tasks().into_iter().filter(|name| name.starts_with("tiny_")) {
        let task = registry.load_by_name(name, source.clone()).unwrap();
        let prepared = task.build(&BuildOptions::default(), None).unwrap();
        assert!(prepared.documents.len() > 10 && prepared.warnings.is_empty(), "{name} {:?}", prepared.warnings);
        assert_eq!(task.metrics().iter().filter(|spec| spec.primary).count(), 1);
    }
    let error = registry.load_by_name("gsm8k", source).unwrap_err().to_string();
    assert!(error.starts_with("task gsm8k: ") && error.contains("--data-dir"), "{error}");
}
