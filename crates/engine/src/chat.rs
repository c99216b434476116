//! Chat templates: Jinja as Hugging Face's tokenizers write it.

mod environment;
mod files;

use std::{fmt, ops::Range, sync::Arc};

use harness_core::{ChatKwargs, ChatMessage, Digest};
use harness_jinja::Template;
use harness_python::CivilTime;
use minijinja::{Value, value::Serde};

use crate::{EngineError, TextTokenizer};

/// What stands before and after the text of a generation block.
const GENERATION_MARKS: [&str; 2] = ["\u{2}generation\u{3}", "\u{2}endgeneration\u{3}"];

/// Appended to the last message to find where it ends in the rendered text.
const END_MARK: &str = "\u{2}end-of-the-last-message\u{3} ";

/// How a rendered chat ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChatEnding {
    /// An assistant's turn is opened (`add_generation_prompt`).
    #[default]
    OpenAssistant,
    /// The last message is left open, to be continued (`continue_final_message`).
    ContinueFinal,
    /// All messages are closed, as in training.
    Complete,
}

/// What a template is given besides the messages.
#[derive(Clone, Debug, Default)]
pub struct ChatContext {
    /// How the chat ends.
    pub ending: ChatEnding,
    /// Tools the model may call, as JSON schemas.
    pub tools: Option<Vec<serde_json::Value>>,
    /// The time that `strftime_now` tells; where there is none, the function is undefined and most templates fall back
    /// to a fixed date. Never the machine's clock, so that a prompt depends on its inputs only.
    pub now: Option<CivilTime>,
    /// Further variables (`enable_thinking`, `documents`).
    pub variables: serde_json::Map<String, serde_json::Value>,
}

impl ChatContext {
    /// A context with this ending and nothing else.
    pub fn ending(ending: ChatEnding) -> Self {
        Self { ending, ..Self::default() }
    }
}

/// What all chats of a model are rendered with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatSettings {
    /// The time that templates are told ([`ChatContext::now`]).
    pub now: Option<CivilTime>,
    /// Variables that they are given.
    pub kwargs: ChatKwargs,
}

impl ChatSettings {
    /// The context of a chat that ends so.
    pub fn context(&self, ending: ChatEnding) -> ChatContext {
        ChatContext { ending, tools: None, now: self.now, variables: self.kwargs.variables().clone() }
    }
}

/// Whether a template tells the date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DateUse {
    /// It does not.
    None,
    /// It does if it is given one, and has a date of its own otherwise.
    IfGiven,
    /// It does.
    Always,
}

/// A compiled chat template.
#[derive(Clone)]
pub struct ChatTemplate {
    source: Arc<str>,
    compiled: Arc<environment::Compiled>,
    digest: Digest,
}

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// If it is not valid Jinja, with the line.
    pub fn new(source: &str) -> Result<Self, EngineError> {
        let compiled = Arc::new(environment::compile(source)?);
        Ok(Self { source: source.into(), compiled, digest: Digest::of(source) })
    }

    /// The template as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Hash of the source.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Whether the template tells the date (`strftime_now`).
    pub fn date_use(&self) -> DateUse {
        if !self.mentions("strftime_now") {
            DateUse::None
        } else if environment::ASKS_FOR_CLOCK.is_match(&*self.source).unwrap_or(false) {
            DateUse::IfGiven
        } else {
            DateUse::Always
        }
    }

    /// Whether the template speaks of a variable.
    pub fn mentions(&self, variable: &str) -> bool {
        let ends = |at: usize| self.source[at..].chars().next().is_none_or(|c| !c.is_alphanumeric() && c != '_');
        let begins = |at: usize| self.source[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '_');
        let mut found = self.source.match_indices(variable);
        found.any(|(at, _)| begins(at) && ends(at + variable.len()))
    }

    /// The text of a chat. Special tokens (`bos_token` …) come from the tokenizer.
    ///
    /// # Errors
    /// The text of the template's own `raise_exception`, or why it failed; with [`ChatEnding::ContinueFinal`] also if
    /// there is no last message or the template does not show it.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        context: &ChatContext,
        tokenizer: &TextTokenizer,
    ) -> Result<String, EngineError> {
        let messages: Vec<serde_json::Value> = messages
            .iter()
            .map(|message| serde_json::json!({ "role": message.role, "content": message.content }))
            .collect();
        self.render_json(messages, context, tokenizer)
    }

    /// [`Self::render`] for messages with more than role and content: tool calls, tool results, reasoning.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn render_json(
        &self,
        messages: Vec<serde_json::Value>,
        context: &ChatContext,
        tokenizer: &TextTokenizer,
    ) -> Result<String, EngineError> {
        self.render_as(&self.compiled.plain, messages, context, tokenizer)
    }

    /// Whether the template says which parts of its text an assistant generates (`{% generation %}`).
    pub fn marks_generations(&self) -> bool {
        self.compiled.marked.is_some()
    }

    /// [`Self::render_json`] with the bytes of each generation block, in order; none where the template has no such block.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn render_generations(
        &self,
        messages: Vec<serde_json::Value>,
        context: &ChatContext,
        tokenizer: &TextTokenizer,
    ) -> Result<(String, Vec<Range<usize>>), EngineError> {
        let template = self.compiled.marked.as_ref().unwrap_or(&self.compiled.plain);
        let marked = self.render_as(template, messages, context, tokenizer)?;
        let [begin, end] = GENERATION_MARKS;
        let (mut text, mut blocks, mut rest) = (String::with_capacity(marked.len()), vec![], marked.as_str());
        while let Some((before, after)) = rest.split_once(begin) {
            let (inside, after) = after.split_once(end).unwrap_or((after, ""));
            text += before;
            blocks.push(text.len()..text.len() + inside.len());
            text += inside;
            rest = after;
        }
        Ok((text + rest, blocks))
    }

    fn render_as(
        &self,
        template: &Template,
        mut messages: Vec<serde_json::Value>,
        context: &ChatContext,
        tokenizer: &TextTokenizer,
    ) -> Result<String, EngineError> {
        if context.ending == ChatEnding::ContinueFinal {
            match messages.last_mut().and_then(|message| message.get_mut("content")) {
                Some(serde_json::Value::String(content)) => content.push_str(END_MARK),
                _ => {
                    return Err(EngineError::ChatTemplate("there is no last message with text to continue".to_owned()));
                }
            }
        }
        let mut variables: Vec<(String, Value)> =
            context.variables.iter().map(|(name, value)| (name.clone(), Value::from(Serde(value.clone())))).collect();
        variables.extend(tokenizer.roles().map(|(name, text)| (name.to_owned(), Value::from(text))));
        if let Some(now) = context.now {
            let strftime_now = move |format: String| {
                now.strftime(&format)
                    .map_err(|reason| minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, reason))
            };
            variables.push(("strftime_now".to_owned(), Value::from_function(strftime_now)));
        }
        variables.push(("messages".to_owned(), Value::from(Serde(messages))));
        variables.push(("tools".to_owned(), Value::from(Serde(&context.tools))));
        if !context.variables.contains_key("documents") {
            variables.push(("documents".to_owned(), Value::from(())));
        }
        let open = context.ending == ChatEnding::OpenAssistant;
        variables.push(("add_generation_prompt".to_owned(), Value::from(open)));

        let text = template.render(Value::from_pairs(variables)).map_err(environment::failed)?;
        if context.ending == ChatEnding::ContinueFinal { cut_at_mark(text) } else { Ok(text) }
    }
}

/// Cuts a rendered chat where its last message ends; white space before the mark is dropped where the template trims.
fn cut_at_mark(mut text: String) -> Result<String, EngineError> {
    let Some(end) = text.rfind(END_MARK.trim_end()) else {
        let reason = "the template does not show the last message, so it cannot be continued";
        return Err(EngineError::ChatTemplate(reason.to_owned()));
    };
    let kept = text[end..].starts_with(END_MARK);
    text.truncate(end);
    if !kept {
        text.truncate(text.trim_end().len());
    }
    Ok(text)
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChatTemplate({} characters, {})", self.source.len(), self.digest.short())
    }
}
