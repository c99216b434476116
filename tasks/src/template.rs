//! Jinja templates as lm-eval renders them.
//!
//! Undefined names are errors, a trailing newline is kept, nothing is escaped, Python's string and list methods work,
//! and values print as Python prints them. Rendering has a budget (`harness_jinja`), so a definition file cannot hang a
//! run.

use std::sync::Arc;

use harness_core::limits;
use harness_jinja::{Jinja, add_multiplying_filter, describe, environment};
use harness_python::{PythonRegex, RegexError};
use minijinja::{
    Error, ErrorKind, Output, State, UndefinedBehavior, Value,
    syntax::SyntaxConfig,
    value::{Serde, ValueKind, from_args},
};
use serde_json::{Map, Value as Json};

use crate::{Place, TaskError, error::no_column, yaml::Node};
use harness_python as text;

/// The compiled templates of one task.
pub(crate) struct Templates {
    jinja: Jinja,
}

impl Templates {
    pub(crate) fn new() -> Self {
        let mut environment = environment();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        add_multiplying_filter(&mut environment, "regex_replace", Value::from_function(regex_replace));
        environment.add_filter("wikitext_detokenize", |text: &str| {
            crate::wikitext::detokenize(text)
                .map_err(|_| Error::new(ErrorKind::InvalidOperation, "the page needs too much backtracking"))
        });
        environment.add_filter("string", |value: &Value| python_str(value));
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build().unwrap_or_default();
        Self { jinja: Jinja::new(environment, syntax, print, method, *limits()) }
    }

    /// Compiles the text of a YAML scalar; an error names its place in the file.
    pub(crate) fn compile(&self, node: &Node, source: &str) -> Result<Template, TaskError> {
        let written = Written { source: source.into(), at: node.at.clone(), raw: node.raw.clone() };
        match self.jinja.compile(source) {
            Ok(compiled) => Ok(Template { written, compiled }),
            Err(error) => Err(TaskError::Template { at: written.place(&error), message: describe(&error) }),
        }
    }
}

/// A document's columns as template variables.
pub(crate) fn columns(fields: &Map<String, Json>) -> Value {
    Value::from(Serde(fields))
}

/// A compiled template and where it comes from.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    written: Written,
    compiled: harness_jinja::Template,
}

impl Template {
    /// The source.
    pub(crate) fn source(&self) -> &str {
        &self.written.source
    }

    /// Renders it with the columns of a document.
    pub(crate) fn render(&self, columns: &Value) -> Result<String, String> {
        let Self { written, compiled } = self;
        if !written.source.contains('{') {
            return Ok(written.source.to_string());
        }
        compiled.render(columns.clone()).map_err(|error| {
            let mut message = describe(&error);
            if error.kind() == ErrorKind::UndefinedError {
                let mut missing = compiled.undeclared();
                missing.retain(|name| columns.get_attr(name).is_ok_and(|v| v.is_undefined()));
                if !missing.is_empty() {
                    let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
                    let names: Vec<String> =
                        columns.try_iter().map(|keys| keys.map(|k| k.to_string()).collect()).unwrap_or_default();
                    message = no_column(&missing, names.iter().map(String::as_str));
                }
            }
            format!("{message} (template at {})", written.place(&error))
        })
    }
}

/// A template as a file has it.
#[derive(Clone, Debug)]
struct Written {
    source: Arc<str>,
    at: Place,
    raw: Option<Arc<str>>,
}

impl Written {
    /// The place of an error in the YAML file, as exactly as the scalar's notation allows.
    fn place(&self, error: &Error) -> Place {
        let line = error.line().unwrap_or(1);
        let offset = error.range().map_or(0, |range| range.start).min(self.source.len());
        let before = self.source.get(..offset).unwrap_or("");
        let column = before.chars().rev().take_while(|&c| c != '\n').count();
        let start = || Place { line: self.at.line, ..self.at.clone() };
        let Some(raw) = &self.raw else { return start() };
        if raw.starts_with(['"', '\'']) && !raw.contains('\n') {
            // Count the characters as written: an escape is one character of the template.
            let double = raw.starts_with('"');
            let mut written = 1;
            let mut chars = raw.chars().skip(1);
            for _ in before.chars() {
                match chars.next() {
                    Some('\\') if double => {
                        let digits = match chars.next() {
                            Some('x') => 2,
                            Some('u') => 4,
                            Some('U') => 8,
                            _ => 0,
                        };
                        written += 2 + digits;
                        (0..digits).for_each(|_| {
                            chars.next();
                        });
                    }
                    Some('\'') if !double => {
                        chars.next();
                        written += 2;
                    }
                    _ => written += 1,
                }
            }
            return Place { column: self.at.column + written, ..start() };
        }
        let wanted = self.source.lines().nth(line - 1).unwrap_or("").trim_start();
        // A block: find the line of the template among the lines as written.
        match raw.lines().enumerate().skip(line - 1).find(|(_, text)| text.trim_start() == wanted) {
            Some((index, text)) if raw.contains('\n') => {
                let indent = text.len() - text.trim_start().len();
                let own = self.source.lines().nth(line - 1).map_or(0, |l| l.len() - l.trim_start().len());
                let base = if index == 0 { self.at.column } else { indent.saturating_sub(own) + 1 };
                Place { line: self.at.line + index, column: base + column, ..start() }
            }
            _ if !raw.contains('\n') => Place { column: self.at.column + column, ..start() },
            _ => start(),
        }
    }
}

/// Prints a value as Python does.
fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    if value.is_undefined() {
        return minijinja::escape_formatter(out, state, value);
    }
    out.write_str(&python_str(value)).map_err(Error::from)
}

/// `str(value)` in Python.
fn python_str(value: &Value) -> String {
    match value.kind() {
        ValueKind::String => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
        ValueKind::Number if value.is_integer() => value.to_string(),
        ValueKind::None => "None".into(),
        ValueKind::Undefined => String::new(),
        _ => match serde_json::to_value(value) {
            Ok(json) => text::str(&json),
            Err(_) => value.to_string(),
        },
    }
}

/// lm-eval's filter `regex_replace(pattern, repl, count=0)`.
fn regex_replace(text: &str, pattern: &str, replacement: &str, count: Option<usize>) -> Result<String, Error> {
    let failed = |e: RegexError| Error::new(ErrorKind::InvalidOperation, e.to_string());
    PythonRegex::new(pattern).and_then(|regex| regex.sub(replacement, text, count.unwrap_or(0))).map_err(failed)
}

/// Python's methods of strings, lists and mappings that templates call.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let missing =
        |what: &str| Error::new(ErrorKind::InvalidOperation, format!("{what} is not in the {}", value.kind()));
    match (value.kind(), name) {
        (ValueKind::Seq | ValueKind::Iterable, "index") => {
            let (wanted,): (&Value,) = from_args(args)?;
            for (i, item) in value.try_iter()?.enumerate() {
                if item == *wanted {
                    return Ok(Value::from(i));
                }
            }
            Err(missing(&python_str(wanted)))
        }
        (ValueKind::String, _) => {
            let text = value.as_str().unwrap_or_default();
            match name {
                "strip" | "lstrip" | "rstrip" => {
                    let (set,): (Option<&str>,) = from_args(args)?;
                    let inside = |c: char| set.map_or_else(|| text::is_space(c), |set| set.contains(c));
                    let mut out = text;
                    if name != "rstrip" {
                        out = out.trim_start_matches(inside);
                    }
                    if name != "lstrip" {
                        out = out.trim_end_matches(inside);
                    }
                    Ok(Value::from(out))
                }
                "index" => {
                    let (wanted,): (&str,) = from_args(args)?;
                    let at = text.find(wanted).ok_or_else(|| missing(wanted))?;
                    Ok(Value::from(text[..at].chars().count()))
                }
                "zfill" => {
                    let (width,): (usize,) = from_args(args)?;
                    let (sign, digits) = text.split_at(usize::from(text.starts_with(['-', '+'])));
                    let zeros = width.min(10_000).saturating_sub(text.chars().count());
                    Ok(Value::from(format!("{sign}{}{digits}", "0".repeat(zeros))))
                }
                "removeprefix" | "removesuffix" => {
                    let (part,): (&str,) = from_args(args)?;
                    let cut = if name == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
                    Ok(Value::from(cut.unwrap_or(text)))
                }
                "casefold" => Ok(Value::from(text.to_lowercase())),
                "swapcase" => {
                    let swap = |c: char| -> String {
                        if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
                    };
                    Ok(Value::from(text.chars().map(swap).collect::<String>()))
                }
                "rsplit" => {
                    let (separator, most): (Option<&str>, Option<usize>) = from_args(args)?;
                    let mut parts: Vec<&str> = match (separator, most) {
                        (Some(separator), Some(most)) => text.rsplitn(most + 1, separator).collect(),
                        (Some(separator), None) => text.rsplit(separator).collect(),
                        (None, None) => text.split(text::is_space).filter(|part| !part.is_empty()).rev().collect(),
                        (None, Some(most)) => {
                            let words = text.trim_matches(text::is_space);
                            words.rsplitn(most + 1, text::is_space).filter(|part| !part.is_empty()).collect()
                        }
                    };
                    parts.reverse();
                    Ok(parts.into_iter().map(Value::from).collect())
                }
                "partition" | "rpartition" => {
                    let (separator,): (&str,) = from_args(args)?;
                    let split =
                        if name == "partition" { text.split_once(separator) } else { text.rsplit_once(separator) };
                    let (a, b, c) = match split {
                        Some((before, after)) => (before, separator, after),
                        None if name == "partition" => (text, "", ""),
                        None => ("", "", text),
                    };
                    Ok([a, b, c].into_iter().map(Value::from).collect())
                }
                _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
            }
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::yaml;

    fn render(source: &str, doc: Json) -> Result<String, String> {
        let templates = Templates::new();
        let node = yaml::parse("t.yaml", &serde_json::to_string(source).unwrap()).unwrap();
        let template = templates.compile(&node, source).map_err(|e| e.to_string())?;
        template.render(&columns(doc.as_object().unwrap()))
    }

    /// Answers of Jinja2 3.1.
    #[test]
    fn renders_as_jinja2() {
        let doc = json!({"q": " a b ", "c": {"text": ["x", "it's"], "label": ["A", "B"]}, "k": "B", "n": 3, "f": 1.0,
            "none": null, "yes": true});
        let cases = [
            ("{{q.strip()}}|{{q}}\n", "a b| a b \n"),
            ("{{c.label.index(k)}}", "1"),
            ("{{c.text}}", "['x', \"it's\"]"),
            ("{{none}} {{yes}} {{f}} {{n/2}} {{n//2}}", "None True 1.0 1.5 1"),
            ("{{q|regex_replace('\\\\s+', '_')}}", "_a_b_"),
            ("{% for x in c.text %}{{loop.index}}{{x}} {% endfor %}", "1x 2it's "),
            ("{{['no', 'yes'][yes]}}{{ 'ABC'[n-1] }}", "yesC"),
            ("{{q.split()[0]|upper}}{{k.zfill(3)}}", "A00B"),
            ("{{c['text'][0]~n}}", "x3"),
            ("{% if missing is defined %}a{% else %}b{% endif %}", "b"),
        ];
        for (source, expected) in cases {
            assert_eq!(render(source, doc.clone()).as_deref(), Ok(expected), "{source}");
        }
    }

    #[test]
    fn a_missing_column_is_named() {
        let error = render("{{questio}}", json!({"question": "x", "answer": 1})).unwrap_err();
        assert!(
            error.starts_with(
                "the data has no column questio; its columns are question, answer; did you mean question?"
            ),
            "{error}"
        );
    }

    #[test]
    fn places_are_exact() {
        let place = |file: &str| {
            let node = yaml::parse("t.yaml", file).unwrap();
            let yaml::Yaml::Map(entries) = &node.value else { panic!() };
            let value = &entries[0].value;
            let source = value.json().as_str().unwrap().to_owned();
            Templates::new().compile(value, &source).unwrap_err().to_string().split(": ").next().unwrap().to_owned()
        };
        assert_eq!(place("doc_to_text: \"Q:\\n\\u0041 {{ a b }}\"\n"), "t.yaml:1:31");
        assert_eq!(place("doc_to_text: 'it''s {{ a b }}'\n"), "t.yaml:1:26");
        assert_eq!(place("x: |\n  one\n  two {{ a b }}\n"), "t.yaml:3:12");
        assert_eq!(place("x: Q {{ a b }}\n"), "t.yaml:1:11");
    }

    #[test]
    fn a_runaway_template_ends() {
        let error = render("{% for a in range(9999) %}{% for b in range(9999) %}.{% endfor %}{% endfor %}", json!({}));
        assert!(error.unwrap_err().contains("fuel"));
    }
}
