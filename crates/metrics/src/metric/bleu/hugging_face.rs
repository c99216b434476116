//! The `bleu` of Hugging Face's evaluate, which wraps the script of TensorFlow's NMT tutorial.

use harness_python::split_whitespace;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    super::{Statistic, formula::Formula},
    Bleu, BleuFormula, BleuTokenizer,
};
use crate::{scale::Scale, stats::Range};

/// BLEU on 0..1 with the length of the *shortest* reference, over 13a tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HfBleu {
    /// Largest order of n-grams, 4 by default.
    pub max_order: usize,
    /// Whether 1 is added to matches and totals of every order.
    pub smooth: bool,
}

impl Default for HfBleu {
    fn default() -> Self {
        Self { max_order: 4, smooth: false }
    }
}

/// A score with what it was made of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HfBleuScore {
    /// The score, 0 to 1; NaN where the original divides by zero (no tokens in all predictions, or in all references).
    pub bleu: f64,
    /// Precision of each order, 0 to 1.
    pub precisions: Vec<f64>,
    /// Brevity penalty.
    pub brevity_penalty: f64,
    /// Length of the predictions over the length of the references.
    pub length_ratio: f64,
    /// Tokens of the predictions.
    pub translation_length: f64,
    /// Tokens of the shortest references.
    pub reference_length: f64,
}

impl HfBleu {
    /// The function from summed statistics to the score.
    pub fn statistic(&self) -> Statistic {
        Statistic::HfBleu(*self)
    }

    /// Number of statistics: prediction length, reference length, matches and totals of each order.
    pub fn dim(&self) -> usize {
        2 + 2 * self.max_order
    }

    /// Statistics of one document.
    pub fn stats<S: AsRef<str>>(&self, prediction: &str, references: &[S]) -> Vec<f64> {
        let tokenizer = BleuTokenizer::V13a;
        let bleu = Bleu {
            tokenizer,
            lowercase: false,
            formula: BleuFormula { max_order: self.max_order, ..BleuFormula::default() },
        };
        let mut stats = bleu.stats(prediction, references);
        let length = |text: &S| split_whitespace(&tokenizer.tokenize(text.as_ref())).count();
        stats[1] = references.iter().map(length).min().unwrap_or(0) as f64;
        stats
    }

    /// The score of summed statistics.
    pub fn score(&self, sums: &[f64]) -> HfBleuScore {
        let (translation_length, reference_length) = (sums[0], sums[1]);
        let added = f64::from(u8::from(self.smooth));
        let precisions: Vec<f64> = (0..self.max_order)
            .map(|n| (sums[2 + n] + added, sums[2 + self.max_order + n] + added))
            .map(|(matches, total)| if total > 0.0 { matches / total } else { 0.0 })
            .collect();
        let mean = if precisions.iter().all(|&p| p > 0.0) {
            precisions.iter().map(|p| p.ln() / self.max_order as f64).sum::<f64>().exp()
        } else {
            0.0
        };
        let length_ratio = translation_length / reference_length;
        let defined = translation_length > 0.0 && reference_length > 0.0;
        let brevity_penalty = match length_ratio {
            _ if !defined => f64::NAN,
            ratio if ratio > 1.0 => 1.0,
            ratio => (1.0 - 1.0 / ratio).exp(),
        };
        let bleu = mean * brevity_penalty;
        HfBleuScore { bleu, precisions, brevity_penalty, length_ratio, translation_length, reference_length }
    }
}

impl Formula for HfBleu {
    fn dim(&self) -> usize {
        Self::dim(self)
    }

    fn value(&self, sums: &[f64]) -> f64 {
        self.score(sums).bleu
    }

    fn range(&self, _: Scale) -> Range {
        Range::between(0.0, 1.0)
    }

    fn scale(&self) -> Option<Scale> {
        Some(Scale::Fraction)
    }

    fn read(&self, _: &Value) -> Option<Vec<f64>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_reference_counts_and_nothing_is_not_a_number() {
        let bleu = HfBleu::default();
        assert_eq!(bleu.stats("a b c d e", &["a b c d e", "a b"])[1], 2.0);
        assert!(bleu.score(&bleu.stats("", &["a b"])).bleu.is_nan());
        assert!(bleu.score(&bleu.stats("a b", &[""])).bleu.is_nan());
        assert_eq!(bleu.score(&bleu.stats("a b", &["a b"])).bleu, 0.0);
    }
}
