//! Messages as data sets have them: OpenAI's form (`role`, `content`) and ShareGPT's (`from`, `value`).

use serde_json::{Map, Value, json};

use super::RowProblem;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
}

impl Role {
    fn of(written: &str) -> Option<Self> {
        match written {
            "system" => Some(Self::System),
            "developer" => Some(Self::Developer),
            "user" | "human" => Some(Self::User),
            "assistant" | "gpt" | "model" | "bot" | "function_call" => Some(Self::Assistant),
            "tool" | "observation" => Some(Self::Tool),
            _ => None,
        }
    }

    /// As chat templates know it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// The keys of a message.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub(super) role: &'a str,
    pub(super) content: &'a str,
}

impl Keys<'static> {
    const OPENAI: Self = Self { role: "role", content: "content" };
    const SHAREGPT: Self = Self { role: "from", content: "value" };

    fn of(message: &Value) -> Self {
        if message.get(Self::OPENAI.role).is_none() && message.get(Self::SHAREGPT.role).is_some() {
            Self::SHAREGPT
        } else {
            Self::OPENAI
        }
    }
}

/// One message.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) role: Role,
    /// The role as the row has it.
    pub(super) written: String,
    /// Where it is, for problems.
    pub(super) place: String,
    /// What is said.
    content: String,
    /// Whether the loss counts it, which it does for what an assistant says, unless `weight` or `train` say otherwise.
    pub(super) counts: bool,
    /// Further fields that are not empty.
    pub(super) fields: Map<String, Value>,
}

/// What an assistant says beside its text.
const SAID: [&str; 7] =
    ["tool_calls", "function_call", "reasoning_content", "reasoning", "thinking", "refusal", "audio"];

impl Message {
    /// Its text; empty where there is none beside a call of a tool.
    pub(super) fn text(&self) -> &str {
        &self.content
    }

    /// Whether nothing is said, in whatever way.
    pub(super) fn is_empty(&self) -> bool {
        self.content.trim().is_empty() && !self.fields.keys().any(|field| self.says(field))
    }

    /// Whether a further field is something that the assistant says.
    pub(super) fn says(&self, field: &str) -> bool {
        self.role == Role::Assistant && SAID.contains(&field)
    }

    /// As chat templates take it, but for one field.
    pub(super) fn to_json(&self, without: Option<&str>) -> Value {
        let mut object = Map::new();
        object.insert("role".into(), self.role.name().into());
        object.insert("content".into(), self.content.as_str().into());
        let fields = self.fields.iter().filter(|(name, _)| Some(name.as_str()) != without);
        object.extend(fields.map(|(name, value)| (name.clone(), value.clone())));
        Value::Object(object)
    }

    /// A user's message.
    pub(super) fn user(text: &str, column: &str) -> Self {
        let (role, written, place) = (Role::User, "user".to_owned(), format!("column {column:?}"));
        Self { role, written, place, content: text.into(), counts: false, fields: Map::new() }
    }

    fn read(message: &Value, keys: Keys<'_>, place: String) -> Result<Self, RowProblem> {
        let wrong = |reason: String| RowProblem::at(&place, reason);
        let Value::Object(object) = message else { return Err(wrong(format!("is {}, not a message", kind(message)))) };
        let Some(written) = object.get(keys.role).and_then(Value::as_str) else {
            return Err(wrong(format!("has no text under {:?}", keys.role)));
        };
        let Some(role) = Role::of(written) else {
            let expected = "expected system, developer, user, assistant, tool or function_call";
            return Err(wrong(format!("{:?} is {written:?}; {expected}", keys.role)));
        };
        let own = |name: &str| name == keys.role || name == keys.content || is_flag(name);
        let mut fields: Map<String, Value> = object
            .iter()
            .filter(|(name, value)| !own(name) && !is_empty(value))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if let Some(Value::Array(calls)) = fields.get_mut("tool_calls") {
            calls.iter_mut().for_each(parse_arguments);
        }
        let given = object.get(keys.content).unwrap_or(&Value::Null);
        let content = if written == "function_call" {
            fields.insert("tool_calls".into(), calls(given).map_err(wrong)?);
            String::new()
        } else {
            content(given, &keys, fields.keys().any(|field| role == Role::Assistant && SAID.contains(&field.as_str())))
                .map_err(wrong)?
        };
        let counts = role == Role::Assistant;
        let mut message = Self { role, written: written.to_owned(), place: place.clone(), content, counts, fields };
        message.read_flags(object).map_err(wrong)?;
        Ok(message)
    }

    /// Takes `weight` and `train` into account, which say whether the loss counts a message.
    fn read_flags(&mut self, object: &Map<String, Value>) -> Result<(), String> {
        let mut said: Option<bool> = None;
        for (name, value) in object.iter().filter(|(name, value)| is_flag(name) && !value.is_null()) {
            let flag = match value {
                Value::Bool(flag) => *flag,
                Value::Number(number) if number.as_f64() == Some(0.0) => false,
                Value::Number(number) if number.as_f64() == Some(1.0) => true,
                _ => return Err(format!("{name:?} is neither 0 nor 1, and a message counts wholly or not at all")),
            };
            if said.is_some_and(|said| said != flag) {
                return Err(format!("{name:?} contradicts another field about what the loss counts"));
            }
            if flag && self.role != Role::Assistant {
                return Err(format!("{name:?} asks for a loss on what the {} says", self.role.name()));
            }
            said = Some(flag);
        }
        self.counts &= said.unwrap_or(true);
        Ok(())
    }
}

/// Whether a field says if the loss counts a message; `weight` is OpenAI's, the others are axolotl's.
fn is_flag(name: &str) -> bool {
    matches!(name, "weight" | "train" | "training" | "train_detail" | "training_detail")
}

/// Whether there is nothing in a value, as where a data set fills up what a row does not have.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// What a value is, with its article.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The text of a message; parts of text are joined as they are.
fn content(value: &Value, keys: &Keys<'_>, says_more: bool) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Null if says_more => Ok(String::new()),
        Value::Array(parts) if !parts.is_empty() => {
            let mut text = String::new();
            for part in parts {
                let kind = part.get("type").and_then(Value::as_str);
                match (part, kind, part.get("text")) {
                    (Value::String(part), _, _) => text += part,
                    (_, Some("text" | "input_text" | "output_text") | None, Some(Value::String(part))) => text += part,
                    (_, Some(kind), _) => {
                        return Err(format!("{:?} has a part of type {kind:?}; only text is trained on", keys.content));
                    }
                    _ => return Err(format!("{:?} has a part without text", keys.content)),
                }
            }
            Ok(text)
        }
        Value::Null => Err(format!("has no text under {:?}", keys.content)),
        other => Err(format!("{:?} is {}, not text", keys.content, kind(other))),
    }
}

/// ShareGPT's `function_call`, an object with `name` and `arguments` or a list of them, mostly as JSON in a text, as calls
/// of tools.
fn calls(value: &Value) -> Result<Value, String> {
    let parsed = value.as_str().and_then(|text| serde_json::from_str(text).ok());
    let value = parsed.as_ref().unwrap_or(value);
    let one = |call: &Value| {
        let named = call.get("name").is_some_and(Value::is_string) && call.get("arguments").is_some();
        let mut call = json!({"type": "function", "function": call});
        parse_arguments(&mut call);
        named.then_some(call)
    };
    let calls: Option<Vec<Value>> = match value {
        Value::Array(calls) if !calls.is_empty() => calls.iter().map(one).collect(),
        other => one(other).map(|call| vec![call]),
    };
    calls.map(Value::from).ok_or_else(|| "a function_call that is not JSON with name and arguments".to_owned())
}

/// OpenAI writes the arguments of a call as JSON in a text, chat templates want the object.
fn parse_arguments(call: &mut Value) {
    if let Some(arguments) = call.pointer_mut("/function/arguments")
        && let Some(object @ Value::Object(_)) = arguments.as_str().and_then(|text| serde_json::from_str(text).ok())
    {
        *arguments = object;
    }
}

/// The list in a cell. Chat logs are sometimes stored as JSON in a text column.
pub(super) fn list(value: &Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(items) => Some(items.clone()),
        Value::String(text) if text.trim_start().starts_with('[') => serde_json::from_str(text).ok(),
        _ => None,
    }
}

/// Whether a text is a list of messages as Python prints it, which some tools write into CSV.
pub(super) fn is_python_list(value: &Value) -> bool {
    let begins = ["[{'role'", "[{'from'", "[{'content'", "[{'value'"];
    value.as_str().is_some_and(|text| begins.iter().any(|begin| text.trim_start().starts_with(begin)))
}

/// Whether a cell holds messages, and not text or something else.
pub(super) fn is_conversation(value: &Value) -> bool {
    let is_message = |item: &Value| [Keys::OPENAI, Keys::SHAREGPT].iter().any(|keys| item.get(keys.role).is_some());
    list(value).is_some_and(|items| items.first().is_some_and(is_message))
}

/// The messages of a column; without `keys` each is in the form that it shows.
///
/// # Errors
/// What is wrong with the first message that cannot be read.
pub(super) fn read_messages(value: &Value, column: &str, keys: Option<Keys<'_>>) -> Result<Vec<Message>, RowProblem> {
    let messages = list(value).ok_or_else(|| format!("column {column:?} holds no list of turns"))?;
    let read = |(number, message): (usize, &Value)| {
        let place = format!("turn {} of {column:?}", number + 1);
        Message::read(message, keys.unwrap_or_else(|| Keys::of(message)), place)
    };
    messages.iter().enumerate().map(read).collect()
}

/// Puts the text of a column before the messages, as what the system says.
///
/// # Errors
/// If the column holds no text, or the conversation has another system message.
pub(super) fn put_system(
    messages: &mut Vec<Message>,
    row: &Map<String, Value>,
    column: &str,
) -> Result<(), RowProblem> {
    let Some(value) = row.get(column).filter(|value| !is_empty(value)) else { return Ok(()) };
    let Some(text) = value.as_str() else {
        return Err(format!("column {column:?} is {}, not text", kind(value)).into());
    };
    match messages.first() {
        Some(first) if first.role == Role::System && first.text().trim() == text.trim() => Ok(()),
        Some(first) if matches!(first.role, Role::System | Role::Developer) => {
            Err(format!("column {column:?} and the first message say different things to the model").into())
        }
        _ => {
            let (written, place) = ("system".to_owned(), format!("column {column:?}"));
            let content = text.to_owned();
            messages
                .insert(0, Message { role: Role::System, written, place, content, counts: false, fields: Map::new() });
            Ok(())
        }
    }
}
