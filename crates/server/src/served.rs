//! The models that are served.

use std::sync::Arc;

use harness_core::{ChatMessage, ChatOptions, LanguageModel as _, ModelError, Sampling};
use harness_engine::{Ask, ChatTemplate, EngineError, LocalModel, PromptText, encode_prompt};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::{
    ask::{Choosing, PromptInput, Tokenize},
    desk::{Desk, Event, Ticket},
    error::ApiError,
};

/// A model under the name by which it is asked for.
#[derive(Debug)]
pub struct ServedModel {
    /// The name.
    pub name: String,
    /// The model.
    pub model: LocalModel,
    /// The name of its base, where it is an adapter.
    pub base: Option<String>,
    /// The mark that ends its thinking; stop strings end nothing before it.
    pub think_end: Option<String>,
}

/// A model and where requests to it wait.
pub(crate) struct Served {
    pub(crate) of: Arc<ServedModel>,
    pub(crate) desk: Arc<Desk>,
    /// Its place among the models over its base.
    pub(crate) place: usize,
}

/// What a request asks of a model.
pub(crate) struct Task {
    pub(crate) prompts: Vec<PromptInput>,
    pub(crate) choosing: Choosing,
    /// Most new tokens; `None` = as many as the context has room for.
    pub(crate) max_tokens: Option<usize>,
    /// Likeliest tokens that are told of every new token.
    pub(crate) top: usize,
    /// The same of every token of the prompt; `None` = nothing is told of them.
    pub(crate) prompt_top: Option<usize>,
}

/// A request that is on its way.
pub(crate) struct Submitted {
    /// The text of every prompt.
    pub(crate) prompts: Vec<String>,
    /// Events, each with the place of its generation: place / n is that of the prompt.
    pub(crate) events: UnboundedReceiver<(usize, Event)>,
}

impl Served {
    /// Longest prompt with its answer, in tokens.
    pub(crate) fn max_length(&self) -> usize {
        self.of.model.capabilities().max_length
    }

    /// A chat as the text that the model reads.
    ///
    /// # Errors
    /// If there is no template, or it refuses the messages.
    pub(crate) fn render(&self, messages: &[ChatMessage], continues: bool) -> Result<String, ApiError> {
        let options = ChatOptions { add_generation_prompt: !continues };
        self.of.model.apply_chat_template(messages, options).map_err(|error| match error {
            ModelError::Unsupported { .. } => {
                ApiError::bad(format!("{} has no chat template; /v1/completions continues plain text", self.of.name))
            }
            error => ApiError::parameter("messages", error.to_string()),
        })
    }

    /// Prepares all generations of a request and queues them. It takes a while: for a thread that may be blocked.
    ///
    /// # Errors
    /// If the request cannot be answered, or too many wait.
    pub(crate) fn submit(&self, task: &Task) -> Result<Submitted, ApiError> {
        let Choosing { sampling, stop, n } = &task.choosing;
        let top_logprobs = (task.top > 0).then_some(task.top);
        let think_end = self.of.think_end.clone().filter(|mark| !mark.is_empty());
        let sampling = Sampling { top_logprobs, think_end, ..sampling.clone() };
        let (sender, events) = unbounded_channel();
        let (mut tickets, mut texts) = (vec![], vec![]);
        for prompt in &task.prompts {
            let prompt = match prompt {
                PromptInput::Text(text) => PromptText::Text(text),
                PromptInput::Tokens(ids) => PromptText::Tokens(ids),
            };
            let ask = Ask {
                prompt,
                stop,
                sampling: &sampling,
                max_new_tokens: task.max_tokens,
                prompt_logprobs: task.prompt_top,
            };
            let first = self.of.model.prepare(ask).map_err(refusal)?.for_model(self.place);
            texts.push(first.text().to_owned());
            for choice in 0..*n {
                let prepared = first.with_seed(sampling.seed.wrapping_add(choice as u64));
                tickets.push(Ticket { prepared, choice: tickets.len(), sender: sender.clone() });
            }
        }
        self.desk.push(tickets)?;
        Ok(Submitted { prompts: texts, events })
    }

    /// The tokens of a text or a chat.
    ///
    /// # Errors
    /// If there is no chat template, or the tokenizer fails.
    pub(crate) fn tokenize(&self, asked: &Tokenize) -> Result<Vec<u32>, ApiError> {
        let base = self.of.model.base();
        let tokens = match asked {
            Tokenize::Text { text, special: true } => encode_prompt(base.tokenizer(), text, base.pair()),
            Tokenize::Text { text, special: false } => base.tokenizer().encode(text, false),
            Tokenize::Chat { messages, opens_answer } => {
                encode_prompt(base.tokenizer(), &self.render(messages, !opens_answer)?, base.pair())
            }
        };
        tokens.map_err(refusal)
    }

    /// The text of tokens, special ones too.
    ///
    /// # Errors
    /// If a token is none of the tokenizer's, or the tokenizer fails.
    pub(crate) fn detokenize(&self, tokens: &[u32]) -> Result<String, ApiError> {
        let tokenizer = self.of.model.base().tokenizer();
        let known = tokenizer.vocab_size();
        if let Some(id) = tokens.iter().find(|&&id| id as usize >= known) {
            return Err(ApiError::parameter("tokens", format!("token {id}: {} has {known} tokens", self.of.name)));
        }
        tokenizer.decode(tokens, false).map_err(refusal)
    }

    /// What the tokenizer's configuration says: special tokens by role and the chat template.
    pub(crate) fn tokenizer_info(&self) -> Value {
        let base = self.of.model.base();
        let mut info: Map<String, Value> =
            base.tokenizer().roles().map(|(role, text)| (role.to_owned(), json!(text))).collect();
        info.insert("add_bos_token".to_owned(), json!(base.tokenizer().adds_bos()));
        info.insert("chat_template".to_owned(), json!(base.chat_template().map(ChatTemplate::source)));
        info.insert("model_max_length".to_owned(), json!(self.max_length()));
        info.into()
    }

    /// Whether another model's texts become the same tokens.
    pub(crate) fn tokenizes_like(&self, other: &Self) -> bool {
        let texts = |served: &Self| {
            let base = served.of.model.base();
            (base.tokenizer().digest(), base.chat_template().map(ChatTemplate::digest))
        };
        texts(self) == texts(other)
    }
}

/// Why a prompt cannot be continued.
fn refusal(error: EngineError) -> ApiError {
    match error {
        EngineError::TooLong { .. } => ApiError::too_long(error.to_string()),
        EngineError::Pattern { .. } => ApiError::parameter("response_format", error.to_string()),
        error => ApiError::bad(error.to_string()),
    }
}
