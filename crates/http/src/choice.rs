//! What an answer says: its text, the reasoning beside it, and why it ended.

use std::fmt;

use harness_core::Finish;
use serde_json::Value;

use crate::Api;

/// Why an answer cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// The server may do better next time.
    Again(String),
    /// The same would come again.
    Never(String),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Again(reason) | Self::Never(reason)) = self;
        f.write_str(reason)
    }
}

impl From<String> for Unreadable {
    fn from(reason: String) -> Self {
        Self::Again(reason)
    }
}

impl From<&str> for Unreadable {
    fn from(reason: &str) -> Self {
        Self::Again(reason.to_owned())
    }
}

/// What one choice says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) text: String,
    pub(crate) reasoning: String,
    pub(crate) finish: Finish,
}

impl Said {
    fn nothing(finish: Finish) -> Self {
        Self { text: String::new(), reasoning: String::new(), finish }
    }
}

/// The choice of an answer: the one of index 0, or the first where none says that it is. `None` where the list is empty,
/// or null, as some servers write it where a filter left nothing.
///
/// # Errors
/// If there is no list.
pub(crate) fn choice(body: &Value) -> Result<Option<&Value>, Unreadable> {
    let choices = match body.get("choices") {
        Some(Value::Array(choices)) => choices.as_slice(),
        Some(Value::Null) => &[],
        _ => return Err("an answer without choices".into()),
    };
    let first = choices.iter().find(|choice| choice.get("index").and_then(Value::as_u64) == Some(0));
    Ok(first.or(choices.first()))
}

/// What an answer says. A text that is null, filtered or refused is an answer too: [`Said::finish`] tells it apart.
///
/// # Errors
/// If there is no choice in the form of the API.
pub(crate) fn said(api: Api, body: &Value) -> Result<Said, Unreadable> {
    let Some(choice) = choice(body)? else { return Ok(Said::nothing(Finish::NoChoice)) };
    if let Some(error) = choice.get("error").filter(|error| !error.is_null()) {
        return Err(format!("an error in place of an answer: {error}").into());
    }
    let finish = finish(choice.get("finish_reason").and_then(Value::as_str))?;
    let (message, key) = match api {
        Api::Completions => (choice, "text"),
        Api::Chat => match choice.get("message").filter(|message| !message.is_null()) {
            Some(message) => (message, "content"),
            None if finish == Finish::ContentFilter => return Ok(Said::nothing(finish)),
            None => return Err("a choice without a message".into()),
        },
    };
    let mut parts = Parts::of(message.get(key))?;
    for key in ["reasoning_content", "reasoning"] {
        if let (true, Some(thought)) = (parts.reasoning.is_empty(), message.get(key).and_then(Value::as_str)) {
            parts.reasoning = thought.to_owned();
        }
    }
    let told = message.get("refusal").and_then(Value::as_str).filter(|refusal| !refusal.is_empty());
    let refusal = told.map(str::to_owned).or(parts.refusal);
    let calls = |key: &str| match message.get(key) {
        Some(Value::Array(calls)) => !calls.is_empty(),
        Some(call) => !call.is_null(),
        None => false,
    };
    let called = finish == Finish::ToolCall || calls("tool_calls") || calls("function_call");
    let reasoning = parts.reasoning;
    Ok(match (parts.text, refusal) {
        // A call beside a text leaves the text what it is.
        (Some(text), _) if !text.is_empty() => {
            Said { text, reasoning, finish: if finish == Finish::ToolCall { Finish::EndOfSequence } else { finish } }
        }
        (_, Some(text)) => Said { text, reasoning, finish: Finish::Refusal },
        (_, None) if called => Said { finish: Finish::ToolCall, reasoning, ..Said::nothing(finish) },
        (Some(text), None) => Said { text, reasoning, finish },
        (None, None) if finish == Finish::EndOfSequence && reasoning.is_empty() => {
            // What was left out says nothing; what is null says that there is nothing.
            if message.get(key).is_none() {
                return Err("a choice without text".into());
            }
            Said::nothing(Finish::NoContent)
        }
        (None, None) => Said { reasoning, ..Said::nothing(finish) },
    })
}

/// Why a generation ended, in the words of several servers.
fn finish(reason: Option<&str>) -> Result<Finish, Unreadable> {
    let Some(reason) = reason else { return Ok(Finish::EndOfSequence) };
    let lower = reason.to_lowercase();
    Ok(match lower.as_str() {
        "" | "stop" | "eos" | "eos_token" | "end_turn" | "stop_sequence" | "complete" | "completed" => {
            Finish::EndOfSequence
        }
        "length" | "max_tokens" | "model_length" | "max_length" | "max_output_tokens" => Finish::Length,
        "safety" | "recitation" | "blocklist" | "prohibited_content" | "spii" | "sensitive" => Finish::ContentFilter,
        "refusal" => Finish::Refusal,
        "tool_calls" | "tool_use" | "function_call" => Finish::ToolCall,
        // The server broke off, so that another attempt may go through.
        "error" | "abort" | "aborted" | "cancelled" | "insufficient_system_resource" | "network_error" => {
            return Err(format!("an answer that broke off (finish_reason {reason:?})").into());
        }
        _ if lower.starts_with("content_filter") || lower.starts_with("content-filter") => Finish::ContentFilter,
        _ => Finish::Unknown,
    })
}

/// Content in its parts.
#[derive(Default)]
struct Parts {
    /// The texts joined; `None` where there is none.
    text: Option<String>,
    reasoning: String,
    refusal: Option<String>,
}

impl Parts {
    fn of(content: Option<&Value>) -> Result<Self, Unreadable> {
        let mut parts = Self::default();
        match content {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => parts.text = Some(text.clone()),
            Some(Value::Array(list)) => list.iter().for_each(|part| parts.add(part)),
            Some(part @ Value::Object(_)) => parts.add(part),
            Some(other) => {
                return Err(Unreadable::Never(format!(
                    "its content is {other}; expected a text, null or a list of parts"
                )));
            }
        }
        Ok(parts)
    }

    fn add(&mut self, part: &Value) {
        let text = |keys: &[&str]| keys.iter().find_map(|key| words(part.get(key)?));
        match part.get("type").and_then(Value::as_str) {
            None | Some("text" | "output_text") => {
                if let Some(text) = words(part).or_else(|| text(&["text"])) {
                    self.text.get_or_insert_default().push_str(&text);
                }
            }
            Some("refusal") => self.refusal = text(&["refusal", "text"]).or(self.refusal.take()),
            Some("thinking" | "reasoning" | "reasoning_text" | "redacted_thinking") => {
                self.reasoning.push_str(&text(&["thinking", "reasoning", "text", "content"]).unwrap_or_default());
            }
            // Pictures and the like are no words.
            Some(_) => {}
        }
    }
}

/// The words of a part's value: a text, an object around one, or a list of parts.
fn words(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(object) if !object.contains_key("type") => words(object.get("value")?),
        Value::Array(list) => Some(
            list.iter()
                .filter_map(|part| words(part).or_else(|| words(part.get("text")?)))
                .collect::<Vec<_>>()
                .concat(),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chat(message: Value, reason: &str) -> Said {
        said(Api::Chat, &json!({"choices": [{"message": message, "finish_reason": reason}]})).unwrap()
    }

    fn is(text: &str, reasoning: &str, finish: Finish) -> Said {
        Said { text: text.into(), reasoning: reasoning.into(), finish }
    }

    #[test]
    fn parts_are_joined_and_thinking_is_set_aside() {
        let parts = json!([{"type": "thinking", "thinking": [{"type": "text", "text": "hmm"}]}, {"type": "text", "text": "a"},
            {"type": "image_url", "image_url": {"url": "x"}}, {"type": "output_text", "text": {"value": "b"}}, "c"]);
        assert_eq!(chat(json!({"content": parts}), "stop"), is("abc", "hmm", Finish::EndOfSequence));
        assert_eq!(chat(json!({"content": {"type": "text", "text": "a"}}), "stop"), is("a", "", Finish::EndOfSequence));
        let only = json!([{"type": "reasoning", "text": "hmm"}]);
        assert_eq!(chat(json!({"content": only}), "length"), is("", "hmm", Finish::Length));
        assert_eq!(chat(json!({"content": []}), "stop").finish, Finish::NoContent);
        let refused = json!([{"type": "refusal", "refusal": "No."}]);
        assert_eq!(chat(json!({"content": refused}), "stop"), is("No.", "", Finish::Refusal));
        let number = json!({"choices": [{"message": {"content": 18}}]});
        assert!(
            matches!(said(Api::Chat, &number), Err(Unreadable::Never(reason)) if reason.contains("its content is 18"))
        );
    }

    #[test]
    fn what_is_no_answer_is_told_apart() {
        assert_eq!(chat(json!({"content": null}), "stop").finish, Finish::NoContent);
        assert_eq!(chat(json!({"content": ""}), "stop").finish, Finish::EndOfSequence);
        assert_eq!(chat(json!({"content": ""}), "content_filter").finish, Finish::ContentFilter);
        assert_eq!(chat(json!({"content": "Half of"}), "content_filter: SAFETY").finish, Finish::ContentFilter);
        assert_eq!(chat(json!({"content": null, "refusal": "No."}), "stop"), is("No.", "", Finish::Refusal));
        let thought = json!({"content": null, "reasoning_content": "hmm"});
        assert_eq!(chat(thought, "length"), is("", "hmm", Finish::Length));
        let thought = json!({"content": null, "reasoning": "hmm", "reasoning_content": null});
        assert_eq!(chat(thought, "stop"), is("", "hmm", Finish::EndOfSequence));
        let called = json!({"content": null, "tool_calls": [{"id": "x"}]});
        assert_eq!(chat(called.clone(), "tool_calls").finish, Finish::ToolCall);
        assert_eq!(chat(called, "stop").finish, Finish::ToolCall);
        assert_eq!(chat(json!({"content": "18", "tool_calls": []}), "tool_calls").finish, Finish::EndOfSequence);
        assert_eq!(chat(json!({"content": "18"}), "MAX_TOKENS").finish, Finish::Length);
        assert_eq!(chat(json!({"content": "18"}), "galaxy").finish, Finish::Unknown);
        for none in [json!({"choices": []}), json!({"choices": null})] {
            assert_eq!(said(Api::Chat, &none), Ok(is("", "", Finish::NoChoice)));
        }
        let filtered = json!({"choices": [{"index": 0, "finish_reason": "content_filter"}]});
        assert_eq!(said(Api::Chat, &filtered), Ok(is("", "", Finish::ContentFilter)));
        let text = json!({"choices": [{"text": null}]});
        assert_eq!(said(Api::Completions, &text), Ok(is("", "", Finish::NoContent)));
    }

    #[test]
    fn of_several_choices_the_first_counts() {
        let choice = |index: usize, text: &str| json!({"index": index, "message": {"content": text}});
        let body = json!({"choices": [choice(1, "b"), choice(0, "a")]});
        assert_eq!(said(Api::Chat, &body).unwrap().text, "a");
    }

    #[test]
    fn what_may_be_better_next_time_is_asked_again() {
        for (body, says) in [
            (json!({}), "without choices"),
            (json!({"choices": [{}]}), "without a message"),
            (json!({"choices": [{"message": {}}]}), "without text"),
            (json!({"choices": [{"message": {"content": "1"}, "finish_reason": "error"}]}), "broke off"),
            (json!({"choices": [{"error": {"code": 502}}]}), "502"),
        ] {
            let found = said(Api::Chat, &body);
            assert!(matches!(&found, Err(Unreadable::Again(reason)) if reason.contains(says)), "{found:?}");
        }
    }
}
