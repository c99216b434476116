//! The three parsers of prometheus-eval, as they are.

use std::sync::LazyLock;

use regex::Regex;

use super::python_int::int;
use crate::{Kind, Verdict};

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a pattern of this file")
}

fn letter(text: &str) -> Verdict {
    Verdict::Preference(if text.eq_ignore_ascii_case("a") { 0.0 } else { 1.0 })
}

/// The parser of the `prometheus-eval` package. Absolute: one of its markers (unanchored, so that `underscore 4` is one),
/// optional brackets, digits, an optional `/5` or `out of 5`, and then the end of the text; 1 to 5. Relative: one of its
/// markers, a letter, an optional bracket, and then the end of a line.
pub fn prometheus_package(kind: Kind, text: &str) -> Option<Verdict> {
    static ABSOLUTE: LazyLock<Regex> = LazyLock::new(|| {
        let marker = r"(?:\[result\]|\[score\]|score:?|result:?|\[result\]:?|score\s+of)";
        pattern(&format!(r"(?i){marker}\s*[(\[\s]*(\d+)(?:(?:\)|\]|\s|$)|/\s*5|\s*out\s*of\s*5)?\s*$"))
    });
    static RELATIVE: LazyLock<Regex> = LazyLock::new(|| {
        let marker =
            r"(?:\[result\]|\[result:\s*|\[response\s+|\[result\](?:\s+response)?|\[result:\s*|(?:^|\n)result:?\s*)";
        pattern(&format!(r"(?im){marker}\s*([ab])(?:\]|\s|$)?\s*$"))
    });
    match kind {
        Kind::Absolute => {
            let found = ABSOLUTE.captures(text)?;
            let score = int(found.get(1)?.as_str())?;
            (1..=5).contains(&score).then_some(Verdict::Score(score as f64))
        }
        Kind::Pairwise => Some(letter(RELATIVE.captures(text)?.get(1)?.as_str())),
    }
}

/// The parser of prometheus-eval's `eval` scripts: the first marker anywhere, any number; with the text before the first
/// `[RESULT]` as feedback (without one, the whole text for scores, the first line for letters).
pub fn prometheus_eval_script(kind: Kind, text: &str) -> Option<(String, Verdict)> {
    static ABSOLUTE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?i)(?:\[result\]|score|\[score\]|\[result\]:|score:|result:|\[result\]|scoreof)\s*[(\[]?\s*(\d+)")
    });
    static RELATIVE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?i)\[result\]\s*([ab])|\[result:\s*([ab])\]|\[response\s+([ab])\]|\[result\]\s+response\s+([ab])")
    });
    let before = text.split_once("[RESULT]").map(|(before, _)| before.trim().to_owned());
    match kind {
        Kind::Absolute => {
            let score = int(ABSOLUTE.captures(text)?.get(1)?.as_str())?;
            Some((before.unwrap_or_else(|| text.to_owned()), Verdict::Score(score as f64)))
        }
        Kind::Pairwise => {
            let found = RELATIVE.captures(text)?;
            let one = found.iter().skip(1).flatten().next()?;
            let line = || text.split('\n').next().unwrap_or_default().trim().to_owned();
            Some((before.unwrap_or_else(line), letter(one.as_str())))
        }
    }
}

/// The rule of prometheus-eval's `run_evaluate.py`: exactly one `[RESULT]`; what follows is, without blanks around it, a
/// number from 1 to 5 or the letter `A` or `B`. With the text before it.
pub fn prometheus_inline(kind: Kind, text: &str) -> Option<(String, Verdict)> {
    let (before, after) = text.split_once("[RESULT]")?;
    if after.contains("[RESULT]") {
        return None;
    }
    let verdict = match (kind, after.trim()) {
        (Kind::Absolute, score @ ("1" | "2" | "3" | "4" | "5")) => {
            Verdict::Score(f64::from(score.as_bytes()[0] - b'0'))
        }
        (Kind::Pairwise, "A") => Verdict::Preference(0.0),
        (Kind::Pairwise, "B") => Verdict::Preference(1.0),
        _ => return None,
    };
    Some((before.trim().to_owned(), verdict))
}
