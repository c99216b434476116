//! Text of others, as a terminal may see it.

use std::fmt;

/// Most characters that are shown.
const LONGEST: usize = 2000;

/// Shows a text that another process wrote: without characters that a terminal obeys, that hide, or that change the order
/// of what is read, which are written as escapes (`\u{1b}`); and cut to a length that can be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown<'a>(pub(crate) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars().take(LONGEST) {
            if c.is_control() || is_hidden(c) { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        match self.0.chars().skip(LONGEST).count() {
            0 => Ok(()),
            more => write!(f, " ... ({more} more characters)"),
        }
    }
}

/// What is hidden anywhere, and marks without width, which no words of another rank need.
fn is_hidden(c: char) -> bool {
    let no_width = matches!(c, '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}');
    harness_core::is_hidden(c) || no_width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        let text = "\u{1b}[2J\u{1b}]0;pwned\u{7} \u{9b}31m \u{202e}abc\u{2066} line\nline\r zero\u{200b}width";
        let shown = Shown(text).to_string();
        assert!(!shown.chars().any(|c| c.is_control() || is_hidden(c)), "{shown:?}");
        assert!(shown.starts_with("\\u{1b}[2J\\u{1b}]0;pwned\\u{7} \\u{9b}31m \\u{202e}abc"), "{shown}");
        assert!(shown.contains("line\\nline\\r"), "{shown}");
        assert_eq!(Shown(&shown).to_string(), shown, "escaped once");
    }

    #[test]
    fn words_are_left_as_they_are() {
        let text = "rank 1: /home/jörg/模型: \"no\" \\ space";
        assert_eq!(Shown(text).to_string(), text);
    }

    #[test]
    fn long_texts_are_cut() {
        let shown = Shown(&"é".repeat(LONGEST + 5)).to_string();
        assert!(shown.ends_with("é ... (5 more characters)"), "{shown}");
    }
}
