//! The cells of a row as a template sees them: text, numbers and booleans can be printed, nothing else.
//!
//! A null, a list or an object can be tested, indexed and iterated over. Where its own form gets into a text, by `{{ }}`, by
//! `~` or through a filter, it leaves a mark there, and the row is refused by the name of the cell.

use std::{fmt, sync::Arc};

use harness_jinja::add_multiplying_filter;
use harness_python::python_float;
use minijinja::{
    Environment, Error, ErrorKind, Output, State,
    value::{Enumerator, Kwargs, Object, ObjectRepr, Serde, Value, ValueKind},
};
use serde_json::{Map, Value as Json};

/// Begins and ends the mark that a cell leaves; the last private characters of Unicode, which no letter case changes.
const MARK: [char; 2] = ['\u{10FFFC}', '\u{10FFFD}'];

/// The values of a row for a template.
pub(super) fn values(row: &Map<String, Json>) -> Value {
    Value::from_pairs(row.iter().map(|(name, value)| (name.clone(), cell(format!("column {name:?}"), value))))
}

fn cell(name: String, value: &Json) -> Value {
    let content = match value {
        Json::String(_) | Json::Number(_) | Json::Bool(_) => return Value::from(Serde(value)),
        Json::Null => Content::Null,
        Json::Array(items) => {
            Content::List(items.iter().enumerate().map(|(i, item)| cell(format!("{name}[{i}]"), item)).collect())
        }
        Json::Object(entries) => {
            let entry = |(key, item): (&String, &Json)| (key.clone(), cell(format!("{name}[{key:?}]"), item));
            Content::Map(entries.iter().map(entry).collect())
        }
    };
    Value::from_object(Cell { name, content })
}

/// A cell that cannot be printed.
#[derive(Debug)]
struct Cell {
    name: String,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Null,
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
}

impl Object for Cell {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        match self.content {
            Content::Null => ObjectRepr::Plain,
            Content::List(_) => ObjectRepr::Seq,
            Content::Map(_) => ObjectRepr::Map,
        }
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match &self.content {
            Content::Null => None,
            Content::List(items) => items.get(key.as_usize()?).cloned(),
            Content::Map(entries) => {
                let key = key.as_str()?;
                entries.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
            }
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match &self.content {
            Content::Null => Enumerator::NonEnumerable,
            Content::List(items) => Enumerator::Seq(items.len()),
            Content::Map(entries) => {
                Enumerator::Values(entries.iter().map(|(name, _)| Value::from(name.as_str())).collect())
            }
        }
    }

    fn is_true(self: &Arc<Self>) -> bool {
        match &self.content {
            Content::Null => false,
            Content::List(items) => !items.is_empty(),
            Content::Map(entries) => !entries.is_empty(),
        }
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.content {
            Content::Null => "is null",
            Content::List(_) => "holds a list",
            Content::Map(_) => "holds an object",
        };
        write!(f, "{}{} {what}{}", MARK[0], self.name, MARK[1])
    }
}

/// Makes an environment treat cells as what they hold.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.add_test("none", |value: &Value| value.is_none() || is_null(value));
    add_multiplying_filter(environment, "tojson", Value::from_function(tojson));
}

fn is_null(value: &Value) -> bool {
    value.downcast_object_ref::<Cell>().is_some_and(|cell| matches!(cell.content, Content::Null))
}

/// Prints numbers and booleans as Python does.
pub(super) fn print(out: &mut Output, _: &mut State, value: &Value) -> Result<(), Error> {
    let refused = |what: &str| Err(Error::new(ErrorKind::InvalidOperation, format!("{what} is not text")));
    let is_cell = value.downcast_object_ref::<Cell>().is_some();
    let whole = value.is_integer() || value.kind() != ValueKind::Number;
    let written = match value.kind() {
        ValueKind::Number if !whole => match f64::try_from(value.clone()) {
            Ok(number) => write!(out, "{}", python_float(number)),
            Err(_) => write!(out, "{value}"),
        },
        ValueKind::Undefined | ValueKind::Bool | ValueKind::Number | ValueKind::String => write!(out, "{value}"),
        // Its mark says more.
        _ if is_cell => write!(out, "{value}"),
        ValueKind::None => return refused("none"),
        ValueKind::Seq | ValueKind::Iterable => return refused("a list"),
        _ => return refused("an object"),
    };
    written.map_err(Error::from)
}

/// The filter of the engine; nulls in what is written are `null`.
fn tojson(value: &Value, indent: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let json = minijinja::filters::tojson(value, indent, options)?;
    let text = json.as_str().unwrap_or_default();
    let (mut whole, mut rest) = (String::new(), text);
    let begin = format!("\"{}", MARK[0]);
    let end = format!("{}\"", MARK[1]);
    while let Some((before, after)) = rest.split_once(&begin) {
        whole += before;
        whole += "null";
        rest = after.split_once(&end).map_or("", |(_, after)| after);
    }
    Ok(Value::from_safe_string(whole + rest))
}

/// The text of a template, unless a cell has left its mark; then the first one, in words.
pub(super) fn unmarked(text: String) -> Result<String, String> {
    match text.split_once(MARK[0]) {
        None => Ok(text),
        Some((_, marked)) => Err(marked.split(MARK[1]).next().unwrap_or(marked).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(source: &str, row: Json) -> Result<String, String> {
        let mut environment = Environment::new();
        install(&mut environment);
        environment.set_formatter(print);
        let text = environment.render_str(source, values(row.as_object().unwrap())).map_err(|e| e.to_string())?;
        unmarked(text)
    }

    #[test]
    fn no_way_to_print_what_is_no_text() {
        let row = || json!({"n": null, "l": ["a", null, ["b"]], "o": {"k": null, "t": "x"}});
        for (source, found) in [
            ("{{ n }}", "column \"n\" is null"),
            ("{{ ' ' ~ n }}", "column \"n\" is null"),
            ("{{ n | upper }}", "COLUMN \"N\" IS NULL"),
            ("{{ n | string | trim }}", "column \"n\" is null"),
            ("{{ 'a' | replace('a', n) }}", "column \"n\" is null"),
            ("{{ l }}", "column \"l\" holds a list"),
            ("{% for x in l %}{{ x }}{% endfor %}", "column \"l\"[1] is null"),
            ("{{ l | join(' ') }}", "column \"l\"[1] is null"),
            ("{{ l[2] }}", "column \"l\"[2] holds a list"),
            ("{{ o.k }}", "column \"o\"[\"k\"] is null"),
            ("{{ o ~ '' }}", "column \"o\" holds an object"),
        ] {
            assert_eq!(render(source, row()).unwrap_err(), found, "{source}");
        }
        for source in ["{{ none }}", "{{ [1] }}", "{{ {'a': 1} }}", "{{ l | sort }}", "{{ l[:1] }}"] {
            assert!(render(source, row()).is_err(), "{source}");
        }
    }

    #[test]
    fn cells_can_be_asked() {
        let row =
            || json!({"n": null, "l": ["a", null], "o": {"k": null, "t": "x"}, "b": true, "f": 1e-7, "i": 12, "e": []});
        for (source, text) in [
            ("{% if n %}x{% endif %}{{ n or 'y' }}{{ n | default('z', true) }}", "yz"),
            ("{{ n is none }} {{ n is not none }} {{ n is defined }} {{ l is none }}", "True False True False"),
            ("{{ l[0] }}{{ l | length }}{{ 'a' in l }}{{ o.t }}{{ o['t'] }}{{ 't' in o }}", "a2TruexxTrue"),
            ("{% for k, v in o | items %}{{ k }}{{ v is none }} {% endfor %}", "kTrue tFalse "),
            ("{{ b }} {{ f }} {{ i }} {{ 1.0 }} {{ 1e16 }}", "True 1e-07 12 1.0 1e+16"),
            (
                "{{ o | tojson }} {{ n | tojson }} {{ e | tojson }}{% if e %}x{% endif %}",
                "{\"k\": null, \"t\": \"x\"} null []",
            ),
            ("{{ l[-1] is none }}{{ 'x' if n }}", "True"),
        ] {
            assert_eq!(render(source, row()).unwrap(), text, "{source}");
        }
    }
}
