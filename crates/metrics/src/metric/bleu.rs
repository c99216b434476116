//! `bleu`: BLEU (Papineni et al. 2002) as sacreBLEU defines it (Post 2018), and its other definitions.

mod hugging_face;
mod nltk;
mod tokenizer;

use std::sync::Arc;

use harness_python::{split_whitespace, trim_end};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use hugging_face::{HfBleu, HfBleuScore};
pub use nltk::{NltkBleu, NltkSmoothing};
pub use tokenizer::BleuTokenizer;
pub(super) use tokenizer::{part_periods, part_punctuation};

use super::{
    Statistic,
    answer::{Answer, Logged, Reads},
    definition::{Metric, Scorer, StandardError, corpus, flag},
    formula::{Formula, log_texts, read_texts},
};
use crate::{
    MetricsError,
    ngrams::{Interner, max_into, overlap},
    scale::Scale,
    stats::Range,
    sums::corpus_sums,
};

pub(super) const METRIC: Metric = Metric {
    options: &["tokenize", "lowercase"],
    scale: Scale::Points,
    aggregation: "bleu",
    logs_pairs: true,
    case: Some(case),
    ..Metric::new("bleu", &[Reads::Text], |_, options| {
        let tokenizer = match &options["tokenize"] {
            Value::Null => BleuTokenizer::default(),
            name => serde_json::from_value(name.clone()).map_err(|e| MetricsError::Option(format!("tokenize: {e}")))?,
        };
        Ok(Arc::new(Bleu { tokenizer, lowercase: flag(options, "lowercase")?, ..Bleu::default() }))
    })
};

impl Scorer for Bleu {
    fn statistic(&self, _: usize) -> Statistic {
        Self::statistic(self)
    }

    fn stats(&self, answer: &Answer<'_>) -> Result<Option<Vec<f64>>, MetricsError> {
        let Answer::Text { text, references } = answer else { return Ok(None) };
        Ok(Some(Self::stats(self, text, references)))
    }

    fn standard_error(&self) -> StandardError {
        StandardError::OF_TEXTS
    }
}

fn case(input: &Value) -> Option<Vec<f64>> {
    let (hypotheses, references) = corpus(input)?;
    let tokenizer = serde_json::from_value(input["tokenizer"].clone()).ok()?;
    Some(vec![Bleu { tokenizer, ..Bleu::default() }.corpus(&hypotheses, &references).score])
}

impl Formula for BleuFormula {
    fn dim(&self) -> usize {
        Self::dim(self)
    }

    fn value(&self, sums: &[f64]) -> f64 {
        self.score(sums).score
    }

    fn range(&self, _: Scale) -> Range {
        Range::between(0.0, 100.0)
    }

    fn scale(&self) -> Option<Scale> {
        Some(Scale::Points)
    }

    fn logged(&self, document: &Logged<'_>) -> Value {
        log_texts(document)
    }

    fn read(&self, logged: &Value) -> Option<Vec<f64>> {
        read_texts(logged, |answer, references| Bleu::default().stats(answer, references))
    }
}

/// The version of sacreBLEU whose behaviour, and so whose signature, this is.
pub(super) const SACREBLEU_VERSION: &str = "2.6.0";

/// What takes the place of the precision of an order without a match (Chen and Cherry 2014).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Smoothing {
    /// Nothing: the score is 0.
    None,
    /// `1 / (2ᵏ · total)` for the k-th order without a match (NIST's mteval); the default.
    #[default]
    Exp,
    /// A constant number of matches, 0.1 by default.
    Floor(f64),
    /// The constant is added to matches and totals of orders above 1; 1 by default.
    AddK(f64),
}

impl Smoothing {
    /// The method of a name in sacreBLEU's options, with its default value where none is given.
    ///
    /// # Errors
    /// [`MetricsError::Unknown`] for any other name.
    pub fn from_name(name: &str, value: Option<f64>) -> Result<Self, MetricsError> {
        match name {
            "none" => Ok(Self::None),
            "exp" => Ok(Self::Exp),
            "floor" => Ok(Self::Floor(value.unwrap_or(0.1))),
            "add-k" => Ok(Self::AddK(value.unwrap_or(1.0))),
            _ => Err(MetricsError::unknown("smoothing method", name, &["none", "exp", "floor", "add-k"])),
        }
    }

    fn signature(self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Exp => "exp".to_owned(),
            Self::Floor(value) => format!("floor[{value:.2}]"),
            Self::AddK(value) => format!("add-k[{value:.2}]"),
        }
    }
}

/// From summed n-gram counts and lengths to BLEU.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BleuFormula {
    /// Smoothing of orders without a match.
    pub smoothing: Smoothing,
    /// Largest order of n-grams, 4 by default.
    pub max_order: usize,
    /// Whether orders that the hypothesis is too short for are left out of the mean instead of making the score 0.
    pub effective_order: bool,
}

impl Default for BleuFormula {
    fn default() -> Self {
        Self { smoothing: Smoothing::default(), max_order: 4, effective_order: false }
    }
}

/// A BLEU score with what it was made of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BleuScore {
    /// The score, 0 to 100.
    pub score: f64,
    /// Matches of each order, after add-k smoothing.
    pub counts: Vec<f64>,
    /// N-grams of each order in the hypotheses, after add-k smoothing.
    pub totals: Vec<f64>,
    /// Smoothed precision of each order, 0 to 100.
    pub precisions: Vec<f64>,
    /// Brevity penalty.
    pub bp: f64,
    /// Tokens of the hypotheses.
    pub sys_len: f64,
    /// Tokens of the closest references.
    pub ref_len: f64,
}

impl BleuFormula {
    /// Number of statistics: hypothesis length, reference length, matches and totals of each order.
    pub fn dim(&self) -> usize {
        2 + 2 * self.max_order
    }

    /// The score of summed statistics `[sys_len, ref_len, matches of order 1.., totals of order 1..]`.
    pub fn score(&self, sums: &[f64]) -> BleuScore {
        let (sys_len, ref_len) = (sums[0], sums[1]);
        let mut counts = sums[2..2 + self.max_order].to_vec();
        let mut totals = sums[2 + self.max_order..self.dim()].to_vec();
        let mut precisions = vec![0.0; self.max_order];
        let bp = if sys_len >= ref_len {
            1.0
        } else if sys_len > 0.0 {
            (1.0 - ref_len / sys_len).exp()
        } else {
            0.0
        };
        if counts.iter().all(|&count| count == 0.0) {
            return BleuScore { score: 0.0, counts, totals, precisions, bp, sys_len, ref_len };
        }
        let mut order = self.max_order;
        let mut halving = 1.0;
        for n in 0..self.max_order {
            if let (Smoothing::AddK(k), 1..) = (self.smoothing, n) {
                counts[n] += k;
                totals[n] += k;
            }
            if totals[n] == 0.0 {
                break;
            }
            if self.effective_order {
                order = n + 1;
            }
            precisions[n] = if counts[n] > 0.0 {
                100.0 * counts[n] / totals[n]
            } else {
                match self.smoothing {
                    Smoothing::Exp => {
                        halving *= 2.0;
                        100.0 / (halving * totals[n])
                    }
                    Smoothing::Floor(value) => 100.0 * value / totals[n],
                    Smoothing::None | Smoothing::AddK(_) => 0.0,
                }
            };
        }
        // sacreBLEU's logarithm of 0 is a large negative number, so that the score is 0.
        let log = |precision: f64| if precision == 0.0 { -9_999_999_999.0 } else { precision.ln() };
        let mean = precisions[..order].iter().map(|&p| log(p)).sum::<f64>() / order as f64;
        BleuScore { score: bp * mean.exp(), counts, totals, precisions, bp, sys_len, ref_len }
    }
}

/// sacreBLEU's BLEU: how texts become counts, and counts a score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bleu {
    /// The tokeniser, 13a by default.
    pub tokenizer: BleuTokenizer,
    /// Whether texts are lower-cased first.
    pub lowercase: bool,
    /// From counts to the score.
    pub formula: BleuFormula,
}

impl Bleu {
    /// The function from summed statistics to the score.
    pub fn statistic(&self) -> Statistic {
        Statistic::Bleu(self.formula)
    }

    /// The settings of `sacrebleu.sentence_bleu`: effective order.
    pub fn sentence() -> Self {
        Self { formula: BleuFormula { effective_order: true, ..BleuFormula::default() }, ..Self::default() }
    }

    /// Statistics of one document: hypothesis length, length of the closest reference (the shorter of two equally
    /// close), clipped matches of each order against the maximum over the references, and totals of each order.
    pub fn stats<S: AsRef<str>>(&self, hypothesis: &str, references: &[S]) -> Vec<f64> {
        let hypothesis = self.prepare(hypothesis);
        let references: Vec<String> = references.iter().map(|text| self.prepare(text.as_ref())).collect();
        let tokens: Vec<&str> = split_whitespace(&hypothesis).collect();
        let references: Vec<Vec<&str>> = references.iter().map(|text| split_whitespace(text).collect()).collect();
        let sys_len = tokens.len();
        let closest = references.iter().map(|tokens| (tokens.len().abs_diff(sys_len), tokens.len())).min();
        let (matches, totals) = token_stats(&tokens, &references, self.formula.max_order);
        let mut stats = Vec::with_capacity(self.formula.dim());
        stats.extend([sys_len as f64, closest.map_or(0, |(_, length)| length) as f64]);
        stats.extend(matches.into_iter().map(f64::from));
        stats.extend(totals.into_iter().map(|total| total as f64));
        stats
    }

    /// Score of a corpus from the sum of its documents' statistics; documents are processed in parallel.
    pub fn corpus<H: AsRef<str> + Sync, R: AsRef<str> + Sync>(
        &self,
        hypotheses: &[H],
        references: &[Vec<R>],
    ) -> BleuScore {
        let stats = |hypothesis: &str, references: &[R]| self.stats(hypothesis, references);
        self.formula.score(&corpus_sums(self.formula.dim(), hypotheses, references, stats))
    }

    /// Score of one document.
    pub fn sentence_score<S: AsRef<str>>(&self, hypothesis: &str, references: &[S]) -> BleuScore {
        self.formula.score(&self.stats(hypothesis, references))
    }

    /// sacreBLEU's signature; `references` is the number of references a document has, `None` where it varies.
    pub fn signature(&self, references: Option<usize>) -> String {
        format!(
            "nrefs:{}|case:{}|eff:{}|tok:{}|smooth:{}|version:{SACREBLEU_VERSION}",
            references.map_or("var".to_owned(), |n| n.to_string()),
            if self.lowercase { "lc" } else { "mixed" },
            if self.formula.effective_order { "yes" } else { "no" },
            self.tokenizer.name(),
            self.formula.smoothing.signature(),
        )
    }

    fn prepare(&self, text: &str) -> String {
        if self.lowercase {
            let text = text.to_lowercase();
            self.tokenizer.tokenize(trim_end(&text)).into_owned()
        } else {
            self.tokenizer.tokenize(trim_end(text)).into_owned()
        }
    }
}

/// Clipped matches and lengths over tokens already cut, shared by all definitions.
fn token_stats(hypothesis: &[&str], references: &[Vec<&str>], max_order: usize) -> (Vec<u32>, Vec<usize>) {
    let mut interner = Interner::new();
    let tokens = interner.tokens(hypothesis.iter().copied());
    let hypothesis = interner.ngrams(tokens, max_order);
    let mut clip = vec![Vec::new(); max_order];
    for reference in references {
        let tokens = interner.tokens(reference.iter().copied());
        for (clip, ids) in clip.iter_mut().zip(interner.ngrams(tokens, max_order)) {
            max_into(clip, &Interner::<&str>::counts(&ids));
        }
    }
    let matches =
        hypothesis.iter().zip(&clip).map(|(ids, clip)| overlap(&Interner::<&str>::counts(ids), clip)).collect();
    (matches, hypothesis.iter().map(Vec::len).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_the_classic_example_are_clipped() {
        let stats = Bleu::default()
            .stats("the the the the the the the", &["the cat is on the mat", "there is a cat on the mat"]);
        assert_eq!(stats, [7.0, 7.0, 2.0, 0.0, 0.0, 0.0, 7.0, 6.0, 5.0, 4.0]);
    }

    #[test]
    fn effective_order_scores_short_texts() {
        assert_eq!(Bleu::default().sentence_score("a b", &["a b"]).score, 0.0);
        assert!((Bleu::sentence().sentence_score("a b", &["a b"]).score - 100.0).abs() < 1e-9);
    }

    #[test]
    fn the_brevity_penalty_compares_with_the_closest_reference() {
        let score = Bleu::default().sentence_score("a b c d", &["a b c d e f g h"]);
        assert!((score.score - 100.0 * (-1f64).exp()).abs() < 1e-9);
        assert_eq!(Bleu::default().sentence_score("a b c d", &["a b c d e f g h", "w x y"]).ref_len, 3.0);
        assert_eq!(Bleu::default().sentence_score("", &["a"]).bp, 0.0);
    }

    #[test]
    fn nothing_against_nothing_scores_zero() {
        assert_eq!(Bleu::default().sentence_score::<&str>("", &[]).score, 0.0);
        assert_eq!(Bleu::default().corpus::<&str, &str>(&[], &[]).score, 0.0);
    }
}
