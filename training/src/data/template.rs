//! Templates: how a row becomes a prompt and its completion.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::LazyLock,
};

use harness_core::{Digest, limits, nearest};
use harness_jinja::{Jinja, describe, environment};
use minijinja::{Error, ErrorKind, State, UndefinedBehavior, Value as Cell, syntax::SyntaxConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Chat, Conversation, Formatted, RowProblem, Turns, cell, formatted::SAME};
use crate::{TrainingError, diagnostics};

/// The templates that ship with the program: name and file.
const BUILT_IN: [(&str, &str); 9] = [
    ("alpaca", include_str!("../../templates/alpaca.toml")),
    ("chat", include_str!("../../templates/chat.toml")),
    ("imdb", include_str!("../../templates/imdb.toml")),
    ("instruction", include_str!("../../templates/instruction.toml")),
    ("model", include_str!("../../templates/model.toml")),
    ("openorca", include_str!("../../templates/openorca.toml")),
    ("plain", include_str!("../../templates/plain.toml")),
    ("preference", include_str!("../../templates/preference.toml")),
    ("sharegpt", include_str!("../../templates/sharegpt.toml")),
];

/// A declarative template: two Jinja texts over the columns of a row.
///
/// The text of a sample is `prompt` followed by `completion`, with nothing between; with `loss = "completion"` the loss
/// begins where the completion does. A column that is missing is an error where it is printed, and false in `if`; one that is
/// null, a list or an object is so too, but can be asked what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// Columns every row must have.
    pub columns: Vec<String>,
    /// What the model is given; not with `turns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// What it is to answer; not with `turns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion: Option<String>,
    /// What it is to answer less readily; only for recipes with `[dpo]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
    /// How a conversation becomes text, instead of `prompt` and `completion`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turns: Option<Turns>,
    /// Where messages lie that go through the chat template of the base; beside `prompt` and `completion`, which then are
    /// for rows without messages, or instead of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<Conversation>,
    /// Where it was read from, or its name in angle brackets.
    #[serde(skip)]
    pub path: PathBuf,
    #[serde(skip)]
    compiled: Compiled,
}

/// The Jinja texts of a template by their sources, compiled when it is read: rows are many. Two templates with the same
/// texts are equal.
#[derive(Clone, Debug, Default)]
struct Compiled(BTreeMap<String, harness_jinja::Template>);

impl PartialEq for Compiled {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Compiled {}

impl Compiled {
    fn get(&self, source: &str) -> Result<harness_jinja::Template, Error> {
        self.0.get(source).map_or_else(|| JINJA.compile(source), |template| Ok(template.clone()))
    }
}

impl Template {
    /// Names of the templates that ship with the program.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.into_iter().map(|(name, _)| name)
    }

    /// A template that ships with the program.
    pub fn built_in(name: &str) -> Option<Self> {
        let (_, text) = BUILT_IN.into_iter().find(|(known, _)| *known == name)?;
        Self::parse(text, Path::new(&format!("<{name}>"))).ok()
    }

    /// The template a recipe in `folder` names: one that ships with the program, else a file relative to the folder.
    ///
    /// # Errors
    /// If there is neither, or the file is no template (with file, line and column).
    pub fn load(name: &str, folder: &Path) -> Result<Self, TrainingError> {
        if let Some(template) = Self::built_in(name) {
            return Ok(template);
        }
        let path = folder.join(name);
        if !path.exists() {
            let known: Vec<&str> = Self::names().collect();
            let hint =
                nearest(name, known.iter().copied()).map(|n| format!("; did you mean {n:?}?")).unwrap_or_default();
            return Err(TrainingError::setting(
                "data.template",
                format!("{name:?}"),
                format!("one of {}, or a file; {} does not exist{hint}", known.join(", "), path.display()),
            ));
        }
        let text = harness_core::read_text(&path).map_err(TrainingError::io("read", &path))?;
        Self::parse(&text, &path)
    }

    /// Reads the text of a template file; `path` is for messages.
    ///
    /// # Errors
    /// With file, line and column: unknown or missing keys, bad TOML, bad Jinja.
    pub fn parse(text: &str, path: &Path) -> Result<Self, TrainingError> {
        let mut template: Self = toml::from_str(text).map_err(|error| diagnostics::syntax(path, text, &error))?;
        template.path = path.to_owned();
        let whole = template.prompt.is_some() && template.completion.is_some();
        let none = template.prompt.is_none() && template.completion.is_none();
        let alone = template.turns.is_some() || template.conversation.is_some() && !whole;
        if alone != none || whole == none || template.turns.is_some() && template.conversation.is_some() {
            let message =
                "a template has prompt and completion, or a table [turns], and not both; a table [conversation] \
                           instead of both, or beside prompt and completion"
                    .to_owned();
            return Err(diagnostics::at(path, text, 0, message));
        }
        let mut sources: Vec<(&str, &str)> = vec![];
        sources.extend(template.prompt.iter().map(|source| ("prompt", source.as_str())));
        sources.extend(template.completion.iter().map(|source| ("completion", source.as_str())));
        sources.extend(template.rejected.iter().map(|source| ("rejected", source.as_str())));
        sources.extend(template.turns.iter().flat_map(Turns::sources));
        let mut compiled = BTreeMap::new();
        for (key, source) in sources {
            let found = JINJA.compile(source).map_err(|error| {
                let offset = diagnostics::content(text, key, error.line().unwrap_or(1));
                diagnostics::at(path, text, offset, format!("{key}: {error}"))
            })?;
            compiled.insert(source.to_owned(), found);
        }
        template.compiled = Compiled(compiled);
        Ok(template)
    }

    /// Hash of what it says.
    pub fn digest(&self) -> Digest {
        Digest::of_json(self)
    }

    /// Whether rows may go through a chat template.
    pub fn uses_chat_template(&self) -> bool {
        self.conversation.is_some()
    }

    /// The columns that it reads.
    pub(super) fn used_columns(&self) -> BTreeSet<String> {
        let sources = [&self.prompt, &self.completion, &self.rejected];
        let named = sources.into_iter().flatten().filter_map(|source| self.compiled.get(source).ok());
        let mut used: BTreeSet<String> = named.flat_map(|template| template.undeclared()).collect();
        used.extend(self.columns.iter().cloned());
        used.extend(
            self.turns.iter().flat_map(|turns| [Some(&turns.column), turns.system_column.as_ref()]).flatten().cloned(),
        );
        used.extend(self.conversation.iter().flat_map(Conversation::columns).cloned());
        used
    }

    /// Formats one row; conversations that go through a chat template need one.
    ///
    /// # Errors
    /// The column that is missing or is no text, or what the template stumbled over.
    pub fn format(&self, row: &Map<String, Value>, chat: Option<&Chat<'_>>) -> Result<Formatted, RowProblem> {
        for column in &self.columns {
            if !row.contains_key(column) {
                let columns: Vec<&str> = row.keys().map(String::as_str).collect();
                let (path, columns) = (self.path.display(), columns.join(", "));
                let reason = format!("no column {column:?}, which template {path} needs; the columns are {columns}");
                return Err(reason.into());
            }
        }
        let render = |key: &str, source: &str, values: minijinja::Value| -> Result<String, RowProblem> {
            let text = self.compiled.get(source).and_then(|template| template.render(values)).map_err(|error| {
                let line = error.line().map(|line| format!("line {line}: ")).unwrap_or_default();
                format!("template {}, {key}: {line}{}", self.path.display(), describe(&error))
            })?;
            cell::unmarked(text).map_err(|found| {
                format!("{found}, and template {} prints it in {key}, where text is needed", self.path.display()).into()
            })
        };
        if let Some(turns) = &self.turns {
            return turns
                .format(row, &|key, source, content| render(key, source, minijinja::context! { content => content }));
        }
        if let Some(conversation) = &self.conversation {
            let formatted = match chat {
                Some(chat) => conversation.format(row, chat)?,
                None if conversation.is_in(row) => return Err("conversations need a tokenizer".to_owned().into()),
                None => None,
            };
            match formatted {
                Some(formatted) => return Ok(formatted),
                None if self.completion.is_none() => {
                    return Err(format!("template {} needs messages, the row holds text", self.path.display()).into());
                }
                None => {}
            }
        }
        let split = self.conversation.as_ref().and_then(|conversation| conversation.split_texts(row));
        let row = split.as_ref().unwrap_or(row);
        let values = cell::values(row);
        let part = |key: &str, source: &Option<String>| {
            source.as_ref().map_or(Ok(String::new()), |source| render(key, source, values.clone()))
        };
        let (prompt, completion) = (part("prompt", &self.prompt)?, part("completion", &self.completion)?);
        let rejected = self.rejected.as_ref().map(|source| render("rejected", source, values.clone())).transpose()?;
        let mut remarks = vec![];
        if self.prompt.as_ref().is_some_and(|source| !source.is_empty()) && prompt.trim().is_empty() {
            remarks.push("the prompt is empty".to_owned());
        }
        let answers = [("completion", Some(&completion)), ("rejected answer", rejected.as_ref())];
        for (name, _) in answers.iter().filter(|(_, text)| text.is_some_and(|text| text.trim().is_empty())) {
            remarks.push(format!("the {name} is empty"));
        }
        if rejected.as_ref() == Some(&completion) {
            remarks.push(SAME.to_owned());
        }
        Ok(Formatted { prompt, completion, rejected, remarks, ..Formatted::default() })
    }
}

/// Jinja as tasks use it: trailing newlines kept, nothing escaped; but only text, numbers and booleans can be printed.
static JINJA: LazyLock<Jinja> = LazyLock::new(|| {
    let mut environment = environment();
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    cell::install(&mut environment);
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build().unwrap_or_default();
    Jinja::new(environment, syntax, cell::print, no_method, *limits())
});

/// Values have the methods that Jinja gives them, and none of Python's.
fn no_method(_: &mut State, _: &Cell, _: &str, _: &[Cell]) -> Result<Cell, Error> {
    Err(ErrorKind::UnknownMethod.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn format(template: &Template, row: Value) -> Result<Formatted, String> {
        template.format(row.as_object().unwrap(), None).map_err(|problem| problem.to_string())
    }

    #[test]
    fn instruction_blocks_byte_for_byte() {
        let template = Template::built_in("instruction").unwrap();
        let row = json!({"instruction": "Name <it> & go.", "context": "A {{ b }}\nC", "response": "D."});
        let formatted = format(&template, row).unwrap();
        assert_eq!(
            formatted.prompt,
            "### Instruction:\nName <it> & go.\n\n### Context:\nA {{ b }}\nC\n\n### Response:\n"
        );
        assert_eq!(formatted.completion, "D.");
        let without = "### Instruction:\nI\n\n### Response:\n";
        for row in [
            json!({"instruction": "I", "context": "", "response": "R"}),
            json!({"instruction": "I", "context": null, "response": "R"}),
            json!({"instruction": "I", "response": "R"}),
        ] {
            assert_eq!(format(&template, row).unwrap().prompt, without);
        }
    }

    #[test]
    fn plain_text_is_all_completion() {
        let template = Template::built_in("plain").unwrap();
        let formatted = format(&template, json!({"text": "abc\n"})).unwrap();
        assert_eq!(formatted, Formatted { completion: "abc\n".into(), ..Formatted::default() });
    }

    #[test]
    fn conversations_mask_what_others_say() {
        let turns = json!([
            {"role": "system", "content": "S"}, {"role": "user", "content": "A"}, {"role": "assistant", "content": "b"},
            {"role": "user", "content": "C"}, {"role": "assistant", "content": "d"}, {"role": "user", "content": "E"}
        ]);
        let chat = Template::built_in("chat").unwrap();
        let formatted = format(&chat, json!({"messages": turns})).unwrap();
        assert_eq!(
            formatted.prompt,
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\n"
        );
        let between = "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(formatted.completion, format!("b<|im_end|>\n{between}d<|im_end|>\n"));
        let masked: Vec<&str> = formatted.masked.iter().map(|range| &formatted.completion[range.clone()]).collect();
        assert_eq!(masked, [between]);
        let text = json!({"messages": turns.to_string()});
        assert_eq!(format(&chat, text).unwrap(), formatted, "a list as text is read too");
        let shared = json!([{"from": "human", "value": "A"}, {"from": "gpt", "value": "b"}]);
        let shared = format(&Template::built_in("sharegpt").unwrap(), json!({"conversations": shared})).unwrap();
        assert!(shared.prompt.ends_with("A<|im_end|>\n<|im_start|>assistant\n") && shared.masked.is_empty());
        let refused = |turns: Value| format(&chat, json!({"messages": turns})).unwrap_err();
        assert!(refused(json!([{"role": "user", "content": "A"}])).contains("the assistant says nothing"));
        assert!(refused(json!([{"role": "critic", "content": "A"}])).contains("turn 1 of \"messages\""));
        assert!(refused(json!([{"role": "user"}])).contains("has no text under \"content\""));
        assert!(refused(json!(3)).contains("holds no list of turns"));
    }

    #[test]
    fn sentiment_is_a_word() {
        let template = Template::built_in("imdb").unwrap();
        for (label, word) in [(json!(1), " positive"), (json!("0"), " negative"), (json!("positive"), " positive")] {
            assert_eq!(format(&template, json!({"text": "T", "label": label})).unwrap().completion, word);
        }
    }

    #[test]
    fn optional_parts_leave_no_trace() {
        let orca = Template::built_in("openorca").unwrap();
        let row = json!({"system_prompt": "", "question": "Q", "response": "R"});
        assert_eq!(format(&orca, row).unwrap().prompt, "### Question:\nQ\n\n### Response:\n");
        let row = json!({"system_prompt": "S", "question": "Q", "response": "R"});
        assert_eq!(format(&orca, row).unwrap().prompt, "### System:\nS\n\n### Question:\nQ\n\n### Response:\n");
        let alpaca = Template::built_in("alpaca").unwrap();
        let prompt =
            |input: &str| format(&alpaca, json!({"instruction": "I", "input": input, "output": "O"})).unwrap().prompt;
        assert!(prompt("X").contains("### Input:\nX\n\n### Response:\n") && prompt("X").contains("paired with"));
        assert!(!prompt("").contains("Input") && !prompt("").contains("paired with"));
    }

    #[test]
    fn every_built_in_template_is_valid() {
        for name in Template::names() {
            assert!(Template::built_in(name).is_some(), "{name}");
        }
    }

    #[test]
    fn mistakes_are_placed() {
        let bad = |text: &str| Template::parse(text, Path::new("t.toml")).unwrap_err().to_string();
        let good = "columns = []\nprompt = \"\"\"\na\n{{ b }}\n\"\"\"\ncompletion = \"c\"\n";
        assert!(Template::parse(good, Path::new("t.toml")).is_ok());
        let unknown = bad(&good.replace("prompt", "promt"));
        assert!(unknown.starts_with("t.toml:2:1: unknown field `promt`") && unknown.contains("`prompt`?"), "{unknown}");
        assert!(bad(&good.replace("{{ b }}", "{{ b")).starts_with("t.toml:4:"));
        assert!(bad(&good.replace("\"c\"", "\"{% if %}\"")).starts_with("t.toml:6:"));
        let missing = Template::load("instrction", Path::new("nowhere")).unwrap_err().to_string();
        assert!(missing.contains("did you mean \"instruction\"?"), "{missing}");
    }

    #[test]
    fn missing_columns_are_named() {
        let template = Template::built_in("instruction").unwrap();
        let message = format(&template, json!({"instruction": "I", "output": "R"})).unwrap_err();
        assert!(message.contains("no column \"response\"") && message.contains("instruction, output"), "{message}");
        let text = "columns = []\nprompt = \"{{ x }}\"\ncompletion = \"\"";
        let message = format(&Template::parse(text, Path::new("t.toml")).unwrap(), json!({})).unwrap_err();
        assert!(message.contains("undefined"), "{message}");
    }
}
