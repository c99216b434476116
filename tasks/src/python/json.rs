//! JSON as Python's `json` reads and writes it.

use std::borrow::Cow;

/// Python writes `NaN` and `Infinity`, which JSON has not; they become `null`.
pub(crate) fn standard_json(text: &str) -> Cow<'_, str> {
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
    use super::*;

    #[test]
    fn python_numbers_that_json_has_not_become_null() {
        let text = r#"{"a": NaN, "b": -Infinity, "c": "NaN \" Infinity", "d": [Infinity]}"#;
        assert_eq!(standard_json(text), r#"{"a": null, "b": null, "c": "NaN \" Infinity", "d": [null]}"#);
    }
}
