//! Why an answer has no verdict.

use crate::Unparsed;

/// How often a piece of text has to follow itself to count as endless.
const REPEATED: usize = 8;

/// The most telling reason for an answer that a parser could not read.
pub(super) fn refine(reason: Unparsed, text: &str, cut: bool) -> Unparsed {
    if !matches!(reason, Unparsed::NoVerdict | Unparsed::NoLabel | Unparsed::Empty) {
        return reason;
    }
    let trimmed = text.trim();
    if trimmed.is_empty() {
        if cut { Unparsed::CutByLimit } else { Unparsed::Empty }
    } else if is_html(trimmed) {
        Unparsed::Html
    } else if is_repetition(trimmed) {
        Unparsed::Repetition
    } else if is_refusal(trimmed) {
        Unparsed::Refusal
    } else if cut {
        Unparsed::CutByLimit
    } else {
        reason
    }
}

fn is_html(text: &str) -> bool {
    let start: String = text.chars().take(64).collect::<String>().to_ascii_lowercase();
    start.starts_with("<!doctype html") || start.starts_with("<html") || start.starts_with("<?xml")
}

fn is_refusal(text: &str) -> bool {
    let start: String = text.chars().take(120).collect::<String>().to_lowercase().replace('’', "'");
    let signs = [
        "i can't",
        "i cannot",
        "i'm sorry",
        "i am sorry",
        "i'm unable",
        "i am unable",
        "i won't",
        "i will not",
        "as an ai",
    ];
    signs.iter().any(|sign| start.starts_with(sign) || start.contains(&format!(". {sign}")))
}

/// Whether the text ends in a piece of up to 200 characters that follows itself eight times.
fn is_repetition(text: &str) -> bool {
    let characters: Vec<char> = text.chars().rev().take(200 * REPEATED).collect();
    let n = characters.len();
    (1..=200).take_while(|period| period * REPEATED <= n).any(|period| {
        let spanned = period * REPEATED;
        // A run of one character is only a divider unless it is long.
        (period > 1 || n >= 64 && characters[..64].iter().all(|c| *c == characters[0]))
            && (period..spanned).all(|i| characters[i] == characters[i - period])
            && characters[..period].iter().any(|c| !c.is_whitespace())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(text: &str) -> Unparsed {
        refine(Unparsed::NoVerdict, text, false)
    }

    #[test]
    fn reasons_are_told_apart() {
        assert_eq!(reason(" \n"), Unparsed::Empty);
        assert_eq!(reason("<!DOCTYPE html>\n<html><body>502</body></html>"), Unparsed::Html);
        assert_eq!(reason("I'm sorry, but I can't help with that."), Unparsed::Refusal);
        assert_eq!(reason(&format!("Well. {}", "The response is good. ".repeat(30))), Unparsed::Repetition);
        assert_eq!(reason(&"!".repeat(300)), Unparsed::Repetition);
        assert_eq!(reason("The response is good, and so on.\n----------"), Unparsed::NoVerdict);
        assert_eq!(refine(Unparsed::NoVerdict, "The response", true), Unparsed::CutByLimit);
        assert_eq!(refine(Unparsed::Empty, "", true), Unparsed::CutByLimit);
        let out = Unparsed::OutOfRange { found: "9".into() };
        assert_eq!(refine(out.clone(), "[RESULT] 9", true), out);
    }
}
