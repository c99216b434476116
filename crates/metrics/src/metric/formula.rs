//! The functions of summed statistics.

use serde_json::{Value, json};

use super::answer::Logged;
use crate::{scale::Scale, stats::Range};

/// The function from summed per-document statistics to a value. [`super::Statistic`] is the closed list of them.
pub(crate) trait Formula {
    /// Number of statistics a document contributes.
    fn dim(&self) -> usize {
        2
    }

    /// The value of a sum.
    fn value(&self, sums: &[f64]) -> f64;

    /// The values that it can have, where they are in this.
    fn range(&self, scale: Scale) -> Range;

    /// What the value is in; `None` where it is in whatever it is taken of.
    fn scale(&self) -> Option<Scale>;

    /// Whether two values differ by a factor and not by a number: how the level of both varies is then no noise.
    fn differs_by_factor(&self) -> bool {
        false
    }

    /// What lm-eval logs of a document.
    fn logged(&self, document: &Logged<'_>) -> Value {
        document.score()
    }

    /// The statistics of a document from what lm-eval logged of it; `None` where it says nothing.
    fn read(&self, logged: &Value) -> Option<Vec<f64>>;
}

/// Statistics of one document under [`super::Statistic::Mean`]; a value that does not exist (`None`, NaN) takes no part
/// in the mean.
pub fn mean_stats(value: impl Into<Option<f64>>) -> Vec<f64> {
    match value.into() {
        Some(value) if !value.is_nan() => vec![value, 1.0],
        _ => vec![0.0, 0.0],
    }
}

/// Right texts and answer, as lm-eval logs them for the scores of a corpus.
pub(super) fn log_texts(document: &Logged<'_>) -> Value {
    match document.references {
        Some(references) => json!([references, document.answer]),
        None => json!([document.target, document.answer]),
    }
}

/// The statistics of an answer against the first right text, as [`log_texts`] has them.
pub(super) fn read_texts(logged: &Value, stats: impl Fn(&str, &[&str]) -> Vec<f64>) -> Option<Vec<f64>> {
    let [reference, answer] = logged.as_array()?.as_slice() else { return None };
    let text = |value: &'_ Value| match value {
        Value::Array(items) => items.first().and_then(Value::as_str).map(str::to_owned),
        other => other.as_str().map(str::to_owned),
    };
    Some(stats(&text(answer)?, &[&text(reference)?]))
}

/// Log-likelihood and count.
pub(super) fn log_pair(document: &Logged<'_>) -> Value {
    match document.stats {
        [sum, count, ..] => json!([sum, *count as u64]),
        _ => Value::Null,
    }
}

/// Log-likelihood and count; a number alone counts once.
pub(super) fn read_pair(logged: &Value) -> Option<Vec<f64>> {
    match logged {
        Value::Array(pair) => Some(vec![pair.first()?.as_f64()?, pair.get(1)?.as_f64()?]),
        other => Some(vec![other.as_f64()?, 1.0]),
    }
}
