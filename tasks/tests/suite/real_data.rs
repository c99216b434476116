//! Requests and scores against lm-eval's logged samples on real data sets.

use std::{path::PathBuf, sync::Arc};

use crate::common::{arguments, generation, likelihood};
use harness_core::{ChatMessage, ChatOptions, ChatRole, ModelError, Response};
use harness_store::{DataLocator, Row, read_rows};
use harness_tasks::{BuildOptions, FileData, Limit, PromptFormatter, Registry, Task};
use harness_test_support::{beside, reference_dir};
use serde_json::Value;

/// SmolLM2's chat template.
struct SmolLm;

impl PromptFormatter for SmolLm {
    fn apply_chat_template(&self, messages: &[ChatMessage], options: ChatOptions) -> Result<String, ModelError> {
        let mut text = String::new();
        if messages.first().is_none_or(|m| m.role != ChatRole::System) {
            text.push_str(
                "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n",
            );
        }
        for message in messages {
            let role = match message.role {
                ChatRole::System => "system",
                ChatRole::User => "user",
                ChatRole::Assistant => "assistant",
            };
            text.push_str(&format!("<|im_start|>{role}\n{}<|im_end|>\n", message.content));
        }
        if options.add_generation_prompt {
            text.push_str("<|im_start|>assistant\n");
        }
        Ok(text)
    }
}

fn data_dir() -> Option<PathBuf> {
    beside("HARNESS_DATA_DIR", "data")
}

/// The logged samples of one task of a run, one a document and filter.
fn samples(run: &str, task: &str) -> Option<Vec<Row>> {
    let folder = reference_dir()?.join("lm-eval/open").join(run);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).ok()?.flatten().map(|entry| entry.path()).collect();
    files
        .retain(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&format!("samples_{task}_2"))));
    assert_eq!(files.len(), 1, "{run} {task}");
    Some(read_rows(&files, None).unwrap())
}

/// The response that a logged sample's `resps` stands for.
fn response(logged: &Value) -> Response {
    match logged {
        Value::Array(pair) if pair.len() == 2 => {
            likelihood(pair[0].as_str().unwrap().parse().unwrap(), pair[1].as_str() == Some("True"))
        }
        other => generation(other.as_str().unwrap()),
    }
}

/// Compares every request and every score of a run; returns the number of requests.
fn compare(run: &str, id: &str, options: &BuildOptions) -> usize {
    let (Some(data), Some(logged)) = (data_dir(), samples(run, id)) else { return 0 };
    let locator = DataLocator { data_dirs: vec![data], hub_cache: None };
    let registry = Registry::builtin().unwrap();
    let task = registry.load_by_name(id, Arc::new(FileData::new(locator))).unwrap();
    let prepared = task.build(options, Some(&SmolLm)).unwrap();
    let mut requests = 0;
    for sample in &logged {
        let item = &prepared.documents[sample["doc_id"].as_u64().unwrap() as usize];
        let expected = sample["arguments"].as_object().unwrap();
        assert_eq!(item.requests.len(), expected.len(), "{run} {id}");
        for (i, request) in item.requests.iter().enumerate() {
            let expected = &expected[&format!("gen_args_{i}")];
            for (j, text) in arguments(request).iter().enumerate() {
                assert_eq!(expected[&format!("arg_{j}")].as_str().unwrap(), text, "{run} {id} request {i}");
            }
            requests += 1;
        }
        assert_eq!(sample["target"].as_str().unwrap(), target(item), "{run} {id}");
        let responses: Vec<Response> =
            sample["resps"].as_array().unwrap().iter().map(|repeats| response(&repeats[0])).collect();
        let scored = task.score(item, &responses).unwrap();
        let filter = sample["filter"].as_str().unwrap();
        for score in scored.scores.iter().filter(|score| score.key.filter == filter) {
            assert_eq!(Some(score.stats[0]), sample[&score.key.metric].as_f64(), "{run} {id} {}", score.key);
        }
        for answer in scored.answers.iter().filter(|answer| answer.filter == filter) {
            assert_eq!(answer.value, sample["filtered_resps"][0], "{run} {id}");
        }
    }
    requests
}

fn target(item: &harness_tasks::DocumentRequests) -> &str {
    &item.target
}

fn options(limit: usize) -> BuildOptions {
    BuildOptions { limit: Some(Limit::Count(limit)), ..BuildOptions::default() }
}

#[test]
fn arc_equals_lm_eval() {
    if data_dir().is_none() || reference_dir().is_none() {
        return;
    }
    assert_eq!(compare("arc_easy_200", "arc_easy", &options(200)), 799);
    assert_eq!(compare("arc_challenge_150", "arc_challenge", &options(150)), 599);
    let shots = BuildOptions { num_fewshot: Some(25), ..options(20) };
    assert_eq!(compare("arc_challenge_25shot_20", "arc_challenge", &shots), 80);
}

#[test]
fn arc_in_a_chat_equals_lm_eval() {
    if data_dir().is_none() || reference_dir().is_none() {
        return;
    }
    let chat = BuildOptions { apply_chat_template: true, ..options(40) };
    assert_eq!(compare("arc_easy_40_chat", "arc_easy", &chat), 160);
    let shots = BuildOptions { num_fewshot: Some(2), ..chat };
    assert_eq!(compare("arc_easy_40_chat_2shot_multiturn", "arc_easy", &shots), 160);
}

#[test]
fn gsm8k_equals_lm_eval() {
    if data_dir().is_none() || reference_dir().is_none() {
        return;
    }
    // One line a document and filter.
    assert_eq!(compare("gsm8k_5shot_15", "gsm8k", &options(15)), 30);
}

#[test]
fn mmlu_equals_lm_eval() {
    if data_dir().is_none() || reference_dir().is_none() {
        return;
    }
    let registry = Registry::builtin().unwrap();
    let selection = registry.select(&["mmlu"]).unwrap();
    let compared: usize = selection.tasks.iter().map(|task| compare("mmlu_5shot_3", &task.id, &options(3))).sum();
    assert_eq!(compared, 57 * 3 * 4);
}

#[test]
fn wikitext_equals_lm_eval() {
    let (Some(data), Some(logged)) = (data_dir(), samples("wikitext_40k", "wikitext")) else { return };
    let source = Arc::new(FileData::new(DataLocator { data_dirs: vec![data], hub_cache: None }));
    let task = Registry::builtin().unwrap().load_by_name("wikitext", source).unwrap();
    let prepared = task.build(&options(3), None).unwrap();
    assert_eq!(prepared.documents.len(), logged.len());
    for (item, sample) in prepared.documents.iter().zip(&logged) {
        assert_eq!(item.doc.fields["page"], sample["doc"]["page"]);
        assert_eq!(arguments(&item.requests[0])[0], sample["arguments"]["gen_args_0"]["arg_0"].as_str().unwrap());
        let logprob: f64 = sample["resps"][0][0].as_str().unwrap().parse().unwrap();
        for score in task.score(item, &[crate::common::rolling(logprob)]).unwrap().scores {
            let expected: Vec<f64> =
                sample[&score.key.metric].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
            assert_eq!(score.stats, expected, "{}", score.key);
        }
    }
}

#[test]
fn all_of_mmlu_is_14042_documents() {
    let Some(data) = data_dir() else { return };
    let registry = Registry::builtin().unwrap();
    let source = Arc::new(FileData::new(DataLocator { data_dirs: vec![data], hub_cache: None }));
    let mut requests = 0;
    for task in &registry.select(&["mmlu"]).unwrap().tasks {
        let task = registry.load(task, source.clone()).unwrap();
        let prepared = task.build(&BuildOptions::default(), None).unwrap();
        requests += prepared.documents.iter().map(|item| item.requests.len()).sum::<usize>();
    }
    assert_eq!(requests, 56_168);
}

#[test]
fn dolly_test_is_the_held_out_tenth() {
    let Some(data) = data_dir() else { return };
    let registry = Registry::builtin().unwrap();
    let source = Arc::new(FileData::new(DataLocator { data_dirs: vec![data], hub_cache: None }));
    let task = registry.load_by_name("dolly_test", source).unwrap();
    let prepared = task.build(&options(100), None).unwrap();
    assert!((1_500..=1_503).contains(&prepared.available), "{}", prepared.available);
    for item in &prepared.documents {
        let field = |name: &str| item.doc.fields[name].as_str().unwrap();
        let context = match field("context") {
            "" => String::new(),
            context => format!("### Context:\n{context}\n\n"),
        };
        let prompt = format!("### Instruction:\n{}\n\n{context}### Response:\n", field("instruction"));
        assert_eq!(arguments(&item.requests[0]), std::slice::from_ref(&prompt));
        assert_eq!(arguments(&item.requests[1]), [prompt, field("response").to_owned()]);
    }
    let item = &prepared.documents[0];
    let scored = task.score(item, &[generation(&item.target), likelihood(-4.0, false)]).unwrap();
    let value = |metric: &str| {
        let at = task.metrics().iter().position(|spec| spec.key.metric == metric).unwrap();
        task.metrics()[at].statistic.value(&scored.scores[at].stats)
    };
    assert!((value("bleu") - 100.0).abs() < 1e-9 || item.target.split_whitespace().count() < 4);
    assert_eq!(value("rougeL"), 1.0);
    assert_eq!(value("perplexity"), 2f64.exp());
}
