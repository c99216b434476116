//! Python's `ast.literal_eval` for what templates render: strings, numbers, lists, tuples, dictionaries, constants.

use serde_json::{Map, Number, Value};

/// Reads one literal; `None` where Python would raise. Tuples become lists, keys become strings.
pub fn literal_eval(text: &str) -> Option<Value> {
    let mut reader = Reader { rest: text.trim_start_matches([' ', '\t']), depth: 0 };
    let value = reader.value()?;
    reader.space();
    reader.rest.is_empty().then_some(value)
}

struct Reader<'a> {
    rest: &'a str,
    depth: usize,
}

impl Reader<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']);
    }

    fn eat(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self) -> Option<Value> {
        self.space();
        let first = self.rest.chars().next()?;
        match first {
            '[' => self.sequence("]"),
            '(' => self.sequence(")"),
            '{' => self.mapping(),
            '\'' | '"' | 'r' | 'R' | 'u' | 'U' => self.strings(),
            '0'..='9' | '.' | '-' | '+' => self.number(),
            _ if self.word("None") => Some(Value::Null),
            _ if self.word("True") => Some(Value::Bool(true)),
            _ if self.word("False") => Some(Value::Bool(false)),
            _ => None,
        }
    }

    fn word(&mut self, word: &str) -> bool {
        let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        self.rest.strip_prefix(word).is_some_and(ends) && self.eat(word)
    }

    fn sequence(&mut self, close: &str) -> Option<Value> {
        self.depth += 1;
        if self.depth > 100 {
            return None;
        }
        self.rest = &self.rest[1..];
        let mut items = Vec::new();
        let mut commas = 0;
        loop {
            self.space();
            if self.eat(close) {
                break;
            }
            if items.len() > commas {
                return None;
            }
            items.push(self.value()?);
            self.space();
            commas += usize::from(self.eat(","));
        }
        self.depth -= 1;
        if close == ")" && items.len() == 1 && commas == 0 {
            return items.pop();
        }
        Some(Value::Array(items))
    }

    fn mapping(&mut self) -> Option<Value> {
        self.depth += 1;
        if self.depth > 100 {
            return None;
        }
        self.rest = &self.rest[1..];
        let mut map = Map::new();
        loop {
            self.space();
            if self.eat("}") {
                break;
            }
            let key = match self.value()? {
                Value::String(key) => key,
                other => crate::repr(&other),
            };
            self.space();
            if !self.eat(":") {
                return None;
            }
            let value = self.value()?;
            map.insert(key, value);
            self.space();
            if !self.eat(",") && !self.rest.starts_with('}') {
                return None;
            }
        }
        self.depth -= 1;
        Some(Value::Object(map))
    }

    /// One string, or several beside each other, which Python joins.
    fn strings(&mut self) -> Option<Value> {
        let mut text = String::new();
        loop {
            self.string(&mut text)?;
            self.space();
            if !self.rest.starts_with(['\'', '"']) {
                return Some(Value::String(text));
            }
        }
    }

    fn string(&mut self, out: &mut String) -> Option<()> {
        let raw = self.eat("r") || self.eat("R");
        let _ = !raw && (self.eat("u") || self.eat("U"));
        let quote = ["'''", "\"\"\"", "'", "\""].into_iter().find(|quote| self.rest.starts_with(quote))?;
        self.eat(quote);
        loop {
            if self.eat(quote) {
                return Some(());
            }
            let c = self.rest.chars().next()?;
            if c == '\n' && quote.len() == 1 {
                return None;
            }
            self.rest = &self.rest[c.len_utf8()..];
            if c != '\\' {
                out.push(c);
                continue;
            }
            let escaped = self.rest.chars().next()?;
            if raw {
                out.push('\\');
                out.push(escaped);
                self.rest = &self.rest[escaped.len_utf8()..];
                continue;
            }
            self.rest = &self.rest[escaped.len_utf8()..];
            match escaped {
                '\n' => {}
                '\\' | '\'' | '"' => out.push(escaped),
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                'a' => out.push('\x07'),
                'b' => out.push('\x08'),
                'f' => out.push('\x0c'),
                'v' => out.push('\x0b'),
                'x' => out.push(self.hex(2)?),
                'u' => out.push(self.hex(4)?),
                'U' => out.push(self.hex(8)?),
                '0'..='7' => {
                    let mut code = escaped.to_digit(8)?;
                    for _ in 0..2 {
                        let Some(digit) = self.rest.chars().next().and_then(|c| c.to_digit(8)) else { break };
                        code = code * 8 + digit;
                        self.rest = &self.rest[1..];
                    }
                    out.push(char::from_u32(code)?);
                }
                other => {
                    out.push('\\');
                    out.push(other);
                }
            }
        }
    }

    fn hex(&mut self, digits: usize) -> Option<char> {
        let code = u32::from_str_radix(self.rest.get(..digits)?, 16).ok()?;
        self.rest = &self.rest[digits..];
        char::from_u32(code)
    }

    fn number(&mut self) -> Option<Value> {
        let end = self
            .rest
            .char_indices()
            .find(|&(i, c)| {
                let exponent = i > 0 && matches!(self.rest.as_bytes()[i - 1], b'e' | b'E');
                !(c.is_ascii_alphanumeric() || c == '.' || c == '_' || matches!(c, '+' | '-') && (i == 0 || exponent))
            })
            .map_or(self.rest.len(), |(i, _)| i);
        let (token, rest) = self.rest.split_at(end);
        let clean = token.replace('_', "");
        let digits = clean.trim_start_matches(['-', '+']);
        if digits.len() > 1 && digits.starts_with('0') && digits.chars().all(|c| c.is_ascii_digit()) {
            return None;
        }
        self.rest = rest;
        let unsigned = clean.strip_prefix('+').unwrap_or(&clean);
        if let Ok(int) = unsigned.parse::<i64>() {
            return Some(Value::from(int));
        }
        if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            return None;
        }
        unsigned.parse::<f64>().ok().and_then(Number::from_f64).map(Value::Number)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_what_python_reads() {
        assert_eq!(literal_eval(r#"['a', "it's", 'b\'c\n', u'd' 'e']"#), Some(json!(["a", "it's", "b'c\n", "de"])));
        assert_eq!(literal_eval("(1, 2.5, -3, None, True,)"), Some(json!([1, 2.5, -3, null, true])));
        assert_eq!(literal_eval("{'a': [1], 'b': ('x')}"), Some(json!({"a": [1], "b": "x"})));
        assert_eq!(literal_eval("[]"), Some(json!([])));
        for wrong in ["[a]", "['a'", "['a' 1]", "", "01", "[1,,2]", "nan", "1 2", "'a\nb'"] {
            assert_eq!(literal_eval(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn undoes_repr(texts in proptest::collection::vec(".*", 0..4), number: i64) {
            let value = json!([texts, number]);
            prop_assert_eq!(literal_eval(&crate::repr(&value)), Some(value));
        }

        #[test]
        fn never_panics(text in ".*") {
            let _ = literal_eval(&text);
        }
    }
}
