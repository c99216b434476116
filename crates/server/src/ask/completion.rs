//! Requests to `/v1/completions`.

use serde_json::{Value, json};

use super::{
    chat::TOKENS,
    choosing::{Choosing, TOP, choosing, streaming},
    fields::{Fields, wrong},
};
use crate::error::ApiError;

/// Most prompts in a request.
const PROMPTS: usize = 2048;
/// New tokens where the request does not say, as OpenAI's servers have it.
const NEW: i64 = 16;

/// A prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PromptInput {
    Text(String),
    Tokens(Vec<u32>),
}

/// A request to continue texts.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) model: String,
    pub(crate) prompts: Vec<PromptInput>,
    pub(crate) choosing: Choosing,
    /// Most new tokens; 0 only with `echo`.
    pub(crate) max_tokens: usize,
    /// Whether the text begins with the prompt.
    pub(crate) echo: bool,
    /// Likeliest tokens that are told beside every token, where log-probabilities are asked for.
    pub(crate) logprobs: Option<usize>,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
}

impl Completion {
    /// Reads a request.
    ///
    /// # Errors
    /// If a parameter is wrong or not supported.
    pub(crate) fn read(body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(body)?;
        let model = fields.text("model")?.ok_or_else(|| ApiError::parameter("model", "model: expected a name"))?;
        let prompts = match fields.take("prompt") {
            Some(value) => prompts(&value).ok_or_else(|| wrong("prompt", &value, FORMS))?,
            None => return Err(ApiError::parameter("prompt", format!("prompt: expected {FORMS}"))),
        };
        fields.neutral("suffix", &[json!("")])?;
        let echo = fields.flag("echo")?;
        let max_tokens = fields.whole("max_tokens", i64::from(!echo), TOKENS)?.unwrap_or(NEW);
        let logprobs = fields.whole("logprobs", 0, TOP)?.map(|k| k as usize);
        let choosing = choosing(&mut fields)?;
        let (stream, include_usage) = streaming(&mut fields)?;
        fields.finish()?;
        if max_tokens == 0 && choosing.sampling.pattern.is_some() {
            return Err(ApiError::parameter("max_tokens", "max_tokens 0: a pattern needs new tokens"));
        }
        let max_tokens = max_tokens as usize;
        Ok(Self { model, prompts, choosing, max_tokens, echo, logprobs, stream, include_usage })
    }
}

const FORMS: &str = "a text, a list of token ids, or a list of up to 2048 of either";

fn prompts(value: &Value) -> Option<Vec<PromptInput>> {
    match value {
        Value::String(text) => Some(vec![PromptInput::Text(text.clone())]),
        Value::Array(list) if list.is_empty() => None,
        Value::Array(list) if list.iter().all(Value::is_number) => Some(vec![tokens(list)?]),
        Value::Array(list) if list.len() <= PROMPTS => list
            .iter()
            .map(|prompt| match prompt {
                Value::String(text) => Some(PromptInput::Text(text.clone())),
                Value::Array(ids) if !ids.is_empty() => tokens(ids),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

fn tokens(list: &[Value]) -> Option<PromptInput> {
    let ids = list.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()));
    ids.collect::<Option<_>>().map(PromptInput::Tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &Value) -> Result<Completion, String> {
        Completion::read(body.to_string().as_bytes()).map_err(|error| error.body().to_string())
    }

    #[test]
    fn prompts_have_four_forms() {
        let text = |text: &str| PromptInput::Text(text.to_owned());
        for (prompt, expected) in [
            (json!("a"), vec![text("a")]),
            (json!(["a", "b"]), vec![text("a"), text("b")]),
            (json!([1, 2]), vec![PromptInput::Tokens(vec![1, 2])]),
            (json!([[1], [2, 3]]), vec![PromptInput::Tokens(vec![1]), PromptInput::Tokens(vec![2, 3])]),
        ] {
            let completion = read(&json!({"model": "m", "prompt": prompt})).unwrap();
            assert_eq!((completion.prompts, completion.max_tokens), (expected, 16));
        }
        for prompt in [json!([]), json!([-1]), json!([1.5]), json!([[]]), json!({}), json!(null), json!([true])] {
            assert!(read(&json!({"model": "m", "prompt": prompt})).unwrap_err().contains("prompt"));
        }
    }

    #[test]
    fn nothing_new_is_asked_for_with_echo_alone() {
        let ask = |echo| json!({"model": "m", "prompt": "a", "max_tokens": 0, "echo": echo, "logprobs": 1});
        assert_eq!(read(&ask(true)).unwrap().max_tokens, 0);
        assert!(read(&ask(false)).unwrap_err().contains("max_tokens"));
        let other = json!({"model": "m", "prompt": "a", "max_completion_tokens": 3});
        assert!(read(&other).unwrap_err().contains("max_completion_tokens"));
    }

    #[test]
    fn patterns_come_by_several_names() {
        let ask = |format: &Value| {
            let mut body = json!({"model": "m", "prompt": "a"});
            body.as_object_mut().unwrap().extend(format.as_object().unwrap().clone());
            read(&body).map(|completion| completion.choosing.sampling.pattern)
        };
        let is = |format: Value, pattern: &str| assert_eq!(ask(&format).unwrap().as_deref(), Some(pattern), "{format}");
        is(json!({"guided_regex": "[ab]+"}), "[ab]+");
        is(json!({"guided_regex": "[ab]+", "structured_outputs": {"regex": "[ab]+"}}), "[ab]+");
        is(json!({"structured_outputs": {"choice": ["a.b", "c"]}}), "a\\.b|c");
        is(json!({"guided_json": {"const": 3}}), "3");
        let schema = json!({"name": "x", "strict": true, "schema": {"type": "boolean"}});
        is(json!({"response_format": {"type": "json_schema", "json_schema": schema}}), "(?:true|false)");
        assert_eq!(ask(&json!({"response_format": {"type": "text"}})), Ok(None));
        for (format, name) in [
            (json!({"guided_regex": "a", "guided_choice": ["b"]}), "another format"),
            (json!({"guided_regex": "a", "stop": "x"}), "stop"),
            (json!({"structured_outputs": {"grammar": "x"}}), "grammar"),
            (json!({"guided_json": {"not": {}}}), "not"),
        ] {
            assert!(ask(&format).unwrap_err().contains(name), "{format}");
        }
    }
}
