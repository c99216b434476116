//! Prompt templates: text with placeholders in braces.
//!
//! `{name}` stands for a value; `{{name}}` for the text `{name}`; every other brace for itself, so that JSON and code in
//! a template need no escapes. A value is put in as it is: placeholders inside it stay text.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Values by placeholder.
pub type Values = BTreeMap<&'static str, String>;

/// A text with placeholders.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Template {
    source: String,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Placeholder(String),
}

impl Template {
    /// Reads a template; every text is one.
    pub fn new(source: impl Into<String>) -> Self {
        let source = source.into();
        let mut pieces = vec![];
        let mut text = String::new();
        let mut rest = source.as_str();
        while let Some(open) = rest.find('{') {
            text.push_str(&rest[..open]);
            rest = &rest[open..];
            let escaped = rest.starts_with("{{");
            let name = name_at(&rest[if escaped { 2 } else { 1 }..]);
            match name {
                Some(name) if escaped && rest[2 + name.len()..].starts_with("}}") => {
                    text.push('{');
                    text.push_str(name);
                    text.push('}');
                    rest = &rest[4 + name.len()..];
                }
                Some(name) if !escaped && rest[1 + name.len()..].starts_with('}') => {
                    if !text.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut text)));
                    }
                    pieces.push(Piece::Placeholder(name.to_owned()));
                    rest = &rest[2 + name.len()..];
                }
                _ => {
                    text.push('{');
                    rest = &rest[1..];
                }
            }
        }
        text.push_str(rest);
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        Self { source, pieces }
    }

    /// The text the template was read from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The placeholders, in order of use; one used twice is there twice.
    pub fn placeholders(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Placeholder(name) => Some(name.as_str()),
            Piece::Text(_) => None,
        })
    }

    /// The text with values put in; a placeholder without a value becomes nothing (a checked protocol has none).
    pub fn render(&self, values: &Values) -> String {
        let mut text = String::new();
        for piece in &self.pieces {
            text.push_str(match piece {
                Piece::Text(literal) => literal,
                Piece::Placeholder(name) => values.get(name.as_str()).map(String::as_str).unwrap_or_default(),
            });
        }
        text
    }
}

impl From<String> for Template {
    fn from(source: String) -> Self {
        Self::new(source)
    }
}

impl From<Template> for String {
    fn from(template: Template) -> Self {
        template.source
    }
}

/// The identifier a text begins with.
fn name_at(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    let name = &text[..end];
    (!name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit())).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str) -> String {
        let values = Values::from([("question", "What is {answer}?".into()), ("answer", "42".into())]);
        Template::new(template).render(&values)
    }

    #[test]
    fn values_are_put_in_once() {
        assert_eq!(render("Q: {question}\nA: {answer}"), "Q: What is {answer}?\nA: 42");
    }

    #[test]
    fn other_braces_stay() {
        assert_eq!(
            render(r#"{"a": [{}], "b": {answer}} {{answer}} { answer } {1}"#),
            r#"{"a": [{}], "b": 42} {answer} { answer } {1}"#
        );
        assert_eq!(render("{answer"), "{answer");
        assert_eq!(render("{{answer}"), "{42");
    }

    #[test]
    fn placeholders_are_listed() {
        let template = Template::new("{b} {a} {b} {{c}}");
        assert_eq!(template.placeholders().collect::<Vec<_>>(), ["b", "a", "b"]);
        assert_eq!(template.source(), "{b} {a} {b} {{c}}");
    }
}
