//! The mean of the documents' scores.

use serde_json::Value;

use super::{
    brier_score,
    formula::{Formula, mean_stats},
};
use crate::{scale::Scale, stats::Range};

/// Arithmetic mean.
pub(super) struct Mean;

impl Formula for Mean {
    fn value(&self, sums: &[f64]) -> f64 {
        sums[0] / sums[1]
    }

    fn range(&self, scale: Scale) -> Range {
        scale.range()
    }

    fn scale(&self) -> Option<Scale> {
        None
    }

    fn read(&self, logged: &Value) -> Option<Vec<f64>> {
        match logged {
            Value::Bool(truth) => Some(mean_stats(f64::from(u8::from(*truth)))),
            // One truth value a part of the document, as IFEval logs its instructions.
            Value::Array(parts) if !parts.is_empty() && parts.iter().all(Value::is_boolean) => {
                let true_ones = parts.iter().filter(|part| **part == Value::Bool(true)).count();
                Some(vec![true_ones as f64, parts.len() as f64])
            }
            Value::Array(pair) => brier_score::read(pair).map(mean_stats),
            other => Some(mean_stats(other.as_f64()?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Statistic;

    #[test]
    fn a_missing_value_takes_no_part_in_the_mean() {
        let sums = Statistic::Mean.sum([mean_stats(1.0), mean_stats(None), mean_stats(f64::NAN), mean_stats(0.0)]);
        assert_eq!((Statistic::Mean.value(&sums), sums[1]), (0.5, 2.0));
        assert!(Statistic::Mean.value(&[0.0, 0.0]).is_nan());
    }
}
