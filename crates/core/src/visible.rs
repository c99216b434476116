//! Characters that act instead of showing, made visible.
//!
//! Texts from models, servers and files can hold control characters: on a terminal they move the cursor, change colours or
//! the clipboard, and hide what was printed before. Marks of direction show text in another order than it has. Both are
//! shown as their code point, `[U+001B]`, wherever such a text is printed or reported.

use std::{borrow::Cow, fmt::Write as _};

/// Whether a character acts on what is around it instead of being shown: the control characters of ASCII and Latin-1 but
/// newline and tab, separators of lines and paragraphs, and everything that sets the direction of writing.
pub fn is_hidden(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        c => c.is_control(),
    }
}

/// The text with every [hidden](is_hidden) character as its code point, `[U+001B]`. Newlines and tabs stay.
pub fn visible(text: &str) -> Cow<'_, str> {
    replaced(text, |c, shown| {
        let _ = write!(shown, "[U+{:04X}]", u32::from(c));
    })
}

/// JSON with every [hidden](is_hidden) character as an escape, `\u202e`: other bytes, the same value.
pub fn visible_json(json: &str) -> Cow<'_, str> {
    replaced(json, |c, shown| {
        let mut units = [0; 2];
        for unit in c.encode_utf16(&mut units) {
            let _ = write!(shown, "\\u{unit:04x}");
        }
    })
}

fn replaced(text: &str, mut show: impl FnMut(char, &mut String)) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hidden(c) { show(c, &mut shown) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_is_shown() {
        assert_eq!(visible("a\x1b]0;t\x07b"), "a[U+001B]]0;t[U+0007]b");
        assert_eq!(visible("\0\r\x7f\u{85}\u{9d}"), "[U+0000][U+000D][U+007F][U+0085][U+009D]");
        assert_eq!(visible("\u{202d}x\u{202c}\u{2067}\u{200f}"), "[U+202D]x[U+202C][U+2067][U+200F]");
        // Control characters of Unicode's first 256 are all there are, and none but these two stay.
        let stay: Vec<char> =
            (0..=0xff).filter_map(char::from_u32).filter(|c| c.is_control() && !is_hidden(*c)).collect();
        assert_eq!(stay, ['\t', '\n']);
    }

    #[test]
    fn what_shows_stays_as_it_is() {
        // Hebrew, a joined emoji, Persian with a joiner of no width, and an unbreakable space.
        let text = "line\n\tשלום 👩‍🔬 می‌خواهم\u{a0}é\u{ad}";
        assert!(matches!(visible(text), Cow::Borrowed(same) if same == text));
    }

    #[test]
    fn json_keeps_its_value() {
        let value = serde_json::json!({"a\u{9b}": "\u{202e}\x1b \u{7f} é"});
        let text = serde_json::to_string_pretty(&value).unwrap();
        let shown = visible_json(&text);
        assert!(!shown.chars().any(is_hidden) && shown.contains("\\u202e") && shown.contains('é'), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }
}
