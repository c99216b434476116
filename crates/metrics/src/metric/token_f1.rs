//! `token_f1`: F1 over the tokens of short answers, as SQuAD defines it (Rajpurkar et al. 2016, 2018).

use std::sync::LazyLock;

use harness_python::{is_ascii_punctuation, split_whitespace};
use regex::Regex;

use super::{
    answer::{Answer, Reads},
    definition::{Metric, Scored},
};
use crate::ngrams::{Interner, overlap};

pub(super) const METRIC: Metric = Metric::new("token_f1", &[Reads::Text], |_, _| {
    Scored::by(|answer| match answer {
        Answer::Text { text, references } => Some(token_f1(text, references)),
        _ => None,
    })
});

/// An answer lower-cased, without ASCII punctuation and the articles a, an and the, and with single blanks.
pub fn normalize_answer(answer: &str) -> String {
    static ARTICLES: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\b(?:a|an|the)\b").expect("a constant expression"));
    let mut answer = answer.to_lowercase();
    answer.retain(|c| !is_ascii_punctuation(c));
    split_whitespace(&ARTICLES.replace_all(&answer, " ")).collect::<Vec<_>>().join(" ")
}

/// The largest token F1 of a prediction against any of the references, 0 to 1; 0 without references. Where an answer has
/// no token left, the value is 1 if both have none, else 0.
pub fn token_f1<S: AsRef<str>>(prediction: &str, references: &[S]) -> f64 {
    let prediction = normalize_answer(prediction);
    references.iter().map(|reference| pair_f1(&prediction, &normalize_answer(reference.as_ref()))).fold(0.0, f64::max)
}

/// 1 if the normalised prediction equals any normalised reference, else 0.
pub fn normalized_exact_match<S: AsRef<str>>(prediction: &str, references: &[S]) -> f64 {
    let prediction = normalize_answer(prediction);
    let equal = references.iter().any(|reference| normalize_answer(reference.as_ref()) == prediction);
    f64::from(u8::from(equal))
}

fn pair_f1(prediction: &str, reference: &str) -> f64 {
    let mut interner = Interner::new();
    let prediction = interner.tokens(prediction.split_whitespace());
    let reference = interner.tokens(reference.split_whitespace());
    if prediction.is_empty() || reference.is_empty() {
        return f64::from(u8::from(prediction.is_empty() && reference.is_empty()));
    }
    let common = overlap(&Interner::<&str>::counts(&prediction), &Interner::<&str>::counts(&reference));
    2.0 * f64::from(common) / (prediction.len() + reference.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn articles_case_and_punctuation_do_not_count() {
        assert_eq!(normalize_answer("The  Cat, an ANT; theatre!"), "cat ant theatre");
        assert_eq!(normalized_exact_match("the Eiffel-Tower.", &["Eiffel Tower", "EiffelTower"]), 1.0);
        assert_eq!(normalized_exact_match::<&str>("x", &[]), 0.0);
    }

    #[test]
    fn f1_by_hand() {
        assert_eq!(token_f1("the cat sat down", &["a cat sat"]), 0.8);
        assert_eq!(token_f1("b b c", &["b d", "b b"]), 0.8);
        assert_eq!(token_f1("the", &["a"]), 1.0);
        assert_eq!(token_f1("the", &["cat"]), 0.0);
        assert_eq!(token_f1::<&str>("cat", &[]), 0.0);
    }
}
