//! The key of an endpoint.

use std::fmt;

use serde_json::Value;

/// Variable that holds the key unless another is named.
pub(crate) const DEFAULT_VARIABLE: &str = "OPENAI_API_KEY";

/// What stands in the place of a key.
const REDACTED: &str = "[key]";

/// Fewest bytes of a secret. Shorter keys (`EMPTY`, `none`) are placeholders, and words that an answer may hold: of an
/// answer they are taken out only where it repeats the header.
const SECRET: usize = 8;

/// A key that shows itself in no output.
#[derive(Clone)]
pub(crate) struct ApiKey(String);

impl ApiKey {
    /// The key in an environment variable; `None` if that is not set or blank.
    pub(crate) fn from_env(variable: &str) -> Option<Self> {
        let text = std::env::var(variable).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// The value of the header `Authorization`; `None` if the key cannot stand in a header.
    pub(crate) fn header(&self) -> Option<reqwest::header::HeaderValue> {
        let mut value = reqwest::header::HeaderValue::from_str(&format!("Bearer {}", self.0)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// A message without the key, should a server repeat it.
    pub(crate) fn scrub(&self, text: &str) -> String {
        text.replace(&self.0, REDACTED)
    }

    /// A part of an answer without the key.
    fn scrub_answer(&self, text: &str) -> String {
        if self.0.len() >= SECRET {
            return self.scrub(text);
        }
        // As much of the header as tells that this is the key and not a word.
        ["Bearer", "bearer", "BEARER"].iter().fold(text.to_owned(), |text, scheme| {
            text.replace(&format!("{scheme} {}", self.0), &format!("{scheme} {REDACTED}"))
        })
    }

    /// JSON without the key: in no string, no name of a field, and not in pieces in the tokens of a list.
    pub(crate) fn scrub_json(&self, value: &mut Value) {
        match value {
            Value::String(text) if text.contains(&self.0) => *text = self.scrub_answer(text),
            Value::Array(items) => {
                self.scrub_tokens(items);
                items.iter_mut().for_each(|item| self.scrub_json(item));
            }
            Value::Object(fields) => {
                if fields.keys().any(|name| name.contains(&self.0)) {
                    *fields =
                        std::mem::take(fields).into_iter().map(|(name, v)| (self.scrub_answer(&name), v)).collect();
                }
                fields.values_mut().for_each(|field| self.scrub_json(field));
            }
            _ => {}
        }
    }

    /// Takes the tokens out that together write the key, with what was likely in their places.
    fn scrub_tokens(&self, items: &mut [Value]) {
        let token = |item: &Value| item.as_str().or_else(|| item.get("token")?.as_str()).map(str::to_owned);
        let Some(tokens) = items.iter().map(token).collect::<Option<Vec<String>>>() else { return };
        if tokens.len() < 2 || self.0.len() < SECRET {
            return;
        }
        let whole = tokens.concat();
        let found: Vec<usize> = whole.match_indices(&self.0).map(|(at, _)| at).collect();
        let mut start = 0;
        for (item, token) in items.iter_mut().zip(&tokens) {
            let end = start + token.len();
            if found.iter().any(|&at| at < end && start < at + self.0.len()) {
                blank(item);
            }
            start = end;
        }
    }
}

/// Puts [`REDACTED`] in the place of every text of a token, and nothing in that of its bytes.
fn blank(token: &mut Value) {
    match token {
        Value::String(text) => *text = REDACTED.to_owned(),
        Value::Object(fields) => {
            fields.remove("bytes");
            for (name, field) in fields {
                match field {
                    Value::Array(likely) if name == "top_logprobs" => likely.iter_mut().for_each(blank),
                    Value::String(text) if name == "token" => *text = REDACTED.to_owned(),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scrubbed(key: &str, mut value: Value) -> Value {
        ApiKey(key.to_owned()).scrub_json(&mut value);
        value
    }

    #[test]
    fn a_key_is_taken_out_of_every_string() {
        let key = "sk-5ecret/9";
        let body = json!({"a": [1, format!("x {key}, {key}!"), {key: {"b": key}}], "n": null, "c": "sk-5ecret"});
        let expected = json!({"a": [1, "x [key], [key]!", {"[key]": {"b": "[key]"}}], "n": null, "c": "sk-5ecret"});
        assert_eq!(scrubbed(key, body), expected);
    }

    #[test]
    fn a_key_is_taken_out_of_the_tokens_that_write_it() {
        let key = "sk-5ecret9";
        assert_eq!(
            scrubbed(key, json!(["is", " sk", "-5e", "cret", "9", "."])),
            json!(["is", "[key]", "[key]", "[key]", "[key]", "."])
        );
        let token =
            |text: &str| json!({"token": text, "logprob": -0.5, "bytes": [1], "top_logprobs": [{"token": text}]});
        let found = scrubbed(key, json!({"content": [token("a"), token("sk-5"), token("ecret9")]}));
        assert_eq!(found["content"][0], token("a"));
        let blank = json!({"token": "[key]", "logprob": -0.5, "top_logprobs": [{"token": "[key]"}]});
        assert_eq!((&found["content"][1], &found["content"][2]), (&blank, &blank));
    }

    #[test]
    fn a_placeholder_is_no_secret() {
        let body = json!(["none of them", "sent Bearer none", "no", "ne"]);
        assert_eq!(scrubbed("none", body), json!(["none of them", "sent Bearer [key]", "no", "ne"]));
        let key = ApiKey("EMPTY".to_owned());
        assert_eq!(key.scrub_answer("authorization: bearer EMPTY; EMPTY"), "authorization: bearer [key]; EMPTY");
        assert_eq!(key.scrub("bad key EMPTY"), "bad key [key]");
    }
}
