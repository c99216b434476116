//! Log-probabilities of tokens in OpenAI's two forms.
//!
//! They are written with all digits, so that sums over them are the same numbers here and there.

use harness_core::TopLogprob;
use harness_engine::TextToken;
use serde_json::{Map, Value, json};

/// From bytes of a text to its characters, ahead only.
#[derive(Debug, Default)]
pub(super) struct Offsets {
    bytes: usize,
    characters: usize,
}

impl Offsets {
    /// The character at a byte of a text of which at least so much is known.
    fn at(&mut self, text: &str, byte: usize) -> usize {
        if let Some(between) = text.get(self.bytes..byte) {
            self.characters += between.chars().count();
            self.bytes = byte;
        }
        self.characters
    }
}

fn number(logprob: f32) -> Value {
    json!(f64::from(logprob))
}

/// The form of completions; the tokens begin in `text`.
pub(super) fn of_completion(tokens: &[TextToken], text: &str, offsets: &mut Offsets) -> Value {
    let top = |token: &TextToken| match token.logprob {
        None => Value::Null,
        Some(own) => {
            let mut map: Map<String, Value> =
                token.top.iter().map(|top| (top.token.clone(), number(top.logprob))).collect();
            map.entry(token.token.clone()).or_insert_with(|| number(own));
            Value::Object(map)
        }
    };
    let starts: Vec<usize> = tokens.iter().map(|token| offsets.at(text, token.start)).collect();
    json!({
        "tokens": tokens.iter().map(|token| token.token.as_str()).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| token.logprob.map(f64::from)).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
        "text_offset": starts,
    })
}

/// The form of chats.
pub(super) fn of_chat(tokens: &[TextToken]) -> Value {
    let top = |TopLogprob { token, logprob }: &TopLogprob| json!({"token": token, "logprob": number(*logprob), "bytes": token.as_bytes()});
    let content = tokens.iter().map(|token| {
        json!({
            "token": token.token, "logprob": token.logprob.map(f64::from), "bytes": token.token.as_bytes(),
            "top_logprobs": token.top.iter().map(top).collect::<Vec<_>>(),
        })
    });
    json!({"content": content.collect::<Vec<_>>(), "refusal": null})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_count_characters() {
        let token = |token: &str, start, logprob: Option<f32>| {
            let top = vec![TopLogprob { token: "é".to_owned(), logprob: -0.5 }];
            TextToken { token: token.to_owned(), id: 1, start, logprob, top }
        };
        let tokens = [token("é", 0, None), token("b", 2, Some(-1.25)), token("é", 3, Some(-0.1))];
        let mut offsets = Offsets::default();
        let found = of_completion(&tokens, "ébé", &mut offsets);
        assert_eq!(found["text_offset"], json!([0, 1, 2]));
        assert_eq!(found["top_logprobs"], json!([null, {"é": -0.5, "b": -1.25}, {"é": -0.5}]));
        assert_eq!(found["token_logprobs"][2], json!(f64::from(-0.1f32)), "all digits of the f32");
        let later = of_completion(&[token("c", 5, Some(-1.0))], "ébéc", &mut offsets);
        assert_eq!(later["text_offset"], json!([3]), "after what was told before");
    }
}
