//! Verdicts inside texts of other tools, of which only the usual marks are known.

use std::sync::LazyLock;

use harness_core::split_marked_thinking;
use regex::Regex;

/// What a text holds by the usual marks: `[[7]]`, `[[A]]`, or `[RESULT] 4`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Marked {
    /// No mark.
    None,
    /// A verdict, as it stands between or behind the marks.
    One(String),
    /// Several that contradict each other.
    Several(Vec<String>),
}

/// The verdict that stands in a text, after any thinking. Double brackets go before `[RESULT]`; the same verdict several
/// times is one.
pub fn marked(text: &str) -> Marked {
    static DOUBLE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\[\[\s*([^\[\]\s][^\[\]]{0,31}?)\s*\]\]").expect("a pattern"));
    static RESULT: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?i)\[RESULT\]:?\s*[(\[]?\s*([0-9]+(?:\.[0-9]+)?|[A-Za-z]+)").expect("a pattern")
    });
    let thinking = split_marked_thinking(text);
    let text = thinking.answer();
    for mark in [&DOUBLE, &RESULT] {
        let mut found: Vec<String> = mark.captures_iter(text).map(|found| found[1].to_owned()).collect();
        found.sort();
        found.dedup();
        match found.len() {
            0 => {}
            1 => return Marked::One(found.remove(0)),
            _ => return Marked::Several(found),
        }
    }
    Marked::None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_inside_texts() {
        let one = |text: &str| Marked::One(text.to_owned());
        assert_eq!(marked("Both are fine, yet the first is better. [[A]]"), one("A"));
        assert_eq!(marked("Rating: [[7]] because of that. Rating: [[7]]"), one("7"));
        assert_eq!(marked("It lacks depth. So the overall score is 4. [RESULT] 4"), one("4"));
        assert_eq!(marked("<think>[[B]] at first</think>[[A]]"), one("A"));
        assert_eq!(marked("[THINK][[B]] at first[/THINK][[A]]"), one("A"));
        assert_eq!(marked("[[A]] or [[B]]"), Marked::Several(vec!["A".into(), "B".into()]));
        assert_eq!((marked("7 of 10"), marked("<think>[[A]]")), (Marked::None, Marked::None));
    }
}
