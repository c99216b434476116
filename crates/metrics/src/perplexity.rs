//! Statistics of documents whose metric is a perplexity.

use harness_python::is_space;

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

/// Statistics for `perplexity` over documents: `[log p, 1]`, without regard to length.
pub fn perplexity_stats(loglikelihood: f64) -> Vec<f64> {
    vec![loglikelihood, 1.0]
}

/// Statistics for `word_perplexity`: `[log p, words]`.
pub fn word_perplexity_stats(loglikelihood: f64, text: &str) -> Vec<f64> {
    vec![loglikelihood, word_count(text) as f64]
}

/// Statistics for `byte_perplexity` and `bits_per_byte`: `[log p, UTF-8 bytes]`.
pub fn byte_perplexity_stats(loglikelihood: f64, text: &str) -> Vec<f64> {
    vec![loglikelihood, text.len() as f64]
}

/// Statistics for a perplexity over tokens: `[log p, tokens]`.
pub fn token_perplexity_stats(loglikelihood: f64, tokens: usize) -> Vec<f64> {
    vec![loglikelihood, tokens as f64]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Statistic;

    #[test]
    fn edges_count_as_words() {
        assert_eq!(["", " ", "a", " a b\n\nc "].map(word_count), [1, 2, 1, 5]);
    }

    #[test]
    fn a_uniform_model_over_bytes_has_eight_bits_per_byte() {
        let ll = |text: &str| -(text.len() as f64) * 256f64.ln();
        let sums = Statistic::BitsPerByte.sum(["abc", "defgh"].map(|text| byte_perplexity_stats(ll(text), text)));
        assert!((Statistic::BitsPerByte.value(&sums) - 8.0).abs() < 1e-12);
        assert!((Statistic::Perplexity.value(&sums) - 256.0).abs() < 1e-9);
        let sums = Statistic::Perplexity.sum([word_perplexity_stats(-4.0, "a b"), word_perplexity_stats(-2.0, "c")]);
        assert!((Statistic::Perplexity.value(&sums) - 2f64.exp()).abs() < 1e-12);
    }
}
