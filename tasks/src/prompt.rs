//! A prompt as messages: system text, examples, question; and its rendering, plain or through a chat template.

use std::sync::atomic::{AtomicUsize, Ordering};

use harness_core::{ChatMessage, ChatOptions, ChatRole, ModelError};

use crate::task::{PromptFormatter, PromptPart, PromptPiece};
use harness_python::is_space;

/// A piece of a prompt with the delimiter that follows it in plain text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    pub part: PromptPart,
    pub content: String,
    pub delimiter: String,
}

impl Message {
    fn new(part: PromptPart, content: impl Into<String>, delimiter: impl Into<String>) -> Self {
        Self { part, content: content.into(), delimiter: delimiter.into() }
    }

    fn role(&self) -> ChatRole {
        match self.part {
            PromptPart::System => ChatRole::System,
            PromptPart::ExampleQuestion(_) | PromptPart::Question => ChatRole::User,
            PromptPart::ExampleAnswer(_) | PromptPart::AnswerPrefix => ChatRole::Assistant,
        }
    }
}

/// The system message, if there is any text for it.
pub(crate) fn system(instruction: &str, description: &str, delimiter: &str) -> Option<Message> {
    let text = join(instruction, delimiter, description);
    (!text.is_empty()).then(|| Message::new(PromptPart::System, text, ""))
}

/// Question and answer of an example.
pub(crate) fn example(
    number: usize,
    question: &str,
    answer: &str,
    gen_prefix: &str,
    target_delimiter: &str,
    fewshot_delimiter: &str,
) -> Vec<Message> {
    if answer.is_empty() {
        let mut messages = question_with_prefix(question, gen_prefix, target_delimiter);
        messages[0].part = PromptPart::ExampleQuestion(number);
        if let Some(prefix) = messages.get_mut(1) {
            prefix.part = PromptPart::ExampleAnswer(number);
        }
        return messages;
    }
    let delimiter = if gen_prefix.is_empty() || separate(question, gen_prefix) { target_delimiter } else { "" };
    vec![
        Message::new(PromptPart::ExampleQuestion(number), question, delimiter),
        Message::new(PromptPart::ExampleAnswer(number), join(gen_prefix, " ", answer), fewshot_delimiter),
    ]
}

/// The question of the document, and the beginning of its answer.
pub(crate) fn question_with_prefix(question: &str, gen_prefix: &str, target_delimiter: &str) -> Vec<Message> {
    if gen_prefix.is_empty() {
        return vec![Message::new(PromptPart::Question, question, "")];
    }
    let delimiter = if separate(question, gen_prefix) { target_delimiter } else { "" };
    vec![
        Message::new(PromptPart::Question, question, delimiter),
        Message::new(PromptPart::AnswerPrefix, gen_prefix, ""),
    ]
}

/// Both texts with a delimiter between them, unless one is empty or there is white space at the joint.
fn join(prefix: &str, delimiter: &str, suffix: &str) -> String {
    let between = if !prefix.is_empty() && !suffix.is_empty() && separate(prefix, suffix) { delimiter } else { "" };
    [prefix, between, suffix].concat()
}

/// Whether neither side has white space at the joint; false for an empty left side.
fn separate(left: &str, right: &str) -> bool {
    !left.is_empty() && !left.ends_with(is_space) && !right.starts_with(is_space)
}

/// Plain text: all contents with their delimiters.
pub(crate) fn plain(messages: &[Message]) -> String {
    let length = messages.iter().map(|m| m.content.len() + m.delimiter.len()).sum();
    messages.iter().fold(String::with_capacity(length), |mut text, message| {
        text.push_str(&message.content);
        text.push_str(&message.delimiter);
        text
    })
}

/// The pieces for display.
pub(crate) fn pieces(messages: &[Message]) -> Vec<PromptPiece> {
    let piece =
        |m: &Message| PromptPiece { part: m.part, role: m.role(), text: [m.content.as_str(), &m.delimiter].concat() };
    messages.iter().map(piece).collect()
}

/// Messages of a chat. Not as turns: everything between the system text and the beginning of the answer becomes one
/// message of the user.
fn turns(messages: &[Message], multiturn: bool) -> Vec<ChatMessage> {
    if multiturn {
        return messages.iter().map(|m| ChatMessage::new(m.role(), m.content.as_str())).collect();
    }
    let system = usize::from(messages.first().is_some_and(|m| m.part == PromptPart::System));
    let prefix = usize::from(messages.last().is_some_and(|m| m.part == PromptPart::AnswerPrefix));
    let (head, rest) = messages.split_at(system);
    let (body, tail) = rest.split_at(rest.len() - prefix);
    let mut text = plain(body);
    if let Some(last) = body.last() {
        text.truncate(text.len() - last.delimiter.len());
    }
    let whole = |m: &Message| ChatMessage::new(m.role(), m.content.as_str());
    let mut chat: Vec<ChatMessage> = head.iter().map(whole).collect();
    chat.push(ChatMessage::new(ChatRole::User, text));
    chat.extend(tail.iter().map(whole));
    chat
}

/// What became of a system message in a chat template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SystemMessage {
    /// It stands in the text, or there was none.
    Shown,
    /// The template refused it, and it was left out.
    LeftOut,
    /// The template took it, and the text does not hold it.
    Hidden,
}

/// Renders through the chat template. If the template refuses a system message it is left out.
pub(crate) fn chat(
    messages: &[Message],
    multiturn: bool,
    formatter: &dyn PromptFormatter,
) -> Result<(String, SystemMessage), ModelError> {
    let mut chat = turns(messages, multiturn);
    let prefix = messages.last().is_some_and(|m| m.part == PromptPart::AnswerPrefix);
    let options = ChatOptions { add_generation_prompt: !prefix };
    match formatter.apply_chat_template(&chat, options) {
        Err(ModelError::ChatTemplate(_)) if chat.iter().any(|m| m.role == ChatRole::System) => {
            chat.retain(|m| m.role != ChatRole::System);
            Ok((formatter.apply_chat_template(&chat, options)?, SystemMessage::LeftOut))
        }
        other => {
            let text = other?;
            let hidden = chat.iter().any(|m| m.role == ChatRole::System && !m.stands_in(&text));
            Ok((text, if hidden { SystemMessage::Hidden } else { SystemMessage::Shown }))
        }
    }
}

/// Requests of a task whose system message was lost.
#[derive(Default)]
pub(crate) struct SystemCounts {
    pub(crate) left_out: AtomicUsize,
    pub(crate) hidden: AtomicUsize,
}

impl SystemCounts {
    /// Counts the requests of one document.
    pub(crate) fn count(&self, became: SystemMessage, requests: usize) {
        let counter = match became {
            SystemMessage::Shown => return,
            SystemMessage::LeftOut => &self.left_out,
            SystemMessage::Hidden => &self.hidden,
        };
        counter.fetch_add(requests, Ordering::Relaxed);
    }
}
