//! Conversations in the chat template of the base.

use std::ops::Range;

use harness_core::{Digest, Hasher, canonical_json};
use harness_engine::{ChatContext, ChatEnding, ChatTemplate, EngineError, TextTokenizer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    RowProblem,
    formatted::{EMPTY, Formatted, SAME, TRAILING},
    message::{Message, Role, is_conversation, is_empty, is_python_list, list, put_system, read_messages},
};

/// The template of bases that have none.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' ~ message.role ~ '\n' ~ message.content ~ \
                      '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Where a conversation lies in a row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conversation {
    /// Columns of whole conversations, the first that a row has counts; not looked at where preferences are trained on.
    #[serde(default)]
    pub messages: Vec<String>,
    /// The column of the messages before the answer, or of the text of the one message; without it, it is what all answers
    /// of the row begin with.
    pub prompt: String,
    /// Columns of the answer, the first that a row has counts.
    pub completion: Vec<String>,
    /// The column of the answer that is to be given less readily.
    pub rejected: String,
    /// The column of what the system says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The column of the tools that can be called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<String>,
}

/// What conversations are rendered with.
#[derive(Clone, Debug)]
pub struct Chat<'a> {
    template: ChatTemplate,
    tokenizer: &'a TextTokenizer,
    of_base: bool,
    pairs: bool,
    context: ChatContext,
}

impl<'a> Chat<'a> {
    /// The chat template of a base, or ChatML where it has none; `pairs`: whether a row is a pair of answers.
    ///
    /// # Errors
    /// Never; ChatML is a valid template.
    pub fn new(
        template: Option<&ChatTemplate>,
        tokenizer: &'a TextTokenizer,
        pairs: bool,
        context: ChatContext,
    ) -> Result<Self, EngineError> {
        let of_base = template.is_some();
        let template = template.map_or_else(|| ChatTemplate::new(CHATML), |template| Ok(template.clone()))?;
        Ok(Self { template, tokenizer, of_base, pairs, context })
    }

    /// The template.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// Whether the template is the base's own.
    pub fn is_of_base(&self) -> bool {
        self.of_base
    }

    /// Of everything that a rendered text depends on beside the conversation.
    pub fn digest(&self) -> Digest {
        let variables = canonical_json(&Value::from(self.context.variables.clone()));
        let day = self.context.now.map_or(String::new(), |now| now.to_string());
        Hasher::new("chat").part(self.template.digest().as_bytes()).part(variables).part(day).finish()
    }

    fn context(&self, ending: ChatEnding, tools: &Option<Vec<Value>>) -> ChatContext {
        ChatContext { ending, tools: tools.clone(), ..self.context.clone() }
    }
}

/// The conversations of a row.
struct Spoken<'a> {
    chat: &'a Chat<'a>,
    tools: Option<Vec<Value>>,
    remarks: Vec<String>,
}

impl Conversation {
    /// The columns that are read.
    pub(super) fn columns(&self) -> impl Iterator<Item = &String> {
        let one = [&self.prompt, &self.rejected].into_iter();
        self.messages.iter().chain(&self.completion).chain(one).chain(&self.system).chain(&self.tools)
    }

    /// Whether a row holds messages.
    pub(super) fn is_in(&self, row: &Map<String, Value>) -> bool {
        self.columns().any(|column| row.get(column).is_some_and(is_conversation))
    }

    /// Renders a row that holds messages; `None` for one that holds text.
    ///
    /// # Errors
    /// What is wrong with the row.
    pub(super) fn format(&self, row: &Map<String, Value>, chat: &Chat<'_>) -> Result<Option<Formatted>, RowProblem> {
        let filled = |name: &&String| row.get(*name).is_some_and(|value| !value.is_null());
        let mut spoken = Spoken { chat, tools: self.tools(row)?, remarks: vec![] };
        if !chat.pairs
            && let Some(column) = self.messages.iter().find(filled)
        {
            let mut messages = read_messages(&row[column.as_str()], column, None)?;
            self.put_system(&mut messages, row)?;
            return spoken.whole(column, &messages).map(Some);
        }
        let Some(completion) = self.completion.iter().find(filled) else {
            if self.messages.is_empty() {
                return Ok(None);
            }
            let whole = self.messages.iter().filter(|_| !chat.pairs);
            let wanted: Vec<&str> = whole.chain(&self.completion).map(String::as_str).collect();
            let columns: Vec<&str> = row.keys().map(String::as_str).collect();
            let (wanted, columns) = (wanted.join(", "), columns.join(", "));
            return Err(format!("the columns {wanted} are all empty or missing; the columns are {columns}").into());
        };
        let rejected = Some(&self.rejected).filter(|_| chat.pairs);
        let answers: Vec<&String> = std::iter::once(completion).chain(rejected).collect();
        let conversational = |name: &String| row.get(name).is_some_and(is_conversation);
        let prompt = row.get(&self.prompt).filter(|prompt| !is_empty(prompt));
        if let Some(column) = self.columns().find(|column| row.get(*column).is_some_and(is_python_list)) {
            return Err(
                format!("column {column:?} holds a list as Python prints it; it must be a list, or JSON").into()
            );
        }
        match answers.iter().filter(|name| conversational(name)).count() {
            0 if !prompt.is_some_and(is_conversation) => return Ok(None),
            n if n == answers.len() => {}
            _ => {
                let text = answers.iter().find(|name| !conversational(name)).map_or("", |name| name.as_str());
                return Err(format!("column {text:?} holds no messages, other columns of the row do").into());
            }
        }
        let parts: Vec<Vec<Value>> =
            answers.iter().map(|name| row.get(*name).and_then(list).unwrap_or_default()).collect();
        let (mut messages, from) = self.prompt(&parts, prompt, completion, &mut spoken.remarks)?;
        self.put_system(&mut messages, row)?;
        let mut rest = vec![];
        for (name, part) in answers.iter().zip(&parts) {
            let all = read_messages(&Value::from(part.clone()), name, None)?;
            rest.push(all.into_iter().skip(from).collect::<Vec<_>>());
        }
        if chat.pairs {
            return spoken.answers(&messages, &rest).map(Some);
        }
        messages.iter_mut().for_each(|message| message.counts = false);
        messages.extend(rest.into_iter().flatten());
        spoken.whole(completion, &messages).map(Some)
    }

    /// The messages before the answers, and how many of each answer's belong to them.
    fn prompt(
        &self,
        answers: &[Vec<Value>],
        prompt: Option<&Value>,
        column: &str,
        remarks: &mut Vec<String>,
    ) -> Result<(Vec<Message>, usize), RowProblem> {
        let read = |messages: &[Value], column: &str| read_messages(&Value::from(messages.to_vec()), column, None);
        if let Some(given) = prompt.filter(|prompt| is_conversation(prompt)).and_then(list) {
            // Some sets repeat the prompt in front of each answer.
            let repeated = answers.iter().all(|answer| answer.len() > given.len() && answer.starts_with(&given));
            return Ok((read(&given, &self.prompt)?, if repeated { given.len() } else { 0 }));
        }
        let text = match prompt {
            None => None,
            Some(Value::String(text)) => Some(text),
            Some(_) => return Err(format!("column {:?} holds neither text nor messages", self.prompt).into()),
        };
        // As TRL's `extract_prompt`: what all have in common, but at least one message each is an answer.
        let first = &answers[0];
        let shortest = answers.iter().map(Vec::len).min().unwrap_or(0);
        let common = (0..shortest).take_while(|&i| answers.iter().all(|answer| answer[i] == first[i])).count();
        let common = common.min(shortest.saturating_sub(1));
        let messages = read(&first[..common], column)?;
        match text {
            Some(text) if messages.is_empty() => Ok((vec![Message::user(text, &self.prompt)], 0)),
            None if messages.is_empty() => {
                Err("the answers have no message in common that could be their prompt".to_owned().into())
            }
            text => {
                let says = |text: &String| messages.iter().any(|message| message.text().trim() == text.trim());
                if text.is_some_and(|text| !says(text)) {
                    let column = &self.prompt;
                    remarks.push(format!("column {column:?} is none of the messages before the answers, which count"));
                }
                Ok((messages, common))
            }
        }
    }

    /// A row of texts without a prompt, which then is what the answers begin with, as TRL's `extract_prompt` has it: up to the
    /// first letter that differs, without a space before it.
    pub(super) fn split_texts(&self, row: &Map<String, Value>) -> Option<Map<String, Value>> {
        if row.contains_key(&self.prompt) {
            return None;
        }
        let name = self.completion.iter().find(|name| row.contains_key(*name))?;
        let (chosen, rejected) = (row.get(name)?.as_str()?, row.get(&self.rejected)?.as_str()?);
        let letters = |text: &str| text.chars().count();
        let shared = chosen.chars().zip(rejected.chars()).take_while(|(a, b)| a == b).count();
        let shared = shared.min(letters(chosen).min(letters(rejected)).saturating_sub(1));
        let end = chosen.char_indices().nth(shared).map_or(chosen.len(), |(at, _)| at);
        let end = if chosen[..end].ends_with(' ') { end - 1 } else { end };
        let mut row = row.clone();
        let (prompt, chosen, rejected) =
            (chosen[..end].to_owned(), chosen[end..].to_owned(), rejected[end..].to_owned());
        row.insert(self.prompt.clone(), prompt.into());
        row.insert(name.clone(), chosen.into());
        row.insert(self.rejected.clone(), rejected.into());
        Some(row)
    }

    fn put_system(&self, messages: &mut Vec<Message>, row: &Map<String, Value>) -> Result<(), RowProblem> {
        self.system.as_ref().map_or(Ok(()), |column| put_system(messages, row, column))
    }

    /// The tools that the assistant can call.
    fn tools(&self, row: &Map<String, Value>) -> Result<Option<Vec<Value>>, RowProblem> {
        let Some(column) = &self.tools else { return Ok(None) };
        match row.get(column).filter(|value| !is_empty(value)) {
            None => Ok(None),
            Some(value) => match list(value) {
                Some(tools) => Ok(Some(tools).filter(|tools| !tools.is_empty())),
                None => Err(format!("column {column:?} holds no list of tools").into()),
            },
        }
    }
}

impl Spoken<'_> {
    fn render(&self, messages: &[Message], ending: ChatEnding, without: Option<&str>) -> Result<String, RowProblem> {
        let json = messages.iter().map(|message| message.to_json(without)).collect();
        let context = self.chat.context(ending, &self.tools);
        self.chat.template.render_json(json, &context, self.chat.tokenizer).map_err(|error| refused(&error))
    }

    /// A whole conversation, of which the loss counts what the assistant says.
    fn whole(mut self, column: &str, messages: &[Message]) -> Result<Formatted, RowProblem> {
        let last = messages.iter().rposition(|message| message.role == Role::Assistant);
        let all = messages.len();
        let messages = &messages[..last.map_or(0, |last| last + 1)];
        if messages.is_empty() {
            return Err(format!("column {column:?}: the assistant says nothing").into());
        }
        if messages.len() < all {
            self.remarks.push(TRAILING.to_owned());
        }
        self.remarks
            .extend(messages.iter().find(|message| message.counts && message.is_empty()).map(|_| EMPTY.to_owned()));
        if self.chat.template.marks_generations() {
            let json = messages.iter().map(|message| message.to_json(None)).collect();
            let context = self.chat.context(ChatEnding::Complete, &self.tools);
            let rendered = self.chat.template.render_generations(json, &context, self.chat.tokenizer);
            let (text, blocks) = rendered.map_err(|error| refused(&error))?;
            self.check(messages, &text)?;
            let counts: Vec<bool> =
                messages.iter().filter(|m| m.role == Role::Assistant).map(|message| message.counts).collect();
            if blocks.len() != counts.len() {
                let (blocks, turns) = (blocks.len(), counts.len());
                let reason =
                    format!("the chat template marks {blocks} generations where the assistant speaks {turns} times");
                return Err(reason.into());
            }
            let counted: Vec<Range<usize>> = blocks
                .into_iter()
                .zip(counts)
                .filter(|(block, counts)| *counts && !block.is_empty())
                .map(|(b, _)| b)
                .collect();
            return Formatted::of_spans(column, text, &counted, self.remarks).map(Formatted::rendered);
        }
        let text = self.render(messages, ChatEnding::Complete, None)?;
        self.check(messages, &text)?;
        let mut counted = vec![];
        for (i, message) in messages.iter().enumerate().filter(|(_, message)| message.counts) {
            let before = self.render(&messages[..i], ChatEnding::OpenAssistant, None)?;
            let after = match i + 1 == messages.len() {
                true => text.clone(),
                false => self.render(&messages[..=i], ChatEnding::Complete, None)?,
            };
            if !after.starts_with(&before) || !text.starts_with(&after) {
                let reason = "the chat template renders earlier messages differently once more follow, so the \
                              assistant's turn cannot be located; {% generation %} blocks in the template would mark \
                              it";
                return Err(RowProblem::at(&message.place, reason));
            }
            counted.push(before.len()..after.len());
        }
        Formatted::of_spans(column, text, &counted, self.remarks).map(Formatted::rendered)
    }

    /// A prompt and its answers, the preferred one first.
    fn answers(mut self, prompt: &[Message], answers: &[Vec<Message>]) -> Result<Formatted, RowProblem> {
        let before = self.render(prompt, ChatEnding::OpenAssistant, None)?;
        let mut texts = vec![];
        for answer in answers {
            if let Some(message) = answer.iter().find(|message| message.role == Role::Assistant && !message.counts) {
                return Err(RowProblem::at(&message.place, "an answer that is excluded from the loss"));
            }
            let whole: Vec<Message> = prompt.iter().chain(answer).cloned().collect();
            let text = self.render(&whole, ChatEnding::Complete, None)?;
            self.check(&whole, &text)?;
            let Some(said) = text.strip_prefix(&before) else {
                let reason = "the chat template renders the prompt differently before an answer than alone, so the \
                              start of the answer cannot be located";
                return Err(reason.to_owned().into());
            };
            texts.push(said.to_owned());
        }
        let is_empty = |answer: &Vec<Message>| answer.iter().all(Message::is_empty);
        let names = ["completion", "rejected answer"].into_iter().zip(answers);
        let empty = names.filter(|(_, answer)| is_empty(answer));
        self.remarks.extend(empty.map(|(name, _)| format!("the {name} is empty")));
        if let [chosen, rejected] = texts.as_slice()
            && chosen == rejected
        {
            self.remarks.push(SAME.to_owned());
        }
        let mut texts = texts.into_iter();
        let completion = texts.next().unwrap_or_default();
        let (rejected, remarks) = (texts.next(), self.remarks);
        Ok(Formatted { prompt: before, completion, rejected, remarks, rendered: true, ..Formatted::default() })
    }

    /// Fails if the text does not show what a message says; names fields that make no difference to it.
    fn check(&mut self, messages: &[Message], text: &str) -> Result<(), RowProblem> {
        for message in messages {
            let said = message.text().trim();
            let as_json = || serde_json::to_string(said).unwrap_or_default();
            if !text.contains(said) && !text.contains(as_json().trim_matches('"')) {
                let reason = format!("the chat template does not show what the {} says", message.role.name());
                return Err(RowProblem::at(&message.place, reason));
            }
        }
        let mut seen: Vec<&String> = vec![];
        for (message, field) in
            messages.iter().flat_map(|message| message.fields.keys().map(move |field| (message, field)))
        {
            if seen.contains(&field) && !message.says(field) {
                continue;
            }
            seen.push(field);
            let without = self.render(messages, ChatEnding::Complete, Some(field));
            if without.is_ok_and(|without| without == *text) {
                if message.says(field) {
                    let reason = format!("the chat template does not show the assistant's {field:?}");
                    return Err(RowProblem::at(&message.place, reason));
                }
                self.remarks.push(format!("field {field:?} of messages is not used"));
            }
        }
        Ok(())
    }
}

/// A template's refusal of a conversation.
fn refused(error: &EngineError) -> RowProblem {
    format!("the chat template refuses the conversation: {error}").into()
}
