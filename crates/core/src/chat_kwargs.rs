//! Variables that a user gives a chat template.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::canonical_json;

/// Names that a template gets from elsewhere, or that transformers' `apply_chat_template` takes for itself.
const RESERVED: [&str; 27] = [
    "messages",
    "conversation",
    "tools",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
    "tokenizer_kwargs",
    "sanitize_control_tokens",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "return_assistant_tokens_mask",
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
    "additional_special_tokens",
    "raise_exception",
    "strftime_now",
    "namespace",
    "range",
];

/// Variables for a chat template besides the messages, such as `enable_thinking`, with their JSON types.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct ChatKwargs(Map<String, Value>);

impl ChatKwargs {
    /// Variables from what is written on a command line: each a JSON object or `name=value`, where a value that is no
    /// JSON is text. Of two values of one name the later counts.
    ///
    /// # Errors
    /// What was found and what was expected.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, String> {
        let mut all = Map::new();
        for text in texts {
            let text = text.as_ref().trim();
            if text.starts_with('{') {
                let object: Map<String, Value> =
                    serde_json::from_str(text).map_err(|error| format!("{text}: {error}; expected a JSON object"))?;
                all.extend(object);
                continue;
            }
            let Some((name, value)) = text.split_once('=') else {
                return Err(format!("{text:?}: expected a JSON object or NAME=VALUE"));
            };
            let value = value.trim();
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
            all.insert(name.trim().to_owned(), value);
        }
        all.try_into()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The variables by name.
    pub fn variables(&self) -> &Map<String, Value> {
        &self.0
    }

    /// These, with those of `over` instead where both name one.
    #[must_use]
    pub fn with(mut self, over: &Self) -> Self {
        self.0.extend(over.0.clone());
        self
    }
}

impl TryFrom<Map<String, Value>> for ChatKwargs {
    type Error = String;

    fn try_from(variables: Map<String, Value>) -> Result<Self, String> {
        for (name, value) in &variables {
            if RESERVED.contains(&name.as_str()) {
                return Err(format!("every chat template already receives {name}; it cannot be set"));
            }
            if name.is_empty()
                || !name.chars().all(|c| c.is_alphanumeric() || c == '_')
                || name.starts_with(|c: char| c.is_numeric())
            {
                return Err(format!("{name:?} is not a variable name; expected letters, digits and _"));
            }
            if value.get("$__toml_private_datetime").is_some() {
                return Err(format!("{name} is a date, which JSON does not have; write it as text"));
            }
        }
        Ok(Self(variables))
    }
}

impl From<ChatKwargs> for Map<String, Value> {
    fn from(kwargs: ChatKwargs) -> Self {
        kwargs.0
    }
}

/// Canonical JSON.
impl fmt::Display for ChatKwargs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&canonical_json(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_keep_their_types() {
        let kwargs = ChatKwargs::parse(&[
            r#"{"enable_thinking": false, "effort": 3, "tags": ["a", 1]}"#,
            "effort=4",
            "style = brief",
            "thinking=true",
            "none=null",
        ]);
        let expected = json!({"enable_thinking": false, "effort": 4, "tags": ["a", 1], "style": "brief",
                              "thinking": true, "none": null});
        assert_eq!(serde_json::to_value(kwargs.unwrap()).unwrap(), expected);
        assert!(ChatKwargs::parse::<&str>(&[]).unwrap().is_empty());
    }

    #[test]
    fn what_a_template_has_already_is_refused() {
        for (text, says) in [
            ("messages=[]", "already receives messages"),
            (r#"{"bos_token": "<s>"}"#, "already receives bos_token"),
            ("enable_thinking", "NAME=VALUE"),
            ("{enable_thinking: false}", "expected a JSON object"),
            ("a b=1", "not a variable name"),
        ] {
            let error = ChatKwargs::parse(&[text]).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        let error = serde_json::from_value::<ChatKwargs>(json!({"tools": []})).unwrap_err().to_string();
        assert!(error.contains("tools"), "{error}");
    }
}
