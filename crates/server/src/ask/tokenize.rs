//! Requests to `/tokenize`.

use harness_core::ChatMessage;

use super::{chat::messages, fields::Fields};
use crate::error::ApiError;

/// What is tokenised.
pub(crate) enum Tokenize {
    /// A text, with or without the special tokens that a prompt gets.
    Text { text: String, special: bool },
    /// A chat, through the model's template.
    Chat { messages: Vec<ChatMessage>, opens_answer: bool },
}

impl Tokenize {
    /// Reads a request in vLLM's or llama.cpp's names, with the model's name.
    ///
    /// # Errors
    /// If a parameter is wrong or not known.
    pub(crate) fn read(body: &[u8]) -> Result<(String, Self), ApiError> {
        let mut fields = Fields::parse(body)?;
        let model = fields.text("model")?.ok_or_else(|| ApiError::parameter("model", "model: expected a name"))?;
        let (prompt, content) = (fields.text("prompt")?, fields.text("content")?);
        let mut special = true;
        for name in ["add_special_tokens", "add_special"] {
            if let Some(value) = fields.take(name) {
                special = value.as_bool().ok_or_else(|| super::fields::wrong(name, &value, "true or false"))?;
            }
        }
        let asked = match (prompt.or(content), fields.take("add_generation_prompt")) {
            (Some(text), None) => Self::Text { text, special },
            (Some(_), Some(_)) => {
                return Err(ApiError::parameter("add_generation_prompt", "add_generation_prompt needs messages"));
            }
            (None, opens) => {
                let opens_answer = opens.is_none_or(|value| value.as_bool() != Some(false));
                Self::Chat { messages: messages(&mut fields)?, opens_answer }
            }
        };
        fields.finish()?;
        Ok((model, asked))
    }
}
