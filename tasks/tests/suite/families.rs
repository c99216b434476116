//! Families whose Python functions are computed here, each from a local data file to its scores, under lm-eval's names.

use std::sync::Arc;

use harness_core::{Request, Response};
use harness_store::DataLocator;
use harness_tasks::{BuildOptions, FileData, Registry, Task};
use serde_json::{Value, json};

use crate::common::{generation, likelihood, rolling};

/// A family on a small file.
struct Family {
    task: &'static str,
    /// Folder of the data set, and name of the file in it.
    file: &'static str,
    rows: Vec<Value>,
    /// What the model generates; of continuations it likes the first one best.
    says: &'static str,
    /// Some metrics and their values.
    expected: &'static [(&'static str, f64)],
}

fn families() -> Vec<Family> {
    let truth = json!({"question": "Q?", "mc1_targets": {"choices": ["x", "y"], "labels": [1, 0]},
        "mc2_targets": {"choices": ["x", "y", "z"], "labels": [1, 0, 1]}});
    let race = |answer: &str| {
        json!({"article": "A.",
        "problems": format!("[{{'question': 'Q?', 'answer': '{answer}', 'options': ['1', '2', '3', '4']}}]")})
    };
    let squad = |id: &str, texts: Value| {
        json!({"id": id, "title": "T", "context": "C", "question": "Q",
        "answers": {"text": texts, "answer_start": []}})
    };
    vec![
        Family {
            task: "hellaswag",
            file: "hellaswag/validation.jsonl",
            rows: vec![
                json!({"activity_label": "Dog", "ctx_a": "It runs.", "ctx_b": "the dog",
                    "endings": ["sits.", "flies [sub] off."], "label": "0"}),
                json!({"activity_label": "Cat", "ctx_a": "It runs.", "ctx_b": "it",
                    "endings": ["sits.", "flies."], "label": "1"}),
            ],
            says: "",
            expected: &[("acc", 0.5), ("acc_norm", 0.5)],
        },
        Family {
            task: "winogrande",
            file: "winogrande/winogrande_xl/validation.jsonl",
            rows: ["1", "2", "1", "1"]
                .map(|answer| {
                    json!({"sentence": "A met B as _ was late.", "option1": "A", "option2": "B", "answer": answer})
                })
                .to_vec(),
            says: "",
            expected: &[("acc", 0.75)],
        },
        Family {
            task: "wikitext",
            file: "wikitext-2-raw/test.jsonl",
            rows: vec![
                json!({"text": ""}),
                json!({"text": " = Page = \n"}),
                json!({"text": ""}),
                json!({"text": " It is a page . \n"}),
            ],
            says: "",
            // −8 over the words and bytes of the page.
            expected: &[],
        },
        Family {
            task: "truthfulqa_mc1",
            file: "truthfulqa/multiple_choice/validation.jsonl",
            rows: vec![truth.clone()],
            says: "",
            expected: &[("acc", 1.0)],
        },
        Family {
            task: "truthfulqa_mc2",
            file: "truthfulqa/multiple_choice/validation.jsonl",
            rows: vec![truth],
            says: "",
            // exp(−1), exp(−2), exp(−3), of which the first and the last are true.
            expected: &[("acc", 0.755_271_529_1)],
        },
        Family {
            task: "truthfulqa_gen",
            file: "truthfulqa/generation/validation.jsonl",
            rows: vec![
                json!({"question": "Q?", "correct_answers": ["It is five"], "incorrect_answers": ["It is six"]}),
            ],
            says: "It is five.",
            expected: &[("bleu_acc", 1.0), ("rougeL_max", 100.0)],
        },
        Family {
            task: "race",
            file: "race/high/test.jsonl",
            rows: vec![race("A"), race("D"), race("A")],
            says: "",
            expected: &[("acc", 2.0 / 3.0)],
        },
        Family {
            task: "logiqa",
            file: "logiqa/test.jsonl",
            rows: ["a\n", "b\n"]
                .map(|label| {
                    json!({"context": "C", "question": "Q", "options": ["w", "x", "y", "z"], "label": label})
                })
                .to_vec(),
            says: "",
            expected: &[("acc", 0.5)],
        },
        Family {
            task: "mathqa",
            file: "mathqa/test.jsonl",
            rows: vec![
                json!({"Problem": "P", "options": "a ) 1 , b ) 2 , c ) 3 , d ) 4 , e ) 5", "correct": "a"}),
            ],
            says: "",
            expected: &[("acc", 1.0), ("acc_norm", 1.0)],
        },
        Family {
            task: "squadv2",
            file: "squad_v2/validation.jsonl",
            rows: vec![squad("1", json!(["the Norman people"])), squad("2", json!([])), squad("3", json!(["Norman"]))],
            says: " Norman",
            expected: &[
                ("exact", 100.0 / 3.0),
                ("f1", 500.0 / 9.0),
                ("HasAns_exact", 50.0),
                ("HasAns_f1", 250.0 / 3.0),
                ("NoAns_exact", 0.0),
            ],
        },
        Family {
            task: "ifeval",
            file: "ifeval/train.jsonl",
            rows: vec![
                json!({"key": 1, "prompt": "Write without commas, in quotes.",
                    "instruction_id_list": ["punctuation:no_comma", "startend:quotation"], "kwargs": [{}, {}]}),
                json!({"key": 2, "prompt": "At least 3 words.", "instruction_id_list": ["length_constraints:number_words"],
                    "kwargs": [{"num_words": 3, "relation": "at least"}]}),
            ],
            says: "One two three",
            expected: &[("prompt_level_strict_acc", 0.5), ("inst_level_strict_acc", 2.0 / 3.0)],
        },
    ]
}

/// The first request of a document is likelier than the second, and so on.
fn answer(number: usize, request: &Request, says: &str) -> Response {
    match request {
        Request::LogLikelihood { .. } => likelihood(-1.0 - number as f64, number == 0),
        Request::RollingLogLikelihood { .. } => rolling(-8.0),
        Request::Generate { .. } => generation(says),
    }
}

#[test]
fn each_family_runs_from_a_local_file() {
    let registry = Registry::builtin().unwrap();
    let options = BuildOptions { num_fewshot: Some(0), ..BuildOptions::default() };
    for family in families() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(family.file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, family.rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
        let data = Arc::new(FileData::new(DataLocator { data_dirs: vec![folder.path().to_owned()], hub_cache: None }));
        let task = registry.load_by_name(family.task, data).unwrap_or_else(|error| panic!("{}: {error}", family.task));
        let prepared = task.build(&options, None).unwrap_or_else(|error| panic!("{}: {error}", family.task));
        let scored: Vec<_> = prepared
            .documents
            .iter()
            .map(|item| {
                let of = |(number, request)| answer(number, request, family.says);
                let responses: Vec<Response> = item.requests.iter().enumerate().map(of).collect();
                task.score(item, &responses).unwrap_or_else(|error| panic!("{}: {error}", family.task))
            })
            .collect();
        assert!(!scored.is_empty(), "{}", family.task);
        let value = |metric: &str| {
            let at = task.metrics().iter().position(|spec| spec.key.metric == metric).unwrap();
            let statistic = &task.metrics()[at].statistic;
            statistic.value(&statistic.sum(scored.iter().map(|scored| scored.scores[at].stats.as_slice())))
        };
        for (metric, expected) in family.expected {
            let found = value(metric);
            assert!((found - expected).abs() < 1e-9, "{} {metric}: {found} instead of {expected}", family.task);
        }
        if family.task == "wikitext" {
            let page = &prepared.documents[0].doc.fields["page"];
            let bytes = page.as_str().unwrap().len() as f64;
            assert!((value("bits_per_byte") - 8.0 / bytes / std::f64::consts::LN_2).abs() < 1e-12);
        }
    }
}

/// Texts of many kinds against every kind of instruction; `tests/data/ifeval.json` says what made the answers.
#[test]
fn instructions_are_followed_as_in_ifevals_program() {
    let cases: Value = serde_json::from_str(include_str!("../data/ifeval.json")).unwrap();
    let instructions = cases["instructions"].as_array().unwrap();
    let ids: Vec<&Value> = instructions.iter().map(|pair| &pair[0]).collect();
    let arguments: Vec<&Value> = instructions.iter().map(|pair| &pair[1]).collect();
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("ifeval")).unwrap();
    let rows: String = ids
        .iter()
        .zip(&arguments)
        .map(|(id, arguments)| {
            format!("{}\n", json!({"key": 1, "prompt": "P", "instruction_id_list": [id], "kwargs": [arguments]}))
        })
        .collect();
    std::fs::write(folder.path().join("ifeval/train.jsonl"), rows).unwrap();
    let data = Arc::new(FileData::new(DataLocator { data_dirs: vec![folder.path().to_owned()], hub_cache: None }));
    let task = Registry::builtin().unwrap().load_by_name("ifeval", data).unwrap();
    let prepared = task.build(&BuildOptions::default(), None).unwrap();
    let (mut checked, mut wrong) = (0, Vec::new());
    for case in cases["cases"].as_array().unwrap() {
        let response = case["response"].as_str().unwrap();
        for ((item, code), number) in prepared.documents.iter().zip(case["followed"].as_str().unwrap().chars()).zip(0..)
        {
            let Some(code) = code.to_digit(10) else { continue };
            let scores = task.score(item, &[generation(response)]).unwrap().scores;
            let found = scores[0].stats[0] as u32 + 2 * scores[2].stats[0] as u32;
            checked += 1;
            if found != code {
                wrong.push(format!("{} on {response:?}: {found} instead of {code}", instructions[number]));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {checked}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(checked > 1500, "{checked}");
}
