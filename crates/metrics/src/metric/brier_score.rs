//! `brier_score`: the squared distance of the choices' probabilities from the right answer (Brier 1950), 0 to 2.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    answer::{Answer, Logged, Reads},
    choices::{Gold, softmax},
    definition::{Metric, Scorer, StandardError},
    formula::mean_stats,
};
use crate::{MetricsError, scale::Scale};

pub(super) const METRIC: Metric = Metric {
    scale_of_mean: Scale::Raw,
    aggregation: "brier_score",
    logs_pairs: true,
    ..Metric::raw("brier_score", &[Reads::Choices], |_, _| Ok(Arc::new(Brier)))
};

#[derive(Debug)]
struct Brier;

impl Scorer for Brier {
    fn stats(&self, answer: &Answer<'_>) -> Result<Option<Vec<f64>>, MetricsError> {
        let Answer::Choices(choices) = answer else { return Ok(None) };
        // Without exactly one right choice it does not exist.
        let score = match choices.gold {
            Gold::One(gold) => Some(brier_score(&softmax(choices.loglikelihoods), *gold)),
            Gold::Any(_) | Gold::Missing => None,
        };
        Ok(Some(mean_stats(score)))
    }

    fn standard_error(&self) -> StandardError {
        StandardError::None
    }

    fn logged(&self, document: &Logged<'_>) -> Value {
        json!([document.gold(), softmax(document.loglikelihoods)])
    }
}

/// Squared distance of probabilities from certainty in the right class, summed over classes.
pub fn brier_score(probabilities: &[f64], gold: usize) -> f64 {
    probabilities.iter().enumerate().map(|(class, p)| (p - f64::from(u8::from(class == gold))).powi(2)).sum()
}

/// The score of what lm-eval logs: the right class and the probabilities.
pub(super) fn read(pair: &[Value]) -> Option<f64> {
    let gold = usize::try_from(pair.first()?.as_i64()?).ok()?;
    let probabilities: Vec<f64> = match pair.get(1)? {
        Value::Array(items) => items.iter().filter_map(Value::as_f64).collect(),
        Value::String(text) => {
            text.trim_matches(['[', ']']).split_whitespace().filter_map(|p| p.parse().ok()).collect()
        }
        _ => return None,
    };
    (gold < probabilities.len()).then(|| brier_score(&probabilities, gold))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brier_by_hand() {
        assert!((brier_score(&[0.2, 0.8], 1) - 0.08).abs() < 1e-15);
        let p = softmax(&[-1000.0, -1000.0 + 3f64.ln()]);
        assert!((p[1] - 0.75).abs() < 1e-12);
    }
}
