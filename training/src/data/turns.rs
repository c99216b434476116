//! Conversations in a form that a template file spells out, of which the loss counts what the assistant says.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    RowProblem,
    formatted::{EMPTY, Formatted, TRAILING},
    message::{Keys, Message, Role, put_system, read_messages},
};

/// How a list of turns becomes text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turns {
    /// The column with the list.
    pub column: String,
    /// The key of a turn that says who speaks: system, user (human) or assistant (gpt, model, bot).
    pub role: String,
    /// The key of a turn that holds what is said.
    pub content: String,
    /// A column whose text is a system turn before the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_column: Option<String>,
    /// Text of a system turn, with `content`.
    pub system: String,
    /// Text of a user's turn, with `content`.
    pub user: String,
    /// Text before what the assistant says, which the loss does not count.
    pub assistant_begin: String,
    /// Text of what the assistant says, with `content`, which the loss counts.
    pub assistant: String,
}

impl Turns {
    /// The texts that are Jinja, by key.
    pub(super) fn sources(&self) -> [(&'static str, &str); 3] {
        [("system", &self.system), ("user", &self.user), ("assistant", &self.assistant)]
    }

    /// Formats a row: the prompt ends where the assistant first speaks; later turns of others are masked. Turns after the
    /// assistant's last one are left out.
    ///
    /// # Errors
    /// What is wrong with the list.
    pub(super) fn format(
        &self,
        row: &Map<String, Value>,
        render: &dyn Fn(&str, &str, &str) -> Result<String, RowProblem>,
    ) -> Result<Formatted, RowProblem> {
        let keys = Keys { role: &self.role, content: &self.content };
        let list = row.get(&self.column).unwrap_or(&Value::Null);
        let mut messages = read_messages(list, &self.column, Some(keys))?;
        if let Some(column) = &self.system_column {
            put_system(&mut messages, row, column)?;
        }
        let mut remarks = vec![];
        let mut text = String::new();
        let mut counted: Vec<Range<usize>> = vec![];
        for message in &messages {
            self.check(message, &mut remarks)?;
            let content = message.text();
            match message.role {
                Role::System => text += &render("system", &self.system, content)?,
                Role::User => text += &render("user", &self.user, content)?,
                Role::Assistant => {
                    text += &self.assistant_begin;
                    let said = render("assistant", &self.assistant, content)?;
                    if message.counts {
                        remarks.extend(message.is_empty().then(|| EMPTY.to_owned()));
                        counted.push(text.len()..text.len() + said.len());
                    }
                    text += &said;
                }
                Role::Developer | Role::Tool => {
                    let reason =
                        format!("{:?} is {:?}, for which the template has no text", self.role, message.written);
                    return Err(RowProblem::at(&message.place, reason));
                }
            }
        }
        if messages.last().is_some_and(|message| message.role != Role::Assistant) {
            remarks.push(TRAILING.to_owned());
        }
        Formatted::of_spans(&self.column, text, &counted, remarks)
    }

    /// Fails if the assistant says something that has no place in the text; names other fields that have none.
    fn check(&self, message: &Message, remarks: &mut Vec<String>) -> Result<(), RowProblem> {
        if let Some(field) = message.fields.keys().find(|field| message.says(field)) {
            let reason = match message.written.as_str() {
                "function_call" => format!("{:?} is \"function_call\", for which the template has no text", self.role),
                _ => format!("the template has no text for the assistant's {field:?}"),
            };
            return Err(RowProblem::at(&message.place, reason));
        }
        remarks.extend(message.fields.keys().map(|field| format!("field {field:?} of messages is not used")));
        Ok(())
    }
}
