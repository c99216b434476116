//! Requests to `/v1/chat/completions`.

use harness_core::{ChatMessage, ChatRole};
use serde_json::{Value, json};

use super::{
    choosing::{Choosing, TOP, choosing, streaming},
    fields::{Fields, wrong},
};
use crate::error::ApiError;

/// A request to continue a chat.
#[derive(Debug)]
pub(crate) struct Chat {
    pub(crate) model: String,
    pub(crate) messages: Vec<ChatMessage>,
    /// Whether the last message, an assistant's, is continued instead of answered.
    pub(crate) continues: bool,
    pub(crate) choosing: Choosing,
    /// Most new tokens; `None` = as many as the context has room for.
    pub(crate) max_tokens: Option<usize>,
    /// Likeliest tokens that are told beside every token, where log-probabilities are asked for.
    pub(crate) logprobs: Option<usize>,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
}

impl Chat {
    /// Reads a request.
    ///
    /// # Errors
    /// If a parameter is wrong or not supported.
    pub(crate) fn read(body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(body)?;
        let model = fields.text("model")?.ok_or_else(|| ApiError::parameter("model", "model: expected a name"))?;
        let messages = messages(&mut fields)?;
        let continues = fields.flag("continue_final_message")?;
        fields.neutral("add_generation_prompt", &[json!(!continues)])?;
        if continues && messages.last().is_none_or(|message| message.role != ChatRole::Assistant) {
            let message = "continue_final_message needs a last message of the assistant";
            return Err(ApiError::parameter("continue_final_message", message));
        }
        for (name, neutral) in [
            ("tools", json!([])),
            ("functions", json!([])),
            ("tool_choice", json!("none")),
            ("function_call", json!("none")),
            ("modalities", json!(["text"])),
            ("echo", json!(false)),
        ] {
            fields.neutral(name, &[neutral])?;
        }
        let (old, new) = (fields.whole("max_tokens", 1, TOKENS)?, fields.whole("max_completion_tokens", 1, TOKENS)?);
        if let (Some(old), Some(new)) = (old, new)
            && old != new
        {
            let message = "max_tokens and max_completion_tokens are the same and differ";
            return Err(ApiError::parameter("max_tokens", message));
        }
        let told = fields.flag("logprobs")?;
        let top = fields.whole("top_logprobs", 0, TOP)?;
        if top.is_some() && !told {
            return Err(ApiError::parameter("top_logprobs", "top_logprobs needs logprobs to be true"));
        }
        let choosing = choosing(&mut fields)?;
        let (stream, include_usage) = streaming(&mut fields)?;
        fields.finish()?;
        let logprobs = told.then_some(top.unwrap_or(0) as usize);
        let max_tokens = new.or(old).map(|n| n as usize);
        Ok(Self { model, messages, continues, choosing, max_tokens, logprobs, stream, include_usage })
    }
}

/// Largest number of tokens that a request can name.
pub(super) const TOKENS: i64 = 1 << 30;

/// Takes the messages of a chat.
///
/// # Errors
/// If there is none, or one is no text.
pub(crate) fn messages(fields: &mut Fields) -> Result<Vec<ChatMessage>, ApiError> {
    match fields.take("messages") {
        Some(Value::Array(list)) if !list.is_empty() => list.into_iter().map(message).collect(),
        Some(other) => Err(wrong("messages", &other, "a list of messages")),
        None => Err(ApiError::parameter("messages", "messages: expected a list of messages")),
    }
}

fn message(value: Value) -> Result<ChatMessage, ApiError> {
    const NAME: &str = "messages";
    let Value::Object(map) = value else { return Err(wrong(NAME, &value, "a message with role and content")) };
    let mut fields = Fields::from(map);
    let role = match fields.text("role")?.as_deref() {
        Some("system" | "developer") => ChatRole::System,
        Some("user") => ChatRole::User,
        Some("assistant") => ChatRole::Assistant,
        Some(other) => {
            let message =
                format!("a message of the role {other:?} is not supported: expected system, user or assistant");
            return Err(ApiError::unsupported(NAME, message));
        }
        None => return Err(ApiError::parameter(NAME, "a message without a role")),
    };
    fields.neutral("refusal", &[])?;
    fields.neutral("tool_calls", &[json!([])])?;
    let content = match fields.take("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => parts.into_iter().map(part).collect::<Result<String, _>>()?,
        Some(other) => return Err(wrong(NAME, &other, "a content that is a text or a list of texts")),
        None => return Err(ApiError::parameter(NAME, "a message without content")),
    };
    fields.finish()?;
    Ok(ChatMessage::new(role, content))
}

/// The text of a part of a message.
fn part(value: Value) -> Result<String, ApiError> {
    let kind = value.get("type").and_then(Value::as_str).unwrap_or("text");
    match value.get("text") {
        Some(Value::String(text)) if kind == "text" => Ok(text.clone()),
        _ => Err(ApiError::unsupported(
            "messages",
            format!("a part of the type {kind:?} is not supported: expected a text"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &Value) -> Result<Chat, String> {
        Chat::read(body.to_string().as_bytes()).map_err(|error| error.body()["error"]["message"].to_string())
    }

    #[test]
    fn a_chat_is_read() {
        let chat = read(&json!({"model": "m", "user": "me", "max_completion_tokens": 5, "stop": "x", "seed": -1,
            "logprobs": true, "top_logprobs": 2, "top_k": -1, "top_p": 1, "n": 2, "frequency_penalty": 0.0,
            "stream": true, "stream_options": {"include_usage": true}, "tools": null,
            "messages": [{"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "user", "content": "c"}]}))
        .unwrap();
        let expected = [ChatMessage::new(ChatRole::System, "ab"), ChatMessage::new(ChatRole::User, "c")];
        assert_eq!(chat.messages, expected);
        let Choosing { sampling, stop, n } = chat.choosing;
        assert_eq!((sampling.seed, sampling.top_k, sampling.top_p, sampling.temperature), (u64::MAX, None, None, 1.0));
        assert_eq!((stop, n, chat.max_tokens, chat.logprobs), (vec!["x".to_owned()], 2, Some(5), Some(2)));
        assert!(chat.stream && chat.include_usage && !chat.continues);
    }

    #[test]
    fn what_would_change_the_answer_is_refused_by_name() {
        let ask = json!({"model": "m", "messages": [{"role": "user", "content": "c"}]});
        assert!(read(&ask).is_ok());
        for (name, value) in [
            ("frequency_penalty", json!(0.5)),
            ("logit_bias", json!({"5": 3})),
            ("tools", json!([{"type": "function"}])),
            ("temperature", json!(-1)),
            ("temperature", json!("hot")),
            ("n", json!(0)),
            ("best_of", json!(3)),
            ("top_p", json!(0)),
            ("max_tokens", json!(0)),
            ("top_logprobs", json!(2)),
            ("stream_options", json!({"include_usage": true})),
            ("stop", json!([1])),
            ("response_format", json!({"type": "grammar"})),
            ("reasoning_effort", json!("high")),
            ("messages", json!([{"role": "tool", "content": "x"}])),
            ("messages", json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])),
            ("messages", json!([{"role": "user", "content": "x", "name": "Ann"}])),
            ("messages", json!([])),
            ("continue_final_message", json!(true)),
        ] {
            let mut body = ask.clone();
            body[name] = value;
            let error = Chat::read(body.to_string().as_bytes()).err().map(|error| error.body()).unwrap();
            let told = error["error"]["param"].as_str().unwrap_or_default().to_owned() + &error.to_string();
            let name = if body["messages"][0].get("name").is_some() { "name" } else { name };
            assert!(told.contains(name), "{name}: {error}");
        }
    }
}
