//! What the tests of this crate share.

use std::{path::Path, sync::Arc};

use harness_core::{ChatMessage, ChatOptions, ChatRole, Finish, ModelError, Output, Request, Response, Usage};
use harness_tasks::{DeclarativeTask, MemoryData, PromptFormatter, Registry};
use serde_json::{Map, Value};

/// Rows of a JSON array.
pub(crate) fn rows(value: &Value) -> Vec<Map<String, Value>> {
    value.as_array().map(|rows| rows.iter().map(|row| row.as_object().unwrap().clone()).collect()).unwrap_or_default()
}

/// A task from its definition as JSON (which is YAML) and rows in memory.
pub(crate) fn task(config: &Value, data: MemoryData) -> DeclarativeTask {
    let mut registry = Registry::default();
    registry.add_definition(Path::new("task.yaml"), &config.to_string()).unwrap();
    registry.load_by_name(config["task"].as_str().unwrap(), Arc::new(data)).unwrap()
}

/// The chat template of the vectors: `<|role|>\ncontent<|end|>\n`, then an open assistant turn; a continued last message
/// has no end.
pub(crate) struct ToyTemplate;

impl PromptFormatter for ToyTemplate {
    fn apply_chat_template(&self, messages: &[ChatMessage], options: ChatOptions) -> Result<String, ModelError> {
        let mut text = String::new();
        for message in messages {
            let role = match message.role {
                ChatRole::System => "system",
                ChatRole::User => "user",
                ChatRole::Assistant => "assistant",
            };
            text.push_str(&format!("<|{role}|>\n{}<|end|>\n", message.content));
        }
        if options.add_generation_prompt {
            text.push_str("<|assistant|>\n");
        } else {
            text.truncate(text.len() - "<|end|>\n".len());
        }
        Ok(text)
    }
}

/// Context and continuation, text, or prompt of a request.
pub(crate) fn arguments(request: &Request) -> Vec<String> {
    match request {
        Request::LogLikelihood { context, continuation } => vec![context.clone(), continuation.clone()],
        Request::RollingLogLikelihood { text } => vec![text.clone()],
        Request::Generate { prompt, .. } => vec![prompt.clone()],
    }
}

/// A log-likelihood.
pub(crate) fn likelihood(logprob: f64, is_greedy: bool) -> Response {
    let output = Output::LogLikelihood { logprob, is_greedy, token_ids: vec![1, 2], token_logprobs: Vec::new() };
    Response { output, usage: Usage::default() }
}

/// A rolling log-likelihood.
pub(crate) fn rolling(logprob: f64) -> Response {
    Response { output: Output::RollingLogLikelihood { logprob, tokens: 3 }, usage: Usage::default() }
}

/// A generation.
pub(crate) fn generation(text: &str) -> Response {
    let output = Output::Text {
        text: text.to_owned(),
        token_ids: Vec::new(),
        token_logprobs: Vec::new(),
        finish: Finish::EndOfSequence,
        top_logprobs: Vec::new(),
        reasoning: String::new(),
    };
    Response { output, usage: Usage::default() }
}
