//! `word_perplexity`: of whole texts, over their words.

use std::sync::Arc;

use harness_python::is_space;

use super::{Statistic, answer::Reads, definition::Metric, perplexity::OfTexts};

pub(super) const METRIC: Metric = Metric {
    aggregation: "weighted_perplexity",
    logs_pairs: true,
    ..Metric::raw("word_perplexity", &[Reads::Rolling], |_, _| {
        Ok(Arc::new(OfTexts { statistic: Statistic::Perplexity, stats: word_perplexity_stats }))
    })
};

/// Words as lm-eval counts them: the pieces that runs of white space cut a text into, so that an empty text has one and
/// white space at an edge adds one.
pub fn word_count(text: &str) -> usize {
    let mut words = 1;
    let mut in_space = false;
    for c in text.chars() {
        let space = is_space(c);
        words += usize::from(space && !in_space);
        in_space = space;
    }
    words
}

/// Statistics for `word_perplexity`: `[log p, words]`.
pub fn word_perplexity_stats(loglikelihood: f64, text: &str) -> Vec<f64> {
    vec![loglikelihood, word_count(text) as f64]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_count_as_words() {
        assert_eq!(["", " ", "a", " a b\n\nc "].map(word_count), [1, 2, 1, 5]);
        let sums = Statistic::Perplexity.sum([word_perplexity_stats(-4.0, "a b"), word_perplexity_stats(-2.0, "c")]);
        assert!((Statistic::Perplexity.value(&sums) - 2f64.exp()).abs() < 1e-12);
    }
}
