//! Conversations: lists of turns, of which the loss counts what the assistant says.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Formatted;

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
    /// What is wrong with the list, in words.
    pub(super) fn format(
        &self,
        row: &Map<String, Value>,
        render: &dyn Fn(&str, &str, &str) -> Result<String, String>,
    ) -> Result<Formatted, String> {
        // Chat logs are sometimes stored as JSON in a text column.
        let parsed;
        let turns = match row.get(&self.column) {
            Some(Value::Array(turns)) => turns,
            Some(Value::String(text)) => {
                parsed = serde_json::from_str::<Vec<Value>>(text)
                    .map_err(|error| format!("column {:?} holds no list of turns: {error}", self.column))?;
                &parsed
            }
            _ => return Err(format!("column {:?} holds no list of turns", self.column)),
        };
        let mut text = String::new();
        let mut counted: Vec<Range<usize>> = vec![];
        for (number, turn) in turns.iter().enumerate() {
            let place = |what: String| format!("turn {} of {:?}: {what}", number + 1, self.column);
            let get = |key: &str| {
                let value = turn.get(key).and_then(Value::as_str);
                value.ok_or_else(|| place(format!("has no text under {key:?}")))
            };
            let (role, content) = (get(&self.role)?, get(&self.content)?);
            match role {
                "system" => text += &render("system", &self.system, content)?,
                "user" | "human" => text += &render("user", &self.user, content)?,
                "assistant" | "gpt" | "model" | "bot" => {
                    text += &self.assistant_begin;
                    let said = render("assistant", &self.assistant, content)?;
                    counted.push(text.len()..text.len() + said.len());
                    text += &said;
                }
                other => {
                    return Err(place(format!("{:?} is {other:?}; expected system, user or assistant", self.role)));
                }
            }
        }
        let (Some(first), Some(last)) = (counted.first(), counted.last()) else {
            return Err(format!("column {:?}: the assistant says nothing", self.column));
        };
        let (start, end) = (first.start, last.end);
        let masked = counted.windows(2).map(|pair| pair[0].end - start..pair[1].start - start).collect();
        let completion = text[start..end].to_owned();
        text.truncate(start);
        Ok(Formatted { prompt: text, completion, masked, rejected: None })
    }
}
