//! `process_results`: scores that are no metric of the list alone.

use harness_metrics::{byte_perplexity_stats, mean_stats, word_count};
use harness_store::Row;
use serde_json::Value;

use super::{Answers, text};

/// The scores of one document.
pub(crate) type NativeScores = Vec<NativeScore>;

/// One metric's score of one document.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NativeScore {
    /// The metric.
    pub metric: &'static str,
    /// Additive statistics.
    pub stats: Vec<f64>,
    /// What lm-eval logs, where it is not what the statistics say.
    pub logged: Option<Value>,
}

impl NativeScore {
    /// A score by its statistics.
    pub(super) fn new(metric: &'static str, stats: Vec<f64>) -> Self {
        Self { metric, stats, logged: None }
    }

    /// A value that a mean is taken of.
    pub(super) fn mean(metric: &'static str, value: f64) -> Self {
        Self::new(metric, mean_stats(value))
    }

    /// The same score with what lm-eval logs.
    pub(super) fn logged(self, value: Value) -> Self {
        Self { logged: Some(value), ..self }
    }
}

/// The log-likelihood of a text, with the words and bytes of the page as it was before its tokenisation was undone.
pub(super) fn wikitext(row: &Row, answers: &Answers<'_>) -> Result<NativeScores, String> {
    let page = text(row, "page")?;
    let logprob = first(answers)?.0;
    let bytes = byte_perplexity_stats(logprob, page);
    Ok(vec![
        NativeScore::new("word_perplexity", vec![logprob, word_count(page) as f64]),
        NativeScore::new("byte_perplexity", bytes.clone()),
        NativeScore::new("bits_per_byte", bytes),
    ])
}

/// The answers as log-likelihoods.
pub(super) fn loglikelihoods<'a>(answers: &Answers<'a>) -> Result<&'a [(f64, bool)], String> {
    match answers {
        Answers::LogLikelihoods(all) => Ok(all),
        Answers::Text(_) => Err("the task's results are computed from log-likelihoods, not from text".to_owned()),
    }
}

fn first(answers: &Answers<'_>) -> Result<(f64, bool), String> {
    loglikelihoods(answers)?.first().copied().ok_or_else(|| "there is no log-likelihood".to_owned())
}

/// The answer as text.
pub(super) fn generated<'a>(answers: &Answers<'a>) -> Result<&'a str, String> {
    match answers {
        Answers::Text(text) => Ok(text),
        Answers::LogLikelihoods(_) => {
            Err("the task's results are computed from text, not from log-likelihoods".to_owned())
        }
    }
}

/// `numpy.sum` of up to 128 values, in numpy's order of additions: eight running sums from eight values on.
pub(super) fn numpy_sum(values: &[f64]) -> f64 {
    if values.len() < 8 {
        return values.iter().fold(0.0, |sum, value| sum + value);
    }
    let mut sums = [0.0; 8];
    sums.copy_from_slice(&values[..8]);
    let whole = values.len() - values.len() % 8;
    for chunk in values[8..whole].chunks_exact(8) {
        sums.iter_mut().zip(chunk).for_each(|(sum, value)| *sum += value);
    }
    let total = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
    values[whole..].iter().fold(total, |sum, value| sum + value)
}
