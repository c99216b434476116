//! An answer in pieces, as they are sent one by one.

use std::collections::VecDeque;

use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use super::choice::{Choice, Form};
use crate::{desk::Event, error::ApiError};

/// What is sent after the last piece.
const DONE: &str = "[DONE]";

/// The pieces of an answer.
pub(crate) struct Chunks {
    form: Form,
    choices: Vec<Choice>,
    events: UnboundedReceiver<(usize, Event)>,
    ready: VecDeque<String>,
    ended: bool,
}

impl Chunks {
    /// Waits for the first event, so that a request that cannot be answered gets a status that says so.
    ///
    /// # Errors
    /// If the first thing heard is a failure.
    pub(crate) async fn begin(form: Form, events: UnboundedReceiver<(usize, Event)>) -> Result<Self, ApiError> {
        let choices = form.choices();
        let mut chunks = Self { form, choices, events, ready: VecDeque::new(), ended: false };
        let first = chunks.events.recv().await;
        if let Some((_, Event::Failed(error))) = first {
            return Err(error);
        }
        if chunks.form.chat {
            for index in 0..chunks.choices.len() {
                let delta = json!({"role": "assistant", "content": "", "refusal": null});
                chunks.push(json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": null}));
            }
        }
        chunks.take(first);
        Ok(chunks)
    }

    /// The next piece.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            if self.ended {
                return None;
            }
            let event = self.events.recv().await;
            self.take(event);
        }
    }

    /// Makes pieces of an event.
    fn take(&mut self, event: Option<(usize, Event)>) {
        let (at, event) = match event {
            None => (0, Event::Failed(ApiError::internal("the engine has ended"))),
            Some(event) => event,
        };
        if let Event::Failed(error) = event {
            self.ready.push_back(error.body().to_string());
            self.ended = true;
            return;
        }
        let choice = &mut self.choices[at];
        let news = choice.take(event);
        let (logprobs, finish) = (choice.logprobs(&self.form, &news), choice.finish);
        let told = logprobs_of_nothing(&logprobs);
        let piece = |text: &str, logprobs: &Value, finish: Option<&str>| match self.form.chat {
            true => {
                let delta = if text.is_empty() { json!({}) } else { json!({"content": text}) };
                json!({"index": at, "delta": delta, "logprobs": logprobs, "finish_reason": finish})
            }
            false => json!({"text": text, "index": at, "logprobs": logprobs, "finish_reason": finish}),
        };
        let mut pieces = vec![];
        if !news.text.is_empty() || !told {
            pieces.push(piece(&news.text, &logprobs, None));
        }
        if finish.is_some() {
            pieces.push(piece("", &Value::Null, finish));
        }
        pieces.into_iter().for_each(|piece| self.push(piece));
        if self.choices.iter().all(|choice| choice.finish.is_some()) {
            if self.form.include_usage {
                let mut last = self.form.frame(self.object(), vec![]);
                last["usage"] = self.form.usage(&self.choices);
                self.ready.push_back(last.to_string());
            }
            self.ready.push_back(DONE.to_owned());
            self.ended = true;
        }
    }

    fn object(&self) -> &'static str {
        if self.form.chat { "chat.completion.chunk" } else { "text_completion" }
    }

    fn push(&mut self, choice: Value) {
        let mut chunk = self.form.frame(self.object(), vec![choice]);
        if self.form.include_usage {
            chunk["usage"] = Value::Null;
        }
        self.ready.push_back(chunk.to_string());
    }
}

/// Whether log-probabilities are of no token.
fn logprobs_of_nothing(logprobs: &Value) -> bool {
    let list = logprobs.get("content").or_else(|| logprobs.get("tokens")).and_then(Value::as_array);
    list.is_none_or(Vec::is_empty)
}
