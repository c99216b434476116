//! Definitions of tasks, and templates.

use std::{
    path::Path,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use harness_core::{ChatMessage, ChatRole, Finish, Output, Request, Response, Usage};
use harness_engine::{ChatContext, ChatEnding, ChatTemplate, TextTokenizer};
use harness_tasks::{BuildOptions, MemoryData, Registry, Task as _};
use harness_training::data::Template;
use serde_json::{Map, Value, json};

use crate::{
    folder::{files, with_folder, write},
    models::MODEL,
};

/// A rendering that takes longer is not repeated.
const LONG: Duration = Duration::from_millis(300);

static TOKENIZER: LazyLock<TextTokenizer> = LazyLock::new(|| {
    let [_, _, (_, json)] = MODEL;
    let json = std::str::from_utf8(json).expect("the seed is text");
    TextTokenizer::from_json(json, None).expect("the seed is a tokenizer")
});

/// A folder of definitions, which may include each other.
pub(crate) fn tasks(bytes: &[u8]) {
    with_folder(|folder| {
        files(bytes, "task.yaml").into_iter().for_each(|(name, bytes)| write(folder, name, bytes));
        let mut registry = Registry::default();
        registry.add_folder(folder).expect("a folder that can be read");
        let folder = folder.display().to_string();
        for error in registry.broken() {
            assert!(error.to_string().contains(&folder), "the error does not name its file: {error}");
        }
        registry.check();
        let names: Vec<String> = registry.tasks().into_iter().chain(registry.groups()).map(str::to_owned).collect();
        for name in names.iter().map(String::as_str).chain(registry.tags().keys().map(String::as_str)) {
            let selection = match registry.select(&[name]) {
                Ok(selection) => selection,
                Err(error) => {
                    assert!(error.to_string().contains(&folder), "the error does not name its file: {error}");
                    continue;
                }
            };
            for task in selection.tasks.iter().take(4) {
                if let Ok(task) = registry.load(task, Arc::new(rows())) {
                    build(&task);
                }
            }
        }
    });
}

/// One Jinja text as the chat template of a model, in the definition of a task, and in a template of training data. One
/// that uses up its time is rendered once.
pub(crate) fn templates(bytes: &[u8]) {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    let begin = Instant::now();
    chat(source);
    if begin.elapsed() > LONG {
        return;
    }
    let text = Value::from(source);
    let definition = format!(
        "task: t\ntest_split: test\noutput_type: generate_until\ndataset_path: json\ndoc_to_text: {text}\n\
         doc_to_target: {text}\nmetric_list:\n  - metric: exact_match\n"
    );
    let mut registry = Registry::default();
    if registry.add_definition(Path::new("t.yaml"), &definition).is_ok()
        && let Ok(task) = registry.load_by_name("t", Arc::new(rows()))
    {
        build(&task);
    }
    // JSON's escapes are TOML's, but for DEL, which TOML wants escaped too.
    let text = text.to_string().replace('\u{7f}', "\\u007f");
    let template = format!("columns = []\nprompt = {text}\ncompletion = {text}\n");
    if let Ok(template) = Template::parse(&template, Path::new("t.toml")) {
        let _ = template.format(&row(), None);
    }
}

fn chat(source: &str) {
    let Ok(template) = ChatTemplate::new(source) else { return };
    let tokenizer = &*TOKENIZER;
    let messages = [
        ChatMessage::new(ChatRole::System, "Be kind."),
        ChatMessage::new(ChatRole::User, "a\nb"),
        ChatMessage::new(ChatRole::Assistant, " c "),
    ];
    for ending in [ChatEnding::OpenAssistant, ChatEnding::ContinueFinal] {
        let context = ChatContext { tools: Some(vec![json!({"name": "f"})]), ..ChatContext::ending(ending) };
        let begin = Instant::now();
        let _ = template.render(&messages, &context, tokenizer);
        if begin.elapsed() > LONG {
            return;
        }
    }
    let values = messages.iter().map(|message| json!({"role": message.role, "content": message.content})).collect();
    let context = ChatContext::ending(ChatEnding::Complete);
    if let Ok((text, blocks)) = template.render_generations(values, &context, tokenizer) {
        for block in blocks {
            assert!(text.get(block.clone()).is_some(), "{block:?} of {text:?}");
        }
    }
    template.date_use();
}

/// What a run asks for, and the same again; any answers have a score.
fn build(task: &harness_tasks::DeclarativeTask) {
    let options = BuildOptions { num_fewshot: Some(1), ..BuildOptions::default() };
    let requests = |options| task.build(options, None).map(|prepared| prepared.documents);
    let (Ok(once), Ok(again)) = (requests(&options), requests(&options)) else { return };
    assert!(once.iter().zip(&again).all(|(a, b)| a.requests == b.requests), "requests differ from call to call");
    for item in &once {
        let responses: Vec<Response> = item.requests.iter().map(answer).collect();
        let _ = task.score(item, &responses);
    }
}

/// Some answer to a request.
fn answer(request: &Request) -> Response {
    let output = match request {
        Request::LogLikelihood { .. } => {
            Output::LogLikelihood { logprob: -1.5, is_greedy: true, token_ids: vec![1], token_logprobs: vec![-1.5] }
        }
        Request::RollingLogLikelihood { .. } => Output::RollingLogLikelihood { logprob: -9.0, tokens: 3 },
        Request::Generate { .. } => Output::Text {
            text: "The answer is (B), 5.\n#### 5".into(),
            token_ids: vec![1],
            token_logprobs: vec![-1.0],
            finish: Finish::EndOfSequence,
            top_logprobs: vec![],
            reasoning: String::new(),
        },
    };
    Response { output, usage: Usage::default() }
}

fn row() -> Map<String, Value> {
    let row = json!({
        "question": "What is 2 + 3?", "choices": {"text": ["4", "5"], "label": ["A", "B"]}, "answerKey": "B",
        "answer": "5 #### 5", "text": "a b\nc", "label": 1, "items": ["x", "y"], "none": null, "number": 0.5,
    });
    row.as_object().cloned().unwrap_or_default()
}

fn rows() -> MemoryData {
    ["train", "validation", "dev", "test"]
        .into_iter()
        .fold(MemoryData::default(), |data, split| data.with(split, vec![row(), row()]))
}
