//! `rouge1` to `rougeLsum`: ROUGE (Lin 2004) as Google's rouge-score computes it.

mod lcs;

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    answer::{Answer, Reads},
    definition::{Build, Metric, Scorer, flag},
    formula::mean_stats,
};
use crate::{
    MetricsError,
    ngrams::{Interner, overlap},
    porter_stem,
};

pub(super) const ROUGE1: Metric = metric("rouge1", |_, options| scorer(RougeType::N(1), options));
pub(super) const ROUGE2: Metric = metric("rouge2", |_, options| scorer(RougeType::N(2), options));
/// Known from lm-eval's results alone.
pub(super) const ROUGE3: Metric =
    Metric { reads: &[], ..metric("rouge3", |_, options| scorer(RougeType::N(3), options)) };
pub(super) const ROUGE_L: Metric = metric("rougeL", |_, options| scorer(RougeType::L, options));
pub(super) const ROUGE_LSUM: Metric = metric("rougeLsum", |_, options| scorer(RougeType::Lsum, options));

const fn metric(name: &'static str, build: Build) -> Metric {
    Metric { options: &["use_stemmer"], cases: "rouge", case: Some(case), ..Metric::new(name, &[Reads::Text], build) }
}

fn scorer(kind: RougeType, options: &Value) -> Result<Arc<dyn Scorer>, MetricsError> {
    Ok(Arc::new(Rouge::new([kind], flag(options, "use_stemmer")?)))
}

impl Scorer for Rouge {
    fn stats(&self, answer: &Answer<'_>) -> Result<Option<Vec<f64>>, MetricsError> {
        let Answer::Text { text, references } = answer else { return Ok(None) };
        let scores = self.score_multi(references, text);
        Ok(Some(mean_stats(scores.first().map_or(0.0, |score| score.fmeasure))))
    }
}

fn case(input: &Value) -> Option<Vec<f64>> {
    let rouge = Rouge::new([RougeType::N(1), RougeType::N(2), RougeType::L], input["stemmer"].as_bool()?);
    let (hypothesis, reference) = (input["hypothesis"].as_str()?, input["reference"].as_str()?);
    Some(rouge.score(reference, hypothesis).iter().map(|score| score.fmeasure).collect())
}

/// A variant of ROUGE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RougeType {
    /// Overlap of n-grams: `rouge1`, `rouge2`, …
    N(usize),
    /// Longest common subsequence of the whole texts: `rougeL`.
    L,
    /// Union of longest common subsequences of lines: `rougeLsum`.
    Lsum,
}

impl FromStr for RougeType {
    type Err = MetricsError;

    fn from_str(name: &str) -> Result<Self, MetricsError> {
        match name.strip_prefix("rouge") {
            Some("L") => Ok(Self::L),
            Some("Lsum") => Ok(Self::Lsum),
            Some(digits) if matches!(digits.as_bytes(), [b'1'..=b'9']) => {
                Ok(Self::N(usize::from(digits.as_bytes()[0] - b'0')))
            }
            _ => Err(MetricsError::unknown("ROUGE type", name, &["rouge1", "rouge2", "rouge3", "rougeL", "rougeLsum"])),
        }
    }
}

impl TryFrom<String> for RougeType {
    type Error = MetricsError;

    fn try_from(name: String) -> Result<Self, MetricsError> {
        name.parse()
    }
}

impl From<RougeType> for String {
    fn from(kind: RougeType) -> Self {
        kind.to_string()
    }
}

impl fmt::Display for RougeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::N(n) => write!(f, "rouge{n}"),
            Self::L => f.write_str("rougeL"),
            Self::Lsum => f.write_str("rougeLsum"),
        }
    }
}

/// Precision, recall and their harmonic mean, each 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RougeScore {
    /// Share of the prediction that is in the target.
    pub precision: f64,
    /// Share of the target that is in the prediction.
    pub recall: f64,
    /// Harmonic mean of both; 0 where both are 0.
    pub fmeasure: f64,
}

impl RougeScore {
    /// From matches and the sizes of both texts; empty texts score 0.
    fn new(matches: usize, target: usize, prediction: usize) -> Self {
        let share = |of: usize| matches as f64 / of.max(1) as f64;
        let (precision, recall) = (share(prediction), share(target));
        let fmeasure = if matches > 0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 };
        Self { precision, recall, fmeasure }
    }
}

/// Scores a prediction against a target under several types at once.
///
/// A document's statistics are those of the mean: `mean_stats(score.fmeasure)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rouge {
    /// The types to score, in the order of the answers.
    pub types: Vec<RougeType>,
    /// Whether tokens longer than three characters are stemmed.
    pub use_stemmer: bool,
}

impl Rouge {
    /// A scorer of some types.
    pub fn new(types: impl Into<Vec<RougeType>>, use_stemmer: bool) -> Self {
        Self { types: types.into(), use_stemmer }
    }

    /// One score a type.
    pub fn score(&self, target: &str, prediction: &str) -> Vec<RougeScore> {
        self.score_lines(&self.lines(target), &self.lines(prediction))
    }

    /// For each type the score against the target with the largest F, the first of equals; zeros without any target.
    pub fn score_multi<S: AsRef<str>>(&self, targets: &[S], prediction: &str) -> Vec<RougeScore> {
        let prediction = self.lines(prediction);
        let mut best: Option<Vec<RougeScore>> = None;
        for target in targets {
            let scores = self.score_lines(&self.lines(target.as_ref()), &prediction);
            match &mut best {
                None => best = Some(scores),
                Some(best) => {
                    for (best, score) in best.iter_mut().zip(scores) {
                        if score.fmeasure > best.fmeasure {
                            *best = score;
                        }
                    }
                }
            }
        }
        best.unwrap_or_else(|| vec![RougeScore::default(); self.types.len()])
    }

    /// Tokens line by line; a line feed always parts tokens.
    fn lines(&self, text: &str) -> Vec<Vec<String>> {
        text.split('\n').map(|line| rouge_tokens(line, self.use_stemmer)).filter(|line| !line.is_empty()).collect()
    }

    fn score_lines(&self, target: &[Vec<String>], prediction: &[Vec<String>]) -> Vec<RougeScore> {
        let mut interner = Interner::new();
        let mut ids = |lines: &[Vec<String>]| -> Vec<Vec<u32>> {
            lines.iter().map(|line| interner.tokens(line.iter().cloned())).collect()
        };
        let (target, prediction) = (ids(target), ids(prediction));
        let (whole_target, whole_prediction) = (target.concat(), prediction.concat());
        let max_order =
            self.types.iter().map(|kind| if let RougeType::N(n) = kind { *n } else { 0 }).max().unwrap_or(0);
        let target_grams = interner.ngrams(whole_target.clone(), max_order);
        let prediction_grams = interner.ngrams(whole_prediction.clone(), max_order);
        let (m, n) = (whole_target.len(), whole_prediction.len());
        self.types
            .iter()
            .map(|kind| match *kind {
                RougeType::N(0) => RougeScore::default(),
                RougeType::N(order) => {
                    let (target, prediction) = (&target_grams[order - 1], &prediction_grams[order - 1]);
                    let counts = |ids: &[u32]| Interner::<String>::counts(ids);
                    let matches = overlap(&counts(target), &counts(prediction)) as usize;
                    RougeScore::new(matches, target.len(), prediction.len())
                }
                RougeType::L => RougeScore::new(lcs::length(&whole_target, &whole_prediction), m, n),
                RougeType::Lsum => RougeScore::new(lcs::union_hits(&target, &prediction), m, n),
            })
            .collect()
    }
}

/// The tokens of rouge-score: lower-cased runs of ASCII letters and digits, the longer ones stemmed if asked. All other
/// characters part tokens, so that letters with accents vanish.
pub fn rouge_tokens(text: &str, use_stemmer: bool) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut token = String::new();
    let mut end = |token: &mut String| {
        if use_stemmer && token.len() > 3 {
            tokens.push(porter_stem(token));
            token.clear();
        } else if !token.is_empty() {
            tokens.push(std::mem::take(token));
        }
    };
    for c in text.chars().flat_map(char::to_lowercase) {
        if c.is_ascii_alphanumeric() {
            token.push(c);
        } else {
            end(&mut token);
        }
    }
    end(&mut token);
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accented_letters_part_tokens_and_the_kelvin_sign_is_a_k() {
        assert_eq!(rouge_tokens("Naïve \u{212a}elvin's 3.5!", false), ["na", "ve", "kelvin", "s", "3", "5"]);
        assert_eq!(rouge_tokens("running was fun", true), ["run", "was", "fun"]);
    }

    #[test]
    fn scores_by_hand() {
        let types = ["rouge1", "rouge2", "rougeL", "rougeLsum"].map(|name| name.parse::<RougeType>().unwrap());
        let rouge = Rouge::new(types, false);
        let scores = rouge.score("the cat sat on the mat", "the mat sat on a cat");
        assert_eq!(scores.iter().map(|s| (s.recall * 6.0).round()).collect::<Vec<_>>(), [5.0, 2.0, 3.0, 3.0]);
        let lines = rouge.score("a b\nc d", "c d\na b");
        assert_eq!((lines[2].fmeasure, lines[3].fmeasure), (0.5, 1.0));
        assert!(rouge.score("", "a").iter().all(|score| *score == RougeScore::default()));
        assert_eq!(rouge.score_multi(&["x", "a b"], "a b")[0].fmeasure, 1.0);
        assert_eq!(rouge.score_multi::<&str>(&[], "a b"), [RougeScore::default(); 4]);
    }

    #[test]
    fn names_are_read_back() {
        for name in ["rouge1", "rouge9", "rougeL", "rougeLsum"] {
            assert_eq!(name.parse::<RougeType>().unwrap().to_string(), name);
        }
        assert!("rouge-l".parse::<RougeType>().unwrap_err().to_string().contains("rougeL"));
    }
}
