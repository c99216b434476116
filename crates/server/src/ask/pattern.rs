//! Formats that the whole text must have, as regular expressions.

use serde_json::Value;

use super::{
    fields::{Fields, wrong},
    schema,
};
use crate::error::ApiError;

/// Takes `response_format`, vLLM's `structured_outputs` and its older `guided_regex`, `guided_choice` and `guided_json`.
///
/// # Errors
/// If a format is not supported, or there is more than one.
pub(super) fn take(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let mut found: Vec<(&'static str, String)> = vec![];
    if let Some(format) = fields.take("response_format") {
        found.extend(response_format(format)?.map(|pattern| ("response_format", pattern)));
    }
    if let Some(outputs) = fields.take("structured_outputs") {
        let Value::Object(outputs) = outputs else { return Err(wrong("structured_outputs", &outputs, "an object")) };
        let mut outputs = Fields::from(outputs);
        for kind in ["regex", "choice", "json"] {
            if let Some(value) = outputs.take(kind) {
                found.push(("structured_outputs", structured(kind, value)?));
            }
        }
        outputs.finish()?;
    }
    for (name, kind) in [("guided_regex", "regex"), ("guided_choice", "choice"), ("guided_json", "json")] {
        if let Some(value) = fields.take(name) {
            found.push((name, structured(kind, value)?));
        }
    }
    let mut found = found.into_iter();
    let Some((_, pattern)) = found.next() else { return Ok(None) };
    match found.find(|(_, other)| *other != pattern) {
        Some((name, _)) => {
            Err(ApiError::parameter(name, format!("{name} asks for another format than the one before")))
        }
        None => Ok(Some(pattern)),
    }
}

fn response_format(format: Value) -> Result<Option<String>, ApiError> {
    const NAME: &str = "response_format";
    let Value::Object(format) = format else { return Err(wrong(NAME, &format, "an object")) };
    let mut format = Fields::from(format);
    let pattern = match format.text("type")?.as_deref() {
        Some("text") => None,
        Some("json_object") => Some(schema::any_object()),
        Some("json_schema") => {
            let Some(Value::Object(wrapped)) = format.take("json_schema") else {
                return Err(ApiError::parameter(NAME, "response_format.json_schema: expected an object"));
            };
            let mut wrapped = Fields::from(wrapped);
            wrapped.ignore(&["name", "description", "strict"]);
            let schema = wrapped.take("schema");
            wrapped.finish()?;
            let schema = schema.ok_or_else(|| ApiError::parameter(NAME, "json_schema.schema: expected an object"))?;
            Some(schema::pattern(&schema).map_err(|reason| ApiError::unsupported(NAME, reason))?)
        }
        Some(other) => {
            let message = format!("response_format.type {other:?}: expected text, json_object or json_schema");
            return Err(ApiError::unsupported(NAME, message));
        }
        None => {
            return Err(ApiError::parameter(NAME, "response_format.type: expected text, json_object or json_schema"));
        }
    };
    format.finish()?;
    Ok(pattern)
}

/// The pattern of a kind of vLLM's structured outputs.
fn structured(kind: &str, value: Value) -> Result<String, ApiError> {
    match (kind, value) {
        ("regex", Value::String(pattern)) if !pattern.is_empty() => Ok(pattern),
        ("choice", Value::Array(texts)) if !texts.is_empty() && texts.iter().all(Value::is_string) => {
            let texts = texts.iter().filter_map(Value::as_str).map(schema::escape);
            Ok(texts.collect::<Vec<_>>().join("|"))
        }
        ("json", Value::String(text)) => {
            let schema = serde_json::from_str(&text).map_err(|error| ApiError::parameter(kind, error.to_string()))?;
            schema::pattern(&schema).map_err(|reason| ApiError::unsupported(kind, reason))
        }
        ("json", schema @ Value::Object(_)) => {
            schema::pattern(&schema).map_err(|reason| ApiError::unsupported(kind, reason))
        }
        (kind, value) => {
            let expected = match kind {
                "regex" => "a regular expression",
                "choice" => "a list of texts",
                _ => "a JSON schema",
            };
            Err(wrong(kind, &value, expected))
        }
    }
}
