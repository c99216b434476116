//! One generation of a request as it grows.

use harness_core::{Finish, Output, Response, Usage};
use harness_engine::{TextPiece, TextToken};
use serde_json::{Value, json};

use super::logprobs::{self, Offsets};
use crate::desk::Event;

/// What all parts of an answer say.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    /// A chat, or else a completion.
    pub(crate) chat: bool,
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) fingerprint: String,
    /// Whether log-probabilities are told.
    pub(crate) logprobs: bool,
    /// Whether the text begins with the prompt.
    pub(crate) echo: bool,
    /// Whether counts come at the end of a stream.
    pub(crate) include_usage: bool,
    /// Answers to every prompt.
    pub(crate) n: usize,
    /// The text of every prompt.
    pub(crate) prompts: Vec<String>,
}

impl Form {
    /// Generations of the request, none of which has begun.
    pub(super) fn choices(&self) -> Vec<Choice> {
        let text = |at: usize| if self.echo { self.prompts[at / self.n].clone() } else { String::new() };
        let choice = |at| Choice { text: text(at), before: text(at).len(), echoes: self.echo, ..Choice::default() };
        (0..self.prompts.len() * self.n).map(choice).collect()
    }

    /// The frame of a whole answer or a piece of it.
    pub(super) fn frame(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({"id": self.id, "object": object, "created": self.created, "model": self.model,
            "system_fingerprint": self.fingerprint, "choices": choices})
    }

    /// The counts of all generations; each prompt counts once.
    pub(super) fn usage(&self, choices: &[Choice]) -> Value {
        let prompt: usize = choices.iter().step_by(self.n).map(|choice| choice.usage.prompt_tokens).sum();
        let completion: usize = choices.iter().map(|choice| choice.usage.completion_tokens).sum();
        json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
    }
}

/// A generation as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// Its text; the prompt stands before it where it is echoed.
    pub(super) text: String,
    /// Bytes of the prompt before it.
    before: usize,
    /// Whether the prompt is still to be told.
    echoes: bool,
    offsets: Offsets,
    pub(super) finish: Option<&'static str>,
    usage: Usage,
}

/// What is new of a generation.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) text: String,
    /// Tokens of the prompt, then of the text.
    prompt: Vec<TextToken>,
    tokens: Vec<TextToken>,
}

impl News {
    /// Adds what comes next.
    pub(super) fn add(&mut self, other: Self) {
        self.text.push_str(&other.text);
        self.prompt.extend(other.prompt);
        self.tokens.extend(other.tokens);
    }
}

impl Choice {
    /// Takes an event; what is new with it. Failures are not for here.
    pub(super) fn take(&mut self, event: Event) -> News {
        let mut news = News::default();
        if std::mem::take(&mut self.echoes) {
            news.text.push_str(&self.text);
        }
        match event {
            Event::Prompt(tokens) => news.prompt = tokens,
            Event::Text(TextPiece { text, tokens }) => {
                self.text.push_str(&text);
                news.text.push_str(&text);
                news.tokens = tokens;
            }
            Event::Done(response) => {
                let Response { output, usage } = *response;
                self.usage = usage;
                let length = matches!(output, Output::Text { finish: Finish::Length, .. });
                self.finish = Some(if length { "length" } else { "stop" });
            }
            Event::Failed(_) => {}
        }
        news
    }

    /// The log-probabilities of what is new.
    pub(super) fn logprobs(&mut self, form: &Form, news: &News) -> Value {
        if !form.logprobs {
            return Value::Null;
        }
        if form.chat {
            return logprobs::of_chat(&news.tokens);
        }
        let moved = |token: &TextToken| TextToken { start: token.start + self.before, ..token.clone() };
        let tokens: Vec<TextToken> = news.prompt.iter().cloned().chain(news.tokens.iter().map(moved)).collect();
        logprobs::of_completion(&tokens, &self.text, &mut self.offsets)
    }
}
