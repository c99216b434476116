//! JSON as Python's `json.dumps` writes it.

use std::{borrow::Cow, fmt::Write};

use serde_json::{Number, Value};

/// How JSON is written as text; the default is that of `json.dumps(value, ensure_ascii=False)`.
#[derive(Clone, Debug, Default)]
pub struct PythonJson {
    /// Spaces of one level; `None` = all on one line.
    pub indent: Option<usize>,
    /// Write everything outside ASCII as `\u` escapes.
    pub ensure_ascii: bool,
    /// Sort the keys of objects.
    pub sort_keys: bool,
    /// Between items, and between key and value; `None` = Python's: `", "` (`","` when indented) and `": "`.
    pub separators: Option<(String, String)>,
}

impl PythonJson {
    /// The text of a value.
    pub fn dumps(&self, value: &Value) -> String {
        let item = if self.indent.is_some() { "," } else { ", " };
        let (item, key) = match &self.separators {
            Some((item, key)) => (item.as_str(), key.as_str()),
            None => (item, ": "),
        };
        let mut writer = Writer { out: String::new(), style: self, item, key };
        writer.value(value, 0);
        writer.out
    }
}

struct Writer<'a> {
    out: String,
    style: &'a PythonJson,
    item: &'a str,
    key: &'a str,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, level: usize) {
        match value {
            Value::Null => self.out.push_str("null"),
            Value::Bool(true) => self.out.push_str("true"),
            Value::Bool(false) => self.out.push_str("false"),
            Value::Number(number) => self.number(number),
            Value::String(text) => self.string(text),
            Value::Array(items) if items.is_empty() => self.out.push_str("[]"),
            Value::Array(items) => {
                self.out.push('[');
                for (i, item) in items.iter().enumerate() {
                    self.separate(i, level + 1);
                    self.value(item, level + 1);
                }
                self.line(level);
                self.out.push(']');
            }
            Value::Object(fields) if fields.is_empty() => self.out.push_str("{}"),
            Value::Object(fields) => {
                self.out.push('{');
                let mut fields: Vec<_> = fields.iter().collect();
                if self.style.sort_keys {
                    fields.sort_by_key(|&(name, _)| name);
                }
                for (i, (name, field)) in fields.into_iter().enumerate() {
                    self.separate(i, level + 1);
                    self.string(name);
                    self.out.push_str(self.key);
                    self.value(field, level + 1);
                }
                self.line(level);
                self.out.push('}');
            }
        }
    }

    fn separate(&mut self, index: usize, level: usize) {
        if index > 0 {
            self.out.push_str(self.item);
        }
        self.line(level);
    }

    fn line(&mut self, level: usize) {
        if let Some(indent) = self.style.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent * level));
        }
    }

    /// Integers as they are; floats as Python's `repr`.
    fn number(&mut self, number: &Number) {
        match number.as_f64() {
            Some(x) if number.is_f64() => self.out.push_str(&python_float(x)),
            _ => self.out.push_str(&number.to_string()),
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.style.ensure_ascii && c > '~') => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        // Writing to a string cannot fail.
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// `repr` of a float: the shortest digits that read back equal, with an exponent from 1e16 on and below 1e-4, as Python writes floats.
pub fn python_float(x: f64) -> String {
    let magnitude = x.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{x:e}");
        if let Some((digits, exponent)) = text.split_once('e') {
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            return format!("{digits}e{sign}{exponent:0>2}");
        }
    }
    match x {
        _ if x.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        _ => format!("{x:?}"),
    }
}

/// A text of Python's `json` as JSON: `NaN` and `Infinity`, which JSON does not have, become `null`.
pub fn standard_json(text: &str) -> Cow<'_, str> {
    if !["NaN", "Infinity"].iter().any(|word| text.contains(word)) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let (mut in_string, mut rest) = (false, text);
    while let Some(c) = rest.chars().next() {
        if !in_string && let Some(after) = ["NaN", "-Infinity", "Infinity"].iter().find_map(|w| rest.strip_prefix(*w)) {
            out.push_str("null");
            rest = after;
            continue;
        }
        let mut length = c.len_utf8();
        match c {
            '"' => in_string = !in_string,
            '\\' if in_string => length += rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => {}
        }
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn style() -> PythonJson {
        PythonJson::default()
    }

    #[test]
    fn writes_as_python_does() {
        let value =
            json!({"b": [1, 2.0, 1e20, 1e-7, -0.5, 1.5e-10], "a": "é\"\\\n\u{1}<>", "n": null, "e": {}, "l": []});
        assert_eq!(
            style().dumps(&value),
            r#"{"b": [1, 2.0, 1e+20, 1e-07, -0.5, 1.5e-10], "a": "é\"\\\n\u0001<>", "n": null, "e": {}, "l": []}"#
        );
        let ascii = PythonJson { ensure_ascii: true, sort_keys: true, ..style() };
        assert_eq!(
            ascii.dumps(&json!({"z": "é😀\u{7f}", "a": true})),
            r#"{"a": true, "z": "\u00e9\ud83d\ude00\u007f"}"#
        );
        let indented = PythonJson { indent: Some(2), ..style() };
        assert_eq!(
            indented.dumps(&json!({"a": [1, {"b": 2}], "c": []})),
            "{\n  \"a\": [\n    1,\n    {\n      \"b\": 2\n    }\n  ],\n  \"c\": []\n}"
        );
        let tight = PythonJson { separators: Some((",".into(), ":".into())), ..style() };
        assert_eq!(tight.dumps(&json!({"a": [1, 2]})), r#"{"a":[1,2]}"#);
    }

    #[test]
    fn python_numbers_that_json_has_not_become_null() {
        let text = r#"{"a": NaN, "b": -Infinity, "c": "NaN \" Infinity", "d": [Infinity]}"#;
        assert_eq!(standard_json(text), r#"{"a": null, "b": null, "c": "NaN \" Infinity", "d": [null]}"#);
    }
}
