//! The seam between those who ask and whatever answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, Output, Request, Response, canonical_json};

/// What a model's answers depend on; its [`ModelIdentity::digest`] is part of the key of every stored response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// Hash of the base weights.
    pub weights: Digest,
    /// Hash of the adapter's weights and configuration, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<Digest>,
    /// Hash of the tokenizer, its special tokens and BOS policy.
    pub tokenizer: Digest,
    /// Hash of the chat template, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<Digest>,
    /// Type the computation runs in, e.g. `f32`.
    pub dtype: String,
    /// Anything else answers depend on (context limit, quantisation, endpoint), by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, String>,
}

impl ModelIdentity {
    /// Hash of all of it.
    pub fn digest(&self) -> Digest {
        Digest::of_json(self)
    }
}

/// What a model can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Log-likelihood of given continuations.
    pub loglikelihood: bool,
    /// Text generation.
    pub generation: bool,
    /// A chat template is known.
    pub chat: bool,
    /// Generation within a pattern (see [`crate::Sampling::pattern`]).
    #[serde(default)]
    pub patterns: bool,
    /// Longest input in tokens.
    pub max_length: usize,
}

/// Who speaks in a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChatRole {
    /// Instructions to the model.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: ChatRole,
    /// What is said.
    pub content: String,
}

impl ChatMessage {
    /// A message of the given role.
    pub fn new(role: ChatRole, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }

    /// Whether a rendered chat holds what is said, but for white space around it: as it is, or in JSON, as chats for servers
    /// are written.
    pub fn stands_in(&self, rendered: &str) -> bool {
        let text = self.content.trim();
        let json = canonical_json(text);
        rendered.contains(text) || rendered.contains(json.trim_matches('"'))
    }
}

/// How a chat is rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChatOptions {
    /// Open an assistant turn at the end; otherwise the last message (an assistant's beginning) is continued.
    pub add_generation_prompt: bool,
}

/// What the receiver of answers wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Go on.
    Continue,
    /// Stop as soon as possible (interrupted); unanswered requests stay unanswered.
    Stop,
}

/// Why a model could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The model cannot do what was asked.
    #[error("{model} cannot do this: {what}")]
    Unsupported {
        /// Name of the model.
        model: String,
        /// What was asked.
        what: String,
    },
    /// One request cannot be answered, whatever the model does.
    #[error("request {index} cannot be answered: {reason}")]
    BadRequest {
        /// Position of the request in the batch.
        index: usize,
        /// Why.
        reason: String,
    },
    /// The chat template failed.
    #[error("the chat template failed: {0}")]
    ChatTemplate(String),
    /// Anything else, with its source.
    #[error("{0}")]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

/// Work done so far by a model, for reports of throughput.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelStats {
    /// Input tokens that the requests asked for, each request counted in full.
    pub requested_tokens: u64,
    /// Token positions that were computed, after prefix sharing; drafted tokens that were not drawn come on top.
    pub computed_tokens: u64,
    /// Positions whose logits were computed.
    pub scored_positions: u64,
    /// Tokens of generations that were drafted before they were drawn.
    #[serde(default)]
    pub drafted_tokens: u64,
    /// Tokens that were drawn as they were drafted, and needed no pass of their own.
    #[serde(default)]
    pub accepted_tokens: u64,
}

/// A context and its continuation in tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairTokens {
    /// Ids and texts of the context's tokens, then of the scored ones.
    pub tokens: Vec<(u32, String)>,
    /// How many of them are context.
    pub context: usize,
    /// Whether a merge crosses the join, so that the scored tokens do not spell the continuation.
    pub shifted: bool,
}

/// Something that answers requests: a local model, an adapter over one, an HTTP endpoint.
///
/// Answers are a function of identity and request alone: no dependence on batch, order, packing or threads.
pub trait LanguageModel: Send + Sync {
    /// What the answers depend on.
    fn identity(&self) -> &ModelIdentity;

    /// What can be asked.
    fn capabilities(&self) -> Capabilities;

    /// Answers all requests, handing each answer to `sink(index, response)` as soon as it is known, in any order.
    ///
    /// # Errors
    /// The first failure ends the call; what was handed over before stays valid.
    fn answer(&self, requests: &[Request], sink: &mut dyn FnMut(usize, Response) -> Control) -> Result<(), ModelError>;

    /// Answers one request and hands over the text of a generation as it comes: all pieces put together are the text of the
    /// response. `None` if it was stopped. Where a model has no text before the end, it comes in one piece.
    ///
    /// # Errors
    /// As [`LanguageModel::answer`].
    fn stream(
        &self,
        request: &Request,
        on_text: &mut dyn FnMut(&str) -> Control,
    ) -> Result<Option<Response>, ModelError> {
        stream_whole(self, request, on_text)
    }

    /// Renders a chat as the text the model expects.
    ///
    /// # Errors
    /// If the model has no chat template, or the template refuses the messages.
    fn apply_chat_template(&self, messages: &[ChatMessage], options: ChatOptions) -> Result<String, ModelError>;

    /// The tokens of a text as `(id, text)` pairs, where the model has a local tokenizer; special tokens as the
    /// model adds them to a prompt.
    fn tokenize(&self, text: &str) -> Option<Vec<(u32, String)>>;

    /// The tokens of context and continuation as [`Request::LogLikelihood`] scores them, where the model has a local
    /// tokenizer.
    fn tokenize_pair(&self, context: &str, continuation: &str) -> Option<PairTokens> {
        let _ = (context, continuation);
        None
    }

    /// Work done since the model was loaded.
    fn stats(&self) -> ModelStats {
        ModelStats::default()
    }
}

/// [`LanguageModel::stream`] by way of [`LanguageModel::answer`]: the text comes in one piece.
///
/// # Errors
/// As [`LanguageModel::answer`].
pub fn stream_whole<M: LanguageModel + ?Sized>(
    model: &M,
    request: &Request,
    on_text: &mut dyn FnMut(&str) -> Control,
) -> Result<Option<Response>, ModelError> {
    let mut found = None;
    model.answer(std::slice::from_ref(request), &mut |_, response| {
        found = Some(response);
        Control::Continue
    })?;
    if let Some(Response { output: Output::Text { text, .. }, .. }) = &found
        && !text.is_empty()
        && on_text(text) == Control::Stop
    {
        return Ok(None);
    }
    Ok(found)
}
