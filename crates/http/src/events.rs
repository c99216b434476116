//! Answers that come in pieces: server-sent events.

use harness_core::Control;
use reqwest::header;
use serde_json::{Value, json};

use crate::{
    HttpError,
    transport::{Failure, LONGEST, Transport},
};

/// Who hears of new text; [`Control::Stop`] ends the exchange.
pub(crate) type Hear<'a> = &'a dyn Fn(&str) -> Control;

impl Transport {
    /// As [`Transport::exchange`], with text handed over as it comes; the result is what the server would have answered in
    /// one piece. A server that does not stream answers so.
    pub(crate) async fn events(&self, path: &str, body: &Value, hear: Hear<'_>) -> Result<Value, Failure> {
        let mut response = self.send(path, Some(body)).await?;
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !response.status().is_success() || !kind.starts_with("text/event-stream") {
            return self.whole(path, response).await;
        }
        let (mut events, mut merged, mut bytes) = (Events::default(), Merged::default(), 0);
        let mut read = async || {
            while let Some(chunk) = response.chunk().await.map_err(|error| self.broken(&error))? {
                bytes += chunk.len();
                if bytes > LONGEST {
                    let reason = format!("an answer of more than {} MiB", LONGEST >> 20);
                    return Err(Failure::Passing { reason, worked: true });
                }
                for data in events.push(&chunk) {
                    if data.trim() == "[DONE]" {
                        return Ok(());
                    }
                    let mut data: Value = serde_json::from_str(&data).map_err(|error| Failure::Passing {
                        reason: format!("a piece of an answer that is not JSON ({error})"),
                        worked: true,
                    })?;
                    self.scrub_json(&mut data);
                    if data.get("error").is_some_and(|error| !error.is_null()) {
                        return Err(self.told(path, &data));
                    }
                    let text = merged.add(&data);
                    if !text.is_empty() && hear(&text) == Control::Stop {
                        return Err(Failure::Final(HttpError::Interrupted { url: self.url(path) }));
                    }
                }
            }
            Ok(())
        };
        let ended = read().await;
        match ended {
            Ok(()) if merged.finish.is_some() => Ok(merged.body()),
            Ok(()) => Err(self.after(&merged, path, "the stream ended before the answer did".to_owned())),
            // What was heard cannot be taken back by another attempt.
            Err(Failure::Passing { reason, .. }) if !merged.text.is_empty() => Err(self.after(&merged, path, reason)),
            Err(failure) => Err(failure),
        }
    }

    /// A stream that broke off.
    fn after(&self, merged: &Merged, path: &str, reason: String) -> Failure {
        match merged.text.is_empty() {
            true => Failure::Passing { reason, worked: true },
            false => Failure::Final(HttpError::Unanswered { url: self.url(path), attempts: 1, last: reason }),
        }
    }
}

/// The data of events, out of bytes as they come.
#[derive(Debug, Default)]
pub(crate) struct Events {
    line: Vec<u8>,
    data: Vec<String>,
}

impl Events {
    /// Takes bytes; the data of the events that they complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut complete = vec![];
        for &byte in bytes {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
            let line = line.trim_end_matches('\r');
            if line.is_empty() {
                let data = std::mem::take(&mut self.data);
                complete.extend((!data.is_empty()).then(|| data.join("\n")));
            } else if let Some(data) = line.strip_prefix("data:") {
                self.data.push(data.strip_prefix(' ').unwrap_or(data).to_owned());
            }
        }
        complete
    }
}

/// Pieces of the first choice put together.
#[derive(Debug, Default)]
struct Merged {
    chat: bool,
    text: String,
    has_text: bool,
    reasoning: String,
    refusal: String,
    finish: Option<Value>,
    usage: Option<Value>,
    calls: Vec<Value>,
}

impl Merged {
    /// Adds a piece; the text that is new with it.
    fn add(&mut self, piece: &Value) -> String {
        if let Some(usage) = piece.get("usage").filter(|usage| !usage.is_null()) {
            self.usage = Some(usage.clone());
        }
        let choices = piece.get("choices").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let first = |choice: &&Value| choice.get("index").and_then(Value::as_u64).unwrap_or(0) == 0;
        let mut new = String::new();
        for choice in choices.iter().filter(first) {
            let (message, key) = match choice.get("delta") {
                Some(delta) => (delta, "content"),
                None => (choice, "text"),
            };
            self.chat |= key == "content";
            let text = |key: &str| message.get(key).and_then(Value::as_str);
            if let Some(text) = text(key) {
                self.has_text = true;
                new.push_str(text);
            }
            self.reasoning.push_str(text("reasoning_content").or(text("reasoning")).unwrap_or_default());
            self.refusal.push_str(text("refusal").unwrap_or_default());
            self.calls.extend(message.get("tool_calls").and_then(Value::as_array).into_iter().flatten().cloned());
            if let Some(finish) = choice.get("finish_reason").filter(|finish| !finish.is_null()) {
                self.finish = Some(finish.clone());
            }
        }
        self.text.push_str(&new);
        new
    }

    /// The answer in one piece.
    fn body(self) -> Value {
        let text = if self.has_text { json!(self.text) } else { Value::Null };
        let mut choice = json!({"index": 0, "finish_reason": self.finish});
        if self.chat {
            let mut message = json!({"role": "assistant", "content": text});
            for (key, value) in [("reasoning_content", self.reasoning), ("refusal", self.refusal)] {
                if !value.is_empty() {
                    message[key] = json!(value);
                }
            }
            if !self.calls.is_empty() {
                message["tool_calls"] = json!(self.calls);
            }
            choice["message"] = message;
        } else {
            choice["text"] = text;
        }
        let mut body = json!({"choices": [choice]});
        if let Some(usage) = self.usage {
            body["usage"] = usage;
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_may_come_in_any_pieces() {
        let stream = b": hello\r\n\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\nevent: x\ndata:b\n\ndata: [DONE]\n\n";
        for size in 1..stream.len() {
            let mut events = Events::default();
            let found: Vec<String> = stream.chunks(size).flat_map(|bytes| events.push(bytes)).collect();
            assert_eq!(found, ["{\"a\":\n1}", "b", "[DONE]"], "{size}");
        }
    }

    #[test]
    fn pieces_make_the_answer() {
        let mut merged = Merged::default();
        let delta =
            |delta: Value, finish: Value| json!({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
        assert_eq!(merged.add(&delta(json!({"role": "assistant", "content": ""}), Value::Null)), "");
        assert_eq!(merged.add(&delta(json!({"reasoning_content": "hm"}), Value::Null)), "");
        assert_eq!(merged.add(&delta(json!({"content": "a"}), Value::Null)), "a");
        assert_eq!(merged.add(&json!({"choices": [{"index": 1, "delta": {"content": "no"}}]})), "");
        assert_eq!(merged.add(&delta(json!({"content": "b"}), json!("stop"))), "b");
        merged.add(&json!({"choices": [], "usage": {"prompt_tokens": 3}}));
        let expected = json!({"choices": [{"index": 0, "finish_reason": "stop", "message":
            {"role": "assistant", "content": "ab", "reasoning_content": "hm"}}], "usage": {"prompt_tokens": 3}});
        assert_eq!(merged.body(), expected);
        let mut merged = Merged::default();
        merged.add(&json!({"choices": [{"text": "x", "finish_reason": "length"}]}));
        let expected = json!({"choices": [{"index": 0, "finish_reason": "length", "text": "x"}]});
        assert_eq!(merged.body(), expected);
    }
}
