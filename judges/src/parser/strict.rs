//! The strict parsers: what the prompt asked for, and nothing else.

use std::sync::LazyLock;

use regex::Regex;

use super::{Found, prometheus::prometheus_inline};
use crate::{Kind, Unparsed, Verdict};

/// `[RESULT]` once, then a whole number on the scale or a letter to the end of the text.
pub(super) fn prometheus(kind: Kind, [low, high]: [f64; 2], text: &str) -> Found {
    const MARKER: &str = "[RESULT]";
    let (Some(first), Some(last)) = (text.find(MARKER), text.rfind(MARKER)) else {
        return Err(if text.trim().is_empty() { Unparsed::Empty } else { Unparsed::NoVerdict });
    };
    let result = text[first + MARKER.len()..].trim();
    if first != last {
        return Err(Unparsed::Ambiguous { found: format!("{} × {MARKER}", text.matches(MARKER).count()) });
    }
    let rationale = text[..first].trim().to_owned();
    match kind {
        Kind::Pairwise => {
            prometheus_inline(kind, text).map(|(_, verdict)| (verdict, rationale)).ok_or(Unparsed::NoVerdict)
        }
        Kind::Absolute => {
            let number = !result.is_empty() && result.bytes().all(|byte| byte.is_ascii_digit());
            if !number || is_padded(result) {
                return Err(Unparsed::NoVerdict);
            }
            let score = result.parse::<f64>().ok().filter(|score| (low..=high).contains(score));
            let score = score.ok_or_else(|| Unparsed::OutOfRange { found: result.to_owned() })?;
            Ok((Verdict::Score(score), rationale))
        }
    }
}

/// Whether a number is written with a zero before it, as no scale writes its scores: `05` is read by none of the
/// reference tools' strict rules.
fn is_padded(number: &str) -> bool {
    number.len() > 1 && number.starts_with('0') && !number.starts_with("0.")
}

/// `[[n]]`: all of them the same number, on the scale.
pub(super) fn rating([low, high]: [f64; 2], text: &str) -> Found {
    static RATING: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\[\[([0-9]+(?:\.[0-9]+)?)\]\]").expect("a pattern"));
    let mut found: Vec<&str> = RATING.captures_iter(text).filter_map(|c| c.get(1)).map(|m| m.as_str()).collect();
    let start = RATING.find(text).map(|m| m.start());
    found.dedup_by_key(|number| number.parse::<f64>().ok());
    match (found.as_slice(), start) {
        ([number], _) if is_padded(number) => Err(Unparsed::NoVerdict),
        ([number], Some(start)) => {
            let score = number.parse::<f64>().ok().filter(|score| (low..=high).contains(score));
            let score = score.ok_or_else(|| Unparsed::OutOfRange { found: (*number).to_owned() })?;
            Ok((Verdict::Score(score), text[..start].trim().to_owned()))
        }
        ([], _) | (_, None) => Err(Unparsed::NoVerdict),
        (several, _) => Err(Unparsed::Ambiguous { found: several.join(", ") }),
    }
}

/// `[[A]]`, `[[B]]` or `[[C]]`: all of them the same.
pub(super) fn choice(text: &str) -> Found {
    static CHOICE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\[\[([ABC])\]\]").expect("a pattern"));
    let mut found: Vec<&str> = CHOICE.captures_iter(text).filter_map(|c| c.get(1)).map(|m| m.as_str()).collect();
    let start = CHOICE.find(text).map(|m| m.start());
    found.dedup();
    match (found.as_slice(), start) {
        ([letter], Some(start)) => {
            let preference = match *letter {
                "A" => 0.0,
                "B" => 1.0,
                _ => 0.5,
            };
            Ok((Verdict::Preference(preference), text[..start].trim().to_owned()))
        }
        ([], _) | (_, None) => Err(Unparsed::NoVerdict),
        (several, _) => Err(Unparsed::Ambiguous { found: several.join(", ") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(found: Found) -> Option<f64> {
        found.ok().map(|(verdict, _)| verdict.value())
    }

    #[test]
    fn prometheus_wants_one_result_at_the_end() {
        let read = |text: &str| prometheus(Kind::Absolute, [1.0, 5.0], text);
        assert_eq!(read("Good. [RESULT] 3 "), Ok((Verdict::Score(3.0), "Good.".into())));
        assert_eq!(read("Good. [RESULT] 7"), Err(Unparsed::OutOfRange { found: "7".into() }));
        assert_eq!(read("Good. [RESULT] 99999999999999999999"), Err(Unparsed::OutOfRange { found: "9".repeat(20) }));
        assert_eq!(read("Good. [RESULT] 3.5"), Err(Unparsed::NoVerdict));
        assert_eq!(read("Good. [RESULT] 05"), Err(Unparsed::NoVerdict));
        assert_eq!(read(" "), Err(Unparsed::Empty));
        assert!(matches!(read("[RESULT] 3 [RESULT] 4"), Err(Unparsed::Ambiguous { .. })));
        let pair = |text: &str| score(prometheus(Kind::Pairwise, [1.0, 5.0], text));
        assert_eq!((pair("x [RESULT] B"), pair("x [RESULT] A\n"), pair("x [RESULT] C")), (Some(1.0), Some(0.0), None));
    }

    #[test]
    fn ratings_may_repeat_but_not_contradict() {
        let read = |text: &str| rating([1.0, 10.0], text);
        assert_eq!(read("I see [1]. Rating: [[7.5]]"), Ok((Verdict::Score(7.5), "I see [1]. Rating:".into())));
        assert_eq!(score(read("[[8]] indeed [[8.0]]")), Some(8.0));
        assert!(matches!(read("[[8]] or [[9]]"), Err(Unparsed::Ambiguous { .. })));
        assert_eq!(read("[[11]]"), Err(Unparsed::OutOfRange { found: "11".into() }));
        assert_eq!(read("see [1]"), Err(Unparsed::NoVerdict));
        assert_eq!(read("[[05]]"), Err(Unparsed::NoVerdict));
        assert_eq!(rating([0.0, 10.0], "[[0.5]]").map(|(verdict, _)| verdict.value()), Ok(0.5));
    }

    #[test]
    fn choices_may_repeat_but_not_contradict() {
        assert_eq!(score(choice("[[C]]")), Some(0.5));
        assert_eq!(score(choice("so [[B]]: [[B]]")), Some(1.0));
        assert!(matches!(choice("[[B]] not [[A]]"), Err(Unparsed::Ambiguous { .. })));
        assert_eq!(choice("[[D]]"), Err(Unparsed::NoVerdict));
    }
}
