//! The Jinja environment of chat templates: what transformers gives a template, in minijinja.

use std::sync::LazyLock;

use fancy_regex::Regex;
use harness_core::limits;
use harness_jinja::{Jinja, Template, add_multiplying_filter, describe, environment};
use harness_python::{PythonJson, python_float, title};
use minijinja::{
    Error, ErrorKind, Output, State, Value, escape_formatter,
    syntax::SyntaxConfig,
    value::{Kwargs, ValueKind},
};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::GENERATION_MARKS;
use crate::EngineError;

/// `{% generation %}` marks what an assistant says, for loss masks; it does not change the text.
static GENERATION: LazyLock<Regex> = LazyLock::new(|| pattern(r"\{%([-+]?)\s*generation\s*([-+]?)%\}"));
static END_GENERATION: LazyLock<Regex> = LazyLock::new(|| pattern(r"\{%([-+]?)\s*endgeneration\s*([-+]?)%\}"));

/// A template that looks whether it is told the date.
pub(super) static ASKS_FOR_CLOCK: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"strftime_now\s+is\s+(not\s+)?(defined|undefined|none|callable)|(if|and|or|not)\s+strftime_now\b(?!\s*\()")
});

fn pattern(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant pattern")
}

/// A template, and where it has generation blocks once more with their texts between [`GENERATION_MARKS`].
pub(super) struct Compiled {
    pub plain: Template,
    pub marked: Option<Template>,
}

/// Compiles a template.
pub(super) fn compile(source: &str) -> Result<Compiled, EngineError> {
    let source = source.replace("\r\n", "\n");
    let blocks = |begin: &str, end: &str| -> String {
        let source = GENERATION.replace_all(&source, begin);
        END_GENERATION.replace_all(&source, end).into_owned()
    };
    let [begin, end] = GENERATION_MARKS.map(|mark| format!("{{{{ '{mark}' }}}}"));
    let marked =
        blocks(&format!("{{%$1 if true %}}{begin}{{% if true $2%}}"), &format!("{{%$1 endif %}}{end}{{% endif $2%}}"));
    let source = blocks("{%$1 if true $2%}", "{%$1 endif $2%}");

    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(failed)?;
    let mut environment = environment();
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message).with_source(Raised))
    });
    add_multiplying_filter(&mut environment, "tojson", Value::from_function(tojson));
    environment.add_filter("e", escape);
    environment.add_filter("escape", escape);
    environment.add_test("iterable", |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Undefined
        )
    });
    let jinja = Jinja::new(environment, syntax, print, method, *limits());
    let marked = if marked == source { None } else { Some(jinja.compile(&marked).map_err(failed)?) };
    Ok(Compiled { plain: jinja.compile(&source).map_err(failed)?, marked })
}

/// Calls a method as Python does.
fn method(state: &mut State, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    match (name, value.as_str(), arguments) {
        ("title", Some(text), []) => Ok(title(text).into()),
        _ => unknown_method_callback(state, value, name, arguments),
    }
}

/// Prints floating-point numbers as Python does.
fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match f64::try_from(value.clone()) {
        Ok(number) if value.kind() == ValueKind::Number && !value.is_integer() => {
            Ok(out.write_str(&python_float(number))?)
        }
        _ => escape_formatter(out, state, value),
    }
}

/// Marks an error as one that the template raised itself.
#[derive(Debug, thiserror::Error)]
#[error("raised by the template")]
struct Raised;

/// A template's own message as it is; any other failure with its line.
pub(super) fn failed(error: Error) -> EngineError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(jinja) = current.downcast_ref::<Error>()
            && let Some(source) = std::error::Error::source(jinja)
            && source.is::<Raised>()
        {
            return EngineError::ChatTemplate(jinja.detail().unwrap_or_default().to_owned());
        }
        cause = current.source();
    }
    let line = error.line().map(|line| format!("line {line}: ")).unwrap_or_default();
    EngineError::ChatTemplate(format!("{line}{}", describe(&error)))
}

/// HTML's letters in the way of Jinja's `escape`.
fn escape(value: &Value) -> String {
    let html = value.to_string().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    html.replace('"', "&#34;").replace('\'', "&#39;")
}

/// `json.dumps(value, ensure_ascii=…, indent=…, separators=…, sort_keys=…)`; unlike Jinja's own filter it does not
/// escape HTML.
fn tojson(value: &Value, ascii: Option<Value>, indent: Option<usize>, options: Kwargs) -> Result<String, Error> {
    if value.is_undefined() {
        return Err(Error::new(ErrorKind::InvalidOperation, "an undefined value cannot be written as JSON"));
    }
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<usize>>("indent")?,
    };
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let style = PythonJson {
        indent,
        ensure_ascii: match ascii {
            Some(ascii) => ascii.is_true(),
            None => options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        },
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        separators: match separators.as_deref() {
            None => None,
            Some([item, key]) => Some((item.clone(), key.clone())),
            Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "`separators` are two strings")),
        },
    };
    options.assert_all_used()?;
    let value = serde_json::to_value(value)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, "not JSON").with_source(error))?;
    Ok(style.dumps(&value))
}
