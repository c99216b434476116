//! sacreBLEU's tokenisers (Post 2018, "A Call for Clarity in Reporting BLEU Scores"; mteval-v13a and v14).

use std::borrow::Cow;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use crate::MetricsError;
use harness_python::{split_whitespace, trim};

/// How a segment is cut into tokens before n-grams are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BleuTokenizer {
    /// mteval-v13a: ASCII punctuation apart, numbers kept whole; the default.
    #[default]
    #[serde(rename = "13a")]
    V13a,
    /// mteval-v14 "international": Unicode punctuation and symbols apart.
    #[serde(rename = "intl")]
    Intl,
    /// Every code point is a token.
    #[serde(rename = "char")]
    Char,
    /// Chinese characters apart, the rest as in 13a without its normalisation.
    #[serde(rename = "zh")]
    Zh,
    /// The text is tokenised already.
    #[serde(rename = "none")]
    None,
}

impl BleuTokenizer {
    /// The name in sacreBLEU's options and signatures.
    pub fn name(self) -> &'static str {
        match self {
            Self::V13a => "13a",
            Self::Intl => "intl",
            Self::Char => "char",
            Self::Zh => "zh",
            Self::None => "none",
        }
    }

    /// The text with its tokens separated by blanks.
    pub fn tokenize(self, text: &str) -> Cow<'_, str> {
        match self {
            Self::V13a => Cow::Owned(normalize_13a(text)),
            Self::Intl => Cow::Owned(international(text)),
            Self::Char => Cow::Owned(join(text.chars().map(String::from))),
            Self::Zh => Cow::Owned(chinese(text)),
            Self::None => Cow::Borrowed(text),
        }
    }
}

impl FromStr for BleuTokenizer {
    type Err = MetricsError;

    /// The tokeniser of a name. sacreBLEU's `ja-mecab`, `ko-mecab` and `flores*` need models of their own and do not exist here.
    fn from_str(name: &str) -> Result<Self, MetricsError> {
        let all = [Self::V13a, Self::Intl, Self::Char, Self::Zh, Self::None];
        all.into_iter()
            .find(|tokenizer| tokenizer.name() == name)
            .ok_or_else(|| MetricsError::unknown("BLEU tokenizer", name, &all.map(Self::name)))
    }
}

fn join<S: AsRef<str>>(tokens: impl Iterator<Item = S>) -> String {
    let mut out = String::new();
    for token in tokens {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(token.as_ref());
    }
    out
}

/// Joins lines, decodes the four entities (in this order, so that `&amp;lt;` becomes `<`), and tokenises.
fn normalize_13a(text: &str) -> String {
    let mut text = text.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    if text.contains('&') {
        text = text.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    }
    join(split_whitespace(&western_punctuation(&format!(" {text} "))))
}

/// The language-dependent part of 13a.
fn western_punctuation(text: &str) -> String {
    part_periods(&part_punctuation(text))
}

/// ASCII punctuation apart, but for apostrophe, comma, dash and period.
pub(crate) fn part_punctuation(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for c in text.chars() {
        if matches!(c, '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/') {
            out.extend([' ', c, ' ']);
        } else {
            out.push(c);
        }
    }
    out
}

/// Period and comma apart unless between digits; a dash apart after a digit.
pub(crate) fn part_periods(text: &str) -> String {
    let stop = |c: char| matches!(c, '.' | ',');
    let chars: Vec<char> = text.chars().collect();
    let chars = rewrite_pairs(&chars, |a, b| !a.is_ascii_digit() && stop(b), |a, b| [a, ' ', b, ' ']);
    let chars = rewrite_pairs(&chars, |a, b| stop(a) && !b.is_ascii_digit(), |a, b| [' ', a, ' ', b]);
    rewrite_pairs(&chars, |a, b| a.is_ascii_digit() && b == '-', |a, b| [a, ' ', b, ' ']).into_iter().collect()
}

/// Replaces pairs of adjacent characters from the left, without overlap, as a regular expression of two characters does.
fn rewrite_pairs(
    chars: &[char],
    matches: impl Fn(char, char) -> bool,
    replacement: impl Fn(char, char) -> [char; 4],
) -> Vec<char> {
    let mut out = Vec::with_capacity(chars.len() + chars.len() / 4);
    let mut i = 0;
    while i < chars.len() {
        match chars.get(i + 1) {
            Some(&next) if matches(chars[i], next) => {
                out.extend(replacement(chars[i], next));
                i += 2;
            }
            _ => {
                out.push(chars[i]);
                i += 1;
            }
        }
    }
    out
}

/// Unicode punctuation apart unless between numbers (one-sided each), symbols apart.
fn international(text: &str) -> String {
    let group = |c: char| c.general_category_group();
    let number = |c: char| group(c) == GeneralCategoryGroup::Number;
    let punctuation = |c: char| group(c) == GeneralCategoryGroup::Punctuation;
    let chars: Vec<char> = text.chars().collect();
    let chars = rewrite_pairs(&chars, |a, b| !number(a) && punctuation(b), |a, b| [a, ' ', b, ' ']);
    let chars = rewrite_pairs(&chars, |a, b| punctuation(a) && !number(b), |a, b| [' ', a, ' ', b]);
    let mut out = String::with_capacity(text.len() * 2);
    for c in chars {
        if group(c) == GeneralCategoryGroup::Symbol {
            out.extend([' ', c, ' ']);
        } else {
            out.push(c);
        }
    }
    join(split_whitespace(&out))
}

fn chinese(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for c in trim(text).chars() {
        if is_chinese(c) {
            out.extend([' ', c, ' ']);
        } else {
            out.push(c);
        }
    }
    join(split_whitespace(&western_punctuation(&out)))
}

/// The characters that sacreBLEU sets apart as Chinese. Its two ranges beyond the Basic Multilingual Plane are written
/// there as five-digit `\u` escapes, which Python reads as four digits and a fifth character; compared as strings they
/// become U+2001..=U+2A6D and U+2F81..=U+2FA1, kept here because scores depend on them.
fn is_chinese(c: char) -> bool {
    matches!(c,
        '\u{2001}'..='\u{2a6d}' | '\u{2e80}'..='\u{2eff}' | '\u{2f00}'..='\u{2fdf}' | '\u{2ff0}'..='\u{2fff}'
        | '\u{3000}'..='\u{303f}' | '\u{3100}'..='\u{312f}' | '\u{31a0}'..='\u{31bf}' | '\u{31c0}'..='\u{31ef}'
        | '\u{3200}'..='\u{33ff}' | '\u{3400}'..='\u{4db5}' | '\u{4e00}'..='\u{9fbb}' | '\u{f900}'..='\u{fa2d}'
        | '\u{fa30}'..='\u{fa6a}' | '\u{fa70}'..='\u{fad9}' | '\u{fe10}'..='\u{fe1f}' | '\u{fe30}'..='\u{fe4f}'
        | '\u{ff00}'..='\u{ffef}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirteen_a_keeps_numbers_and_parts_punctuation() {
        let tokens = BleuTokenizer::V13a.tokenize("It cost $1,234.56 in 2019-2020, &quot;roughly&quot;.");
        assert_eq!(tokens, "It cost $ 1,234.56 in 2019 - 2020 , \" roughly \" .");
    }

    #[test]
    fn international_parts_unicode_punctuation() {
        assert_eq!(BleuTokenizer::Intl.tokenize("«¿Qué?» 3,5€ 2019."), "« ¿ Qué ? » 3,5 € 2019.");
        assert_eq!(BleuTokenizer::Char.tokenize("a é"), "a   é");
        assert_eq!(BleuTokenizer::Zh.tokenize("今天 ok,好"), "今 天 ok , 好");
    }

    #[test]
    fn names_are_read_back() {
        for name in ["13a", "intl", "char", "zh", "none"] {
            assert_eq!(name.parse::<BleuTokenizer>().unwrap().name(), name);
        }
        assert!("ja-mecab".parse::<BleuTokenizer>().is_err());
    }
}
