//! `ter`: translation edit rate (Snover et al. 2006) as sacreBLEU, after Tercom, computes it.

mod edit_distance;
mod shift;

use std::sync::Arc;

use harness_python::split_whitespace;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Statistic,
    answer::{Answer, Logged, Reads},
    bleu::{SACREBLEU_VERSION, part_periods, part_punctuation},
    definition::{Metric, Scorer, StandardError},
    formula::{Formula, log_texts, read_texts},
};
use crate::{MetricsError, ngrams::Interner, scale::Scale, stats::Range, sums::corpus_sums};

pub(super) const METRIC: Metric = Metric {
    scale: Scale::Points,
    higher_is_better: false,
    aggregation: "ter",
    logs_pairs: true,
    ..Metric::new("ter", &[Reads::Text], |_, _| Ok(Arc::new(Ter::default())))
};

/// How texts are prepared for TER. Tercom's handling of Asian scripts is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ter {
    /// Whether entities are decoded and punctuation is parted from words.
    pub normalized: bool,
    /// Whether punctuation is removed.
    pub no_punct: bool,
    /// Whether case counts; by default it does not.
    pub case_sensitive: bool,
}

impl Scorer for Ter {
    fn statistic(&self, _: usize) -> Statistic {
        Statistic::Ter
    }

    fn stats(&self, answer: &Answer<'_>) -> Result<Option<Vec<f64>>, MetricsError> {
        let Answer::Text { text, references } = answer else { return Ok(None) };
        Ok(Some(Self::stats(self, text, references)))
    }

    fn standard_error(&self) -> StandardError {
        StandardError::OF_TEXTS
    }
}

impl Ter {
    /// The function from summed statistics to the score.
    pub fn statistic(&self) -> Statistic {
        Statistic::Ter
    }

    /// Statistics of one document: the fewest edits to any reference, and the mean length of the references in words.
    pub fn stats<S: AsRef<str>>(&self, hypothesis: &str, references: &[S]) -> Vec<f64> {
        if references.is_empty() {
            return vec![0.0, 0.0];
        }
        let mut interner = Interner::new();
        let mut words = |text: &str| interner.tokens(split_whitespace(&self.prepare(text)).map(str::to_owned));
        let hypothesis = words(hypothesis);
        let (mut fewest, mut length) = (usize::MAX, 0);
        for reference in references {
            let reference = words(reference.as_ref());
            length += reference.len();
            fewest = fewest.min(shift::edits(&hypothesis, &reference));
        }
        vec![fewest as f64, length as f64 / references.len() as f64]
    }

    /// Score of a corpus in percent; documents are processed in parallel.
    pub fn corpus<H: AsRef<str> + Sync, R: AsRef<str> + Sync>(&self, hypotheses: &[H], references: &[Vec<R>]) -> f64 {
        let stats = |hypothesis: &str, references: &[R]| self.stats(hypothesis, references);
        Rate.value(&corpus_sums(2, hypotheses, references, stats))
    }

    /// sacreBLEU's signature; `references` is the number of references a document has, `None` where it varies.
    pub fn signature(&self, references: Option<usize>) -> String {
        let yes_no = |flag: bool| if flag { "yes" } else { "no" };
        format!(
            "nrefs:{}|case:{}|tok:tercom|norm:{}|punct:{}|asian:no|version:{SACREBLEU_VERSION}",
            references.map_or("var".to_owned(), |n| n.to_string()),
            if self.case_sensitive { "mixed" } else { "lc" },
            yes_no(self.normalized),
            yes_no(!self.no_punct),
        )
    }

    fn prepare(&self, text: &str) -> String {
        let mut text = if self.case_sensitive { text.to_owned() } else { text.to_lowercase() };
        if self.normalized {
            text = normalize(&text);
        }
        if self.no_punct {
            text.retain(|c| !matches!(c, '.' | ',' | '?' | ':' | ';' | '!' | '"' | '(' | ')'));
        }
        text
    }
}

/// The rate in percent of summed `[edits, reference length]`; 100 for edits against empty references.
pub(super) struct Rate;

impl Formula for Rate {
    fn value(&self, sums: &[f64]) -> f64 {
        let (edits, length) = (sums[0], sums[1]);
        match (edits > 0.0, length > 0.0) {
            (_, true) => 100.0 * edits / length,
            (true, false) => 100.0,
            (false, false) => 0.0,
        }
    }

    fn range(&self, _: Scale) -> Range {
        Range::at_least(0.0)
    }

    fn scale(&self) -> Option<Scale> {
        Some(Scale::Points)
    }

    fn logged(&self, document: &Logged<'_>) -> Value {
        log_texts(document)
    }

    fn read(&self, logged: &Value) -> Option<Vec<f64>> {
        read_texts(logged, |answer, references| Ter::default().stats(answer, references))
    }
}

fn normalize(text: &str) -> String {
    let text = text.replace("\n-", "").replace('\n', " ");
    let text = text.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    // A possessive before a period is not parted: periods still touch it here.
    part_periods(&part_punctuation(&format!(" {text} ")).replace("'s ", " 's "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shift_is_one_edit() {
        assert_eq!(Ter::default().stats("a b c d", &["d a b c"]), [1.0, 4.0]);
        assert_eq!(Ter::default().stats("the cat sat", &["The cat sat"]), [0.0, 3.0]);
        assert_eq!(Ter { case_sensitive: true, ..Ter::default() }.stats("the cat", &["The cat"]), [1.0, 2.0]);
    }

    #[test]
    fn the_nearest_reference_counts_and_lengths_are_averaged() {
        assert_eq!(Ter::default().stats("a b c", &["a b c", "x y z w"]), [0.0, 3.5]);
        assert_eq!(Ter::default().corpus(&["a b"], &[vec![""]]), 100.0);
        assert_eq!(Ter::default().corpus(&[""], &[vec![""]]), 0.0);
    }

    #[test]
    fn normalisation_parts_possessives() {
        let ter = Ter { normalized: true, ..Ter::default() };
        let words: Vec<String> = split_whitespace(&ter.prepare("The dog's bone; Ann's")).map(str::to_owned).collect();
        assert_eq!(words, ["the", "dog", "'s", "bone", ";", "ann", "'s"]);
    }
}
