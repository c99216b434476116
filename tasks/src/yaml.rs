//! YAML as a tree that remembers where each value stands.
//!
//! Read from the events of the parser beneath serde-saphyr, because local tags (`!function`) and the place of every
//! value must survive. Plain scalars are resolved as PyYAML does (YAML 1.1: `yes` and `on` are booleans, `1e3` is a
//! string), so that a file means the same here and in lm-eval.

use std::{collections::BTreeMap, sync::Arc};

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};
use harness_core::{bytes_in_words, limit_name, limits};
use serde_json::{Map, Number, Value};

use crate::{Place, TaskError};

/// One value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub value: Yaml,
    pub at: Place,
    /// Local tag without its `!`, e.g. `function`.
    pub tag: Option<String>,
    /// How a scalar was written, to find places inside of it.
    pub raw: Option<Arc<str>>,
}

/// A YAML value.
#[derive(Clone, Debug)]
pub(crate) enum Yaml {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a mapping with its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key: String,
    pub at: Place,
    pub value: Node,
}

impl Node {
    /// Fails with a message at this node.
    pub(crate) fn error<T>(&self, message: impl Into<String>) -> Result<T, TaskError> {
        Err(TaskError::Definition { at: self.at.clone(), message: message.into() })
    }

    /// What the node is, in words.
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Yaml::Null => "nothing",
            Yaml::Bool(_) => "a truth value",
            Yaml::Int(_) => "an integer",
            Yaml::Float(_) => "a number",
            Yaml::Text(_) => "a string",
            Yaml::List(_) => "a list",
            Yaml::Map(_) => "a mapping",
        }
    }

    /// The value as JSON; numbers that JSON cannot hold become strings.
    pub(crate) fn json(&self) -> Value {
        match &self.value {
            Yaml::Null => Value::Null,
            Yaml::Bool(b) => Value::Bool(*b),
            Yaml::Int(i) => Value::from(*i),
            Yaml::Float(f) => Number::from_f64(*f).map_or_else(|| Value::from(f.to_string()), Value::Number),
            Yaml::Text(text) => Value::from(text.as_str()),
            Yaml::List(items) => items.iter().map(Node::json).collect(),
            Yaml::Map(entries) => {
                Value::Object(entries.iter().map(|e| (e.key.clone(), e.value.json())).collect::<Map<_, _>>())
            }
        }
    }

    /// The value of a key of a mapping.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Yaml::Map(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value),
            _ => None,
        }
    }

    /// Every node with a local tag, with the key it stands under.
    pub(crate) fn tags<'a>(&'a self, key: &'a str, out: &mut Vec<(&'a str, &'a Node, &'a str)>) {
        if let Some(tag) = &self.tag {
            out.push((key, self, tag));
        }
        match &self.value {
            Yaml::List(items) => items.iter().for_each(|item| item.tags(key, out)),
            Yaml::Map(entries) => entries.iter().for_each(|entry| entry.value.tags(&entry.key, out)),
            _ => {}
        }
    }

    /// The first node at or under this one that has a local tag.
    pub(crate) fn first_tag(&self) -> Option<(&Node, &str)> {
        if let Some(tag) = &self.tag {
            return Some((self, tag));
        }
        match &self.value {
            Yaml::List(items) => items.iter().find_map(Node::first_tag),
            Yaml::Map(entries) => entries.iter().find_map(|e| e.value.first_tag()),
            _ => None,
        }
    }
}

/// Reads one document.
#[cfg(test)]
pub(crate) fn parse(file: &str, text: &str) -> Result<Node, TaskError> {
    parse_with_notes(file, text).map(|(node, _)| node)
}

/// Reads one document; beside it, what is allowed but probably a mistake.
pub(crate) fn parse_with_notes(file: &str, text: &str) -> Result<(Node, Vec<String>), TaskError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut indented: Option<String> = None;
    let most = limits().yaml_bytes;
    if text.len() > most {
        let at = Place { file: file.into(), line: 1, column: 1 };
        let (most, name) = (bytes_in_words(most as u64), limit_name("yaml_bytes"));
        let message = format!("{} bytes, more than {most} {name}", text.len());
        return Err(TaskError::Definition { at, message });
    }
    for _ in 0..MOST_INDENTED.min(most / text.len().max(1)) {
        match parse_strictly(file, indented.as_deref().unwrap_or(text)) {
            Err((TaskError::Definition { at, message }, true)) => {
                // libyaml lets the lines of a quoted scalar begin anywhere; their leading blanks mean nothing.
                let mut lines: Vec<String> =
                    indented.as_deref().unwrap_or(text).split('\n').map(str::to_owned).collect();
                match lines.get_mut(at.line - 1).filter(|line| !line.starts_with(INDENT)) {
                    Some(line) => line.insert_str(0, INDENT),
                    None => return Err(TaskError::Definition { at, message }),
                }
                indented = Some(lines.join("\n"));
            }
            other => return other.map_err(|(error, _)| error),
        }
    }
    parse_strictly(file, indented.as_deref().unwrap_or(text)).map_err(|(error, _)| error)
}

/// Most lines that are moved to the right.
const MOST_INDENTED: usize = 1000;

/// What such a line gets.
const INDENT: &str = "                                        ";

/// Reads one document; with an error, whether a line of a quoted scalar is indented too little.
fn parse_strictly(file: &str, text: &str) -> Result<(Node, Vec<String>), (TaskError, bool)> {
    let mut builder = Builder {
        file: file.into(),
        text,
        anchors: BTreeMap::new(),
        values: 0,
        stack: Vec::new(),
        root: None,
        notes: Vec::new(),
    };
    for event in Parser::new_from_str(text) {
        match event {
            Ok((event, span)) => builder.event(event, span).map_err(|error| (error, false))?,
            Err(error) => {
                let mark = error.marker();
                let at = Place { file: builder.file, line: mark.line().max(1), column: mark.col() + 1 };
                let kind = error.kind().to_string();
                let indentation = kind.contains("indentation in multiline quoted scalar");
                return Err((TaskError::Definition { at, message: format!("not valid YAML: {kind}") }, indentation));
            }
        }
    }
    let start = Place { file: builder.file.clone(), line: 1, column: 1 };
    let root = builder.root.unwrap_or(Node { value: Yaml::Map(Vec::new()), at: start, tag: None, raw: None });
    Ok((root, builder.notes))
}

struct Builder<'a> {
    file: Arc<str>,
    text: &'a str,
    /// Values that have a name, and how many values each is.
    anchors: BTreeMap<usize, (Node, usize)>,
    values: usize,
    stack: Vec<Open>,
    root: Option<Node>,
    notes: Vec<String>,
}

/// A collection whose end has not been seen.
struct Open {
    node: Node,
    anchor: usize,
    key: Option<(String, Place)>,
    merged: Vec<(Node, Place)>,
    /// Values of the file before it.
    before: usize,
}

impl Builder<'_> {
    fn place(&self, span: &Span) -> Place {
        Place { file: self.file.clone(), line: span.start.line().max(1), column: span.start.col() + 1 }
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), TaskError> {
        let at = self.place(&span);
        let local = |tag: Option<std::borrow::Cow<'_, Tag>>| {
            tag.filter(|tag| tag.handle().starts_with('!')).map(|tag| tag.suffix().to_owned())
        };
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let string = tag.as_ref().is_some_and(|tag| tag.core_suffix() == Some("str"));
                let value = match style {
                    ScalarStyle::Plain if !string => resolve(&text),
                    _ => Yaml::Text(text.into_owned()),
                };
                let raw = match (&value, span.start.byte_offset(), span.end.byte_offset()) {
                    (Yaml::Text(text), Some(start), Some(end)) if text.contains('{') => {
                        self.text.get(start..end).map(Arc::from)
                    }
                    _ => None,
                };
                self.values = counted(self.values, 1, &at)?;
                self.finished(Node { value, at, tag: local(tag), raw }, anchor, 1)
            }
            Event::SequenceStart(_, anchor, tag) => {
                let node = Node { value: Yaml::List(Vec::new()), at, tag: local(tag), raw: None };
                self.open(node, anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                let node = Node { value: Yaml::Map(Vec::new()), at, tag: local(tag), raw: None };
                self.open(node, anchor)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(mut open) => {
                    if let Yaml::Map(entries) = &mut open.node.value {
                        open.merged.into_iter().try_for_each(|(node, at)| merge(entries, &node, at))?;
                    }
                    let size = self.values - open.before;
                    self.finished(open.node, open.anchor, size)
                }
                None => Ok(()),
            },
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some((node, size)) => {
                    let size = *size;
                    self.values = counted(self.values, size, &at)?;
                    let node = Node { at, ..node.clone() };
                    self.finished(node, 0, size)
                }
                None => Err(TaskError::Definition { at, message: "an alias to a value that is not complete".into() }),
            },
            Event::DocumentStart(..) if self.root.is_some() => {
                Err(TaskError::Definition { at, message: "a second YAML document; a definition file holds one".into() })
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, node: Node, anchor: usize) -> Result<(), TaskError> {
        let before = self.values;
        self.values = counted(self.values, 1, &node.at)?;
        if self.stack.len() >= 64 {
            return node.error("nested more than 64 levels deep");
        }
        self.stack.push(Open { node, anchor, key: None, merged: Vec::new(), before });
        Ok(())
    }

    fn finished(&mut self, node: Node, anchor: usize, size: usize) -> Result<(), TaskError> {
        if anchor != 0 {
            // The copy that is kept for aliases counts too.
            self.values = counted(self.values, size, &node.at)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.node.value {
            Yaml::List(items) => items.push(node),
            Yaml::Map(entries) => match open.key.take() {
                None => {
                    let key = match &node.value {
                        Yaml::Text(text) => text.clone(),
                        Yaml::List(_) | Yaml::Map(_) => return node.error("a key must be a scalar"),
                        _ => match node.json() {
                            Value::Null => "null".to_owned(),
                            other => other.to_string(),
                        },
                    };
                    open.key = Some((key, node.at));
                }
                Some((key, at)) if key == "<<" => open.merged.push((node, at)),
                Some((key, at)) => {
                    match entries.iter_mut().find(|entry| entry.key == key) {
                        // As PyYAML reads it: the last one counts, in the place of the first.
                        Some(first) => {
                            let line = first.at.line;
                            self.notes.push(format!(
                                "{at}: the key {key:?} is given twice (first on line {line}); the last one counts"
                            ));
                            *first = Entry { key, at, value: node };
                        }
                        None => entries.push(Entry { key, at, value: node }),
                    }
                }
            },
            _ => {}
        }
        Ok(())
    }
}

/// The number of values of a file with `more`, which are counted before they are made.
fn counted(values: usize, more: usize, at: &Place) -> Result<usize, TaskError> {
    let values = values.saturating_add(more);
    let most = limits().yaml_values;
    if values > most {
        let name = limit_name("yaml_values");
        let message = format!("more than {most} values, those that aliases repeat counted each time {name}");
        return Err(TaskError::Definition { at: at.clone(), message });
    }
    Ok(values)
}

/// Adds the entries of a merge key `<<` that are not there yet.
fn merge(entries: &mut Vec<Entry>, node: &Node, at: Place) -> Result<(), TaskError> {
    match &node.value {
        Yaml::Map(more) => {
            for entry in more {
                if !entries.iter().any(|e| e.key == entry.key) {
                    entries.push(entry.clone());
                }
            }
            Ok(())
        }
        Yaml::List(items) => items.iter().try_for_each(|item| merge(entries, item, at.clone())),
        _ => Err(TaskError::Definition { at, message: format!("<< must merge a mapping, found {}", node.kind()) }),
    }
}

/// A plain scalar by the rules of YAML 1.1 as PyYAML has them.
fn resolve(text: &str) -> Yaml {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Yaml::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Yaml::Bool(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => return Yaml::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Yaml::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Yaml::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Yaml::Float(f64::NAN),
        _ => {}
    }
    integer(text).map(Yaml::Int).or_else(|| float(text).map(Yaml::Float)).unwrap_or_else(|| Yaml::Text(text.to_owned()))
}

fn integer(text: &str) -> Option<i64> {
    let (negative, body) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if !body.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let digits = body.replace('_', "");
    let magnitude = if let Some(hex) = digits.strip_prefix("0x") {
        i64::from_str_radix(hex, 16).ok()?
    } else if let Some(binary) = digits.strip_prefix("0b") {
        i64::from_str_radix(binary, 2).ok()?
    } else if digits.len() > 1 && digits.starts_with('0') {
        i64::from_str_radix(&digits, 8).ok()?
    } else {
        digits.parse().ok()?
    };
    Some(if negative { -magnitude } else { magnitude })
}

/// YAML 1.1 floats need a point, and a sign in the exponent.
fn float(text: &str) -> Option<f64> {
    let body = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match body.find(['e', 'E']) {
        Some(at) => (&body[..at], Some(&body[at + 1..])),
        None => (body, None),
    };
    let (whole, fraction) = mantissa.split_once('.')?;
    let digits = |part: &str| part.chars().all(|c| c.is_ascii_digit() || c == '_');
    let starts = |part: &str| part.starts_with(|c: char| c.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || !(starts(whole) || whole.is_empty() && starts(fraction)) {
        return None;
    }
    if let Some(exponent) = exponent {
        let magnitude = exponent.strip_prefix(['-', '+'])?;
        if magnitude.is_empty() || !magnitude.chars().all(|c| c.is_ascii_digit()) {
            return None;
        }
    }
    text.replace('_', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value(text: &str) -> Value {
        parse("t.yaml", text).unwrap().json()
    }

    #[test]
    fn scalars_mean_what_they_mean_in_pyyaml() {
        let text =
            "a: yes\nb: off\nc: 012\nd: 1e3\ne: 1.5e+3\nf: 1_000\ng: 0x1F\nh: ~\ni: '1'\nj: .5\nk: 1.\nl: 09\nm: -3";
        let expected = json!({"a": true, "b": false, "c": 10, "d": "1e3", "e": 1500.0, "f": 1000, "g": 31, "h": null,
            "i": "1", "j": 0.5, "k": 1.0, "l": "09", "m": -3});
        assert_eq!(value(text), expected);
    }

    #[test]
    fn anchors_merges_and_blocks() {
        let text = "base: &b {x: 1, y: 2}\nother:\n  <<: *b\n  y: 3\ntext: |\n  one\n  two\n";
        assert_eq!(value(text)["other"], json!({"y": 3, "x": 1}));
        assert_eq!(value(text)["text"], "one\ntwo\n");
    }

    /// As libyaml reads it.
    #[test]
    fn lines_of_quoted_scalars_begin_anywhere() {
        let text = "a:\n  b: \"one\\\n\\ two\nthree\"\nc: 'x\n\ny'\n";
        assert_eq!(value(text), json!({"a": {"b": "one two three"}, "c": "x\ny"}));
    }

    #[test]
    fn tags_and_places_survive() {
        let node = parse("t.yaml", "a: 1\nb:\n  - !function utils.go\n").unwrap();
        let (tagged, tag) = node.first_tag().unwrap();
        assert_eq!((tag, tagged.at.to_string().as_str()), ("function", "t.yaml:3:15"));
        assert_eq!(tagged.json(), "utils.go");
    }

    #[test]
    fn errors_name_line_and_column() {
        let error = parse("t.yaml", "a: 1\nb: [1, 2\nc: 3").unwrap_err().to_string();
        assert!(error.starts_with("t.yaml:") && error.contains("not valid YAML"), "{error}");
        let (node, notes) = parse_with_notes("t.yaml", "a: 1\nb: 2\na: 3").unwrap();
        assert_eq!(node.json().to_string(), r#"{"a":3,"b":2}"#);
        assert_eq!(notes, ["t.yaml:3:1: the key \"a\" is given twice (first on line 1); the last one counts"]);
    }
}
