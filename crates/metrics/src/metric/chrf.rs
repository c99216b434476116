//! `chrf`: chrF (Popović 2015) and chrF++ (Popović 2017) as sacreBLEU defines them.

use std::sync::Arc;

use harness_python::{is_ascii_punctuation, is_space, split_whitespace};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Statistic,
    answer::{Answer, Logged, Reads},
    bleu::SACREBLEU_VERSION,
    definition::{Metric, Scorer, StandardError, corpus},
    formula::{Formula, log_texts, read_texts},
};
use crate::{
    MetricsError,
    ngrams::{Interner, overlap},
    scale::Scale,
    stats::Range,
    sums::corpus_sums,
};

pub(super) const METRIC: Metric = Metric {
    scale: Scale::Points,
    aggregation: "chrf",
    logs_pairs: true,
    case: Some(case),
    ..Metric::new("chrf", &[Reads::Text], |_, _| Ok(Arc::new(Chrf::default())))
};

/// From summed n-gram counts to chrF.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChrfFormula {
    /// Largest order of character n-grams, 6 by default.
    pub char_order: usize,
    /// Largest order of word n-grams: 0 for chrF, 2 for chrF++.
    pub word_order: usize,
    /// How much more recall counts than precision, 2 by default.
    pub beta: f64,
    /// Whether F is averaged over all orders with a tiny constant for empty ones (the original chrF++.py, Moses, nltk)
    /// instead of over the orders that both texts have.
    pub eps_smoothing: bool,
}

impl Default for ChrfFormula {
    fn default() -> Self {
        Self { char_order: 6, word_order: 0, beta: 2.0, eps_smoothing: false }
    }
}

impl ChrfFormula {
    /// Number of statistics: hypothesis n-grams, reference n-grams and matches of each order, characters first.
    pub fn dim(&self) -> usize {
        3 * (self.char_order + self.word_order)
    }

    /// The score, 0 to 100, of summed statistics.
    pub fn score(&self, sums: &[f64]) -> f64 {
        const EPS: f64 = 1e-16;
        let factor = self.beta * self.beta;
        let f_score = |precision: f64, recall: f64| (1.0 + factor) * precision * recall / (factor * precision + recall);
        let (mut smoothed, mut precisions, mut recalls, mut orders) = (0.0, 0.0, 0.0, 0.0);
        for counts in sums[..self.dim()].chunks_exact(3) {
            let (hypothesis, reference, matches) = (counts[0], counts[1], counts[2]);
            let precision = if hypothesis > 0.0 { matches / hypothesis } else { EPS };
            let recall = if reference > 0.0 { matches / reference } else { EPS };
            smoothed += if factor * precision + recall > 0.0 { f_score(precision, recall) } else { EPS };
            if hypothesis > 0.0 && reference > 0.0 {
                precisions += precision;
                recalls += recall;
                orders += 1.0;
            }
        }
        if self.eps_smoothing {
            100.0 * smoothed / (self.char_order + self.word_order) as f64
        } else if precisions + recalls > 0.0 {
            100.0 * f_score(precisions / orders, recalls / orders)
        } else {
            0.0
        }
    }
}

impl Formula for ChrfFormula {
    fn dim(&self) -> usize {
        Self::dim(self)
    }

    fn value(&self, sums: &[f64]) -> f64 {
        self.score(sums)
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
        read_texts(logged, |answer, references| Chrf::default().stats(answer, references))
    }
}

/// chrF: how texts become counts, and counts a score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Chrf {
    /// Whether texts are lower-cased first.
    pub lowercase: bool,
    /// Whether white space counts as a character.
    pub whitespace: bool,
    /// From counts to the score.
    pub formula: ChrfFormula,
}

impl Scorer for Chrf {
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
    let formula = ChrfFormula { word_order: input["word_order"].as_f64()? as usize, ..ChrfFormula::default() };
    Some(vec![Chrf { formula, ..Chrf::default() }.corpus(&hypotheses, &references)])
}

impl Chrf {
    /// The function from summed statistics to the score.
    pub fn statistic(&self) -> Statistic {
        Statistic::Chrf(self.formula)
    }

    /// chrF++: words up to order 2 beside the characters.
    pub fn plus_plus() -> Self {
        Self { formula: ChrfFormula { word_order: 2, ..ChrfFormula::default() }, ..Self::default() }
    }

    /// Statistics of one document against the reference with the best sentence score, the first of equals.
    pub fn stats<S: AsRef<str>>(&self, hypothesis: &str, references: &[S]) -> Vec<f64> {
        let (mut chars, mut words) = (Interner::new(), Interner::new());
        let hypothesis = self.orders(hypothesis, &mut chars, &mut words);
        let mut best: Option<(f64, Vec<f64>)> = None;
        for reference in references {
            let reference = self.orders(reference.as_ref(), &mut chars, &mut words);
            let stats = compare(&hypothesis, &reference);
            let score = self.formula.score(&stats);
            if best.as_ref().is_none_or(|(highest, _)| score > *highest) {
                best = Some((score, stats));
            }
        }
        best.map_or_else(|| vec![0.0; self.formula.dim()], |(_, stats)| stats)
    }

    /// Score of a corpus from the sum of its documents' statistics; documents are processed in parallel.
    pub fn corpus<H: AsRef<str> + Sync, R: AsRef<str> + Sync>(&self, hypotheses: &[H], references: &[Vec<R>]) -> f64 {
        let stats = |hypothesis: &str, references: &[R]| self.stats(hypothesis, references);
        self.formula.score(&corpus_sums(self.formula.dim(), hypotheses, references, stats))
    }

    /// Score of one document, 0 to 100.
    pub fn sentence_score<S: AsRef<str>>(&self, hypothesis: &str, references: &[S]) -> f64 {
        self.formula.score(&self.stats(hypothesis, references))
    }

    /// sacreBLEU's name for the settings, e.g. `chrF2++`.
    pub fn name(&self) -> String {
        format!("chrF{}{}", self.formula.beta, "+".repeat(self.formula.word_order))
    }

    /// sacreBLEU's signature; `references` is the number of references a document has, `None` where it varies.
    pub fn signature(&self, references: Option<usize>) -> String {
        let yes_no = |flag: bool| if flag { "yes" } else { "no" };
        format!(
            "nrefs:{}|case:{}|eff:{}|nc:{}|nw:{}|space:{}|version:{SACREBLEU_VERSION}",
            references.map_or("var".to_owned(), |n| n.to_string()),
            if self.lowercase { "lc" } else { "mixed" },
            yes_no(!self.formula.eps_smoothing),
            self.formula.char_order,
            self.formula.word_order,
            yes_no(self.whitespace),
        )
    }

    /// N-gram counts of each order, characters first.
    fn orders(&self, text: &str, chars: &mut Interner<char>, words: &mut Interner<String>) -> Vec<Vec<u32>> {
        let lowered;
        let text = if self.lowercase {
            lowered = text.to_lowercase();
            &lowered
        } else {
            text
        };
        let ids = chars.tokens(text.chars().filter(|&c| self.whitespace || !is_space(c)));
        let mut orders = chars.ngrams(ids, self.formula.char_order);
        if self.formula.word_order > 0 {
            let ids = words.tokens(split_whitespace(text).flat_map(part_punctuation).map(str::to_owned));
            orders.extend(words.ngrams(ids, self.formula.word_order));
        }
        orders.iter().map(|ids| Interner::<char>::counts(ids)).collect()
    }
}

/// `[hypothesis n-grams, reference n-grams, matches]` of each order; hypothesis n-grams count only where the reference
/// has any.
fn compare(hypothesis: &[Vec<u32>], reference: &[Vec<u32>]) -> Vec<f64> {
    let total = |counts: &[u32]| counts.iter().map(|&count| u64::from(count)).sum::<u64>() as f64;
    hypothesis
        .iter()
        .zip(reference)
        .flat_map(|(hypothesis, reference)| {
            let in_reference = total(reference);
            let in_hypothesis = if in_reference > 0.0 { total(hypothesis) } else { 0.0 };
            [in_hypothesis, in_reference, f64::from(overlap(hypothesis, reference))]
        })
        .collect()
}

/// Parts one punctuation mark from a word, at its end or else at its start.
fn part_punctuation(word: &str) -> impl Iterator<Item = &str> {
    let last = word.char_indices().next_back().filter(|&(i, c)| i > 0 && is_ascii_punctuation(c));
    let at = match last {
        Some((i, _)) => i,
        None if word.len() > 1 && word.starts_with(is_ascii_punctuation) => 1,
        None => word.len(),
    };
    let (head, tail) = word.split_at(at);
    [head, tail].into_iter().filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_mark_is_parted_from_a_word() {
        let parts = |word| part_punctuation(word).collect::<Vec<_>>();
        assert_eq!(parts("(hi)"), ["(hi", ")"]);
        assert_eq!(parts("(hi"), ["(", "hi"]);
        assert_eq!(parts("?"), ["?"]);
        assert_eq!(parts("hé"), ["hé"]);
    }

    #[test]
    fn equal_texts_score_a_hundred_and_the_best_reference_counts() {
        assert_eq!(Chrf::default().sentence_score("abc def", &["abc def"]), 100.0);
        assert_eq!(Chrf::plus_plus().sentence_score("a b", &["zzz", "a b"]), 100.0);
        assert_eq!(Chrf::default().sentence_score("", &["abc"]), 0.0);
        assert_eq!(Chrf::plus_plus().name(), "chrF2++");
    }
}
