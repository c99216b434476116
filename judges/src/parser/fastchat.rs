//! FastChat's parsers, as they are.

use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::Verdict;

/// The winner of one game as FastChat names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FastChatWinner {
    /// The assistant shown first.
    A,
    /// The assistant shown second.
    B,
    /// Neither.
    #[serde(rename = "tie")]
    Tie,
    /// No verdict.
    #[serde(rename = "error")]
    Error,
}

impl FastChatWinner {
    /// As a verdict; `None` for an error.
    pub fn verdict(self) -> Option<Verdict> {
        match self {
            Self::A => Some(Verdict::Preference(0.0)),
            Self::B => Some(Verdict::Preference(1.0)),
            Self::Tie => Some(Verdict::Preference(0.5)),
            Self::Error => None,
        }
    }
}

/// A number between two brackets, else between one.
fn bracketed<'a>(double: &Regex, single: &Regex, text: &'a str) -> Option<regex::Captures<'a>> {
    double.captures(text).or_else(|| single.captures(text))
}

/// `ast.literal_eval` of what `\d+\.?\d*` matched: leading zeros and digits of other scripts are no Python literals.
fn literal(text: &str) -> Option<f64> {
    let whole = text.split('.').next().unwrap_or_default();
    let leading_zero =
        !text.contains('.') && whole.len() > 1 && whole.starts_with('0') && !whole.trim_matches('0').is_empty();
    if !text.is_ascii() || leading_zero {
        return None;
    }
    text.parse().ok()
}

/// FastChat's rating: the first `[[n]]`, else the first `[n]` (so a citation counts); no check of the range. `None` is
/// FastChat's −1, and its crash on `[[08]]`.
pub fn fastchat_rating(text: &str) -> Option<f64> {
    static DOUBLE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\[\[(\d+\.?\d*)\]\]").expect("a pattern"));
    static SINGLE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\[(\d+\.?\d*)\]").expect("a pattern"));
    literal(bracketed(&DOUBLE, &SINGLE, text)?.get(1)?.as_str())
}

/// FastChat's winner of a pair: `[[A]]` anywhere, else `[[B]]`, else `[[C]]`.
pub fn fastchat_pair(text: &str) -> FastChatWinner {
    let marks = [("[[A]]", FastChatWinner::A), ("[[B]]", FastChatWinner::B), ("[[C]]", FastChatWinner::Tie)];
    let found = marks.into_iter().find(|(mark, _)| text.contains(mark));
    found.map_or(FastChatWinner::Error, |(_, winner)| winner)
}

/// FastChat's winner of a pair of ratings `[[a,b]]`: a tie where they differ by 0.1 at most, in binary floating point.
pub fn fastchat_pair_rating(text: &str) -> FastChatWinner {
    static DOUBLE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\[\[(\d+\.?\d*),\s?(\d+\.?\d*)\]\]").expect("a pattern"));
    static SINGLE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\[(\d+\.?\d*),\s?(\d+\.?\d*)\]").expect("a pattern"));
    let ratings = bracketed(&DOUBLE, &SINGLE, text)
        .and_then(|found| Some((literal(found.get(1)?.as_str())?, literal(found.get(2)?.as_str())?)));
    match ratings {
        None => FastChatWinner::Error,
        Some((a, b)) if (a - b).abs() <= 0.1 => FastChatWinner::Tie,
        Some((a, b)) if a > b => FastChatWinner::A,
        Some(_) => FastChatWinner::B,
    }
}
