//! Requests to `/tokenize` and `/detokenize`.

use harness_core::ChatMessage;
use serde_json::Value;

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
    /// Reads a request in vLLM's or llama.cpp's names, with the model's name where it names one.
    ///
    /// # Errors
    /// If a parameter is wrong or not known.
    pub(crate) fn read(body: &[u8]) -> Result<(Option<String>, Self), ApiError> {
        let mut fields = Fields::parse(body)?;
        let model = fields.text("model")?;
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

/// What is turned into text again.
pub(crate) struct Detokenize {
    /// The model, where it is named.
    pub(crate) model: Option<String>,
    /// The tokens.
    pub(crate) tokens: Vec<u32>,
}

impl Detokenize {
    /// Reads a request.
    ///
    /// # Errors
    /// If a parameter is wrong or not known.
    pub(crate) fn read(body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(body)?;
        let (model, tokens) = (fields.text("model")?, fields.take("tokens").unwrap_or_default());
        let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = tokens.as_array().and_then(|tokens| tokens.iter().map(id).collect());
        let tokens = ids.ok_or_else(|| super::fields::wrong("tokens", &tokens, "a list of token ids"))?;
        fields.finish()?;
        Ok(Self { model, tokens })
    }
}
