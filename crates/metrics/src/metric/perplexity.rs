//! `perplexity`: of a continuation over documents, or of the right text of a generation over its tokens.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    Statistic,
    answer::{Answer, Logged, Reads},
    definition::{Metric, Scorer, StandardError},
    formula::{Formula, log_pair, read_pair},
};
use crate::{MetricsError, scale::Scale, stats::Range};

pub(super) const METRIC: Metric = Metric {
    scale_of_mean: Scale::Raw,
    aggregation: "perplexity",
    case: Some(case),
    ..Metric::raw("perplexity", &[Reads::Continuation, Reads::Reference], |reads, _| {
        Ok(match reads {
            Reads::Continuation => Arc::new(OfContinuation),
            _ => Arc::new(OfReference),
        })
    })
};

#[derive(Debug)]
struct OfContinuation;

impl Scorer for OfContinuation {
    fn statistic(&self, _: usize) -> Statistic {
        Statistic::Perplexity
    }

    fn stats(&self, answer: &Answer<'_>) -> Result<Option<Vec<f64>>, MetricsError> {
        let Answer::Continuation { logprob, .. } = answer else { return Ok(None) };
        Ok(Some(perplexity_stats(*logprob)))
    }

    fn standard_error(&self) -> StandardError {
        StandardError::BOOTSTRAP
    }

    fn logged(&self, document: &Logged<'_>) -> Value {
        json!(document.stats[0])
    }
}

#[derive(Debug)]
struct OfReference;

impl Scorer for OfReference {
    fn statistic(&self, _: usize) -> Statistic {
        Statistic::Perplexity
    }

    fn stats(&self, answer: &Answer<'_>) -> Result<Option<Vec<f64>>, MetricsError> {
        let Answer::Reference { logprob, tokens } = answer else { return Ok(None) };
        Ok(Some(token_perplexity_stats(*logprob, *tokens)))
    }

    fn standard_error(&self) -> StandardError {
        StandardError::None
    }
}

/// A metric of whole texts over something that is counted in them.
#[derive(Debug)]
pub(super) struct OfTexts {
    pub(super) statistic: Statistic,
    /// From the log-likelihood and the text to the statistics.
    pub(super) stats: fn(f64, &str) -> Vec<f64>,
}

impl Scorer for OfTexts {
    fn statistic(&self, _: usize) -> Statistic {
        self.statistic.clone()
    }

    fn stats(&self, answer: &Answer<'_>) -> Result<Option<Vec<f64>>, MetricsError> {
        let Answer::Rolling { logprob, text } = answer else { return Ok(None) };
        Ok(Some((self.stats)(*logprob, text)))
    }

    fn standard_error(&self) -> StandardError {
        StandardError::None
    }
}

/// Statistics for `perplexity` over documents: `[log p, 1]`, without regard to length.
pub fn perplexity_stats(loglikelihood: f64) -> Vec<f64> {
    vec![loglikelihood, 1.0]
}

/// Statistics for a perplexity over tokens: `[log p, tokens]`.
pub fn token_perplexity_stats(loglikelihood: f64, tokens: usize) -> Vec<f64> {
    vec![loglikelihood, tokens as f64]
}

/// `exp(−Σ log p / Σ count)`.
pub(super) struct Perplexity;

impl Formula for Perplexity {
    fn value(&self, sums: &[f64]) -> f64 {
        (-sums[0] / sums[1]).exp()
    }

    fn range(&self, _: Scale) -> Range {
        Range::at_least(1.0)
    }

    fn scale(&self) -> Option<Scale> {
        Some(Scale::Raw)
    }

    fn differs_by_factor(&self) -> bool {
        true
    }

    fn logged(&self, document: &Logged<'_>) -> Value {
        log_pair(document)
    }

    fn read(&self, logged: &Value) -> Option<Vec<f64>> {
        read_pair(logged)
    }
}

fn case(input: &Value) -> Option<Vec<f64>> {
    let numbers = |name: &str| -> Option<Vec<f64>> { input[name].as_array()?.iter().map(Value::as_f64).collect() };
    let stats = numbers("logprobs")?.into_iter().zip(numbers("counts")?).map(|(sum, count)| [sum, count]);
    Some(vec![Statistic::Perplexity.value(&Statistic::Perplexity.sum(stats))])
}
