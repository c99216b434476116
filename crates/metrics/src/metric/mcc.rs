//! `mcc`: Matthews correlation of right and predicted classes.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Statistic,
    answer::{Answer, Logged, Reads},
    classification::{Confusion, choice_stats, log_classes, read_classes},
    definition::{Metric, Scorer, StandardError},
    formula::Formula,
};
use crate::{MetricsError, scale::Scale, stats::Range};

pub(super) const METRIC: Metric = Metric {
    aggregation: "matthews_corrcoef",
    logs_pairs: true,
    ..Metric::new("mcc", &[Reads::Choices], |_, _| Ok(Arc::new(OfChoices)))
};

#[derive(Debug)]
struct OfChoices;

impl Scorer for OfChoices {
    fn statistic(&self, classes: usize) -> Statistic {
        Statistic::Matthews(Matthews { classes: classes.max(2) })
    }

    fn stats(&self, answer: &Answer<'_>) -> Result<Option<Vec<f64>>, MetricsError> {
        Ok(answer.choices().map(choice_stats))
    }

    fn standard_error(&self) -> StandardError {
        StandardError::BOOTSTRAP
    }
}

/// Matthews correlation for any number of classes (Gorodkin 2004); 0 where undefined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matthews {
    /// Number of classes.
    pub classes: usize,
}

impl Formula for Matthews {
    fn dim(&self) -> usize {
        self.classes * (self.classes + 1)
    }

    fn value(&self, sums: &[f64]) -> f64 {
        let matrix = Confusion { sums, classes: self.classes };
        let total: f64 = (0..self.classes).map(|c| matrix.gold(c)).sum();
        let hits: f64 = (0..self.classes).map(|c| matrix.hits(c)).sum();
        let none = total - (0..self.classes).map(|c| matrix.predicted(c)).sum::<f64>();
        let products: f64 = (0..self.classes).map(|c| matrix.gold(c) * matrix.predicted(c)).sum();
        let gold_squares: f64 = (0..self.classes).map(|c| matrix.gold(c).powi(2)).sum();
        let predicted_squares: f64 = (0..self.classes).map(|c| matrix.predicted(c).powi(2)).sum::<f64>() + none * none;
        let spread = (total * total - predicted_squares) * (total * total - gold_squares);
        if spread > 0.0 { (hits * total - products) / spread.sqrt() } else { 0.0 }
    }

    fn range(&self, _: Scale) -> Range {
        Range::between(-1.0, 1.0)
    }

    fn scale(&self) -> Option<Scale> {
        Some(Scale::Fraction)
    }

    fn logged(&self, document: &Logged<'_>) -> Value {
        log_classes(document)
    }

    fn read(&self, logged: &Value) -> Option<Vec<f64>> {
        read_classes(self.classes, logged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::confusion_stats;

    fn matthews(pairs: &[(usize, Option<usize>)]) -> f64 {
        let statistic = Statistic::Matthews(Matthews { classes: 2 });
        statistic.value(&statistic.sum(pairs.iter().map(|&(gold, predicted)| confusion_stats(2, gold, predicted))))
    }

    #[test]
    fn matthews_of_two_classes_is_the_phi_coefficient() {
        let pairs = [(1, Some(0)), (1, Some(1)), (1, Some(1)), (0, Some(0)), (0, Some(0)), (0, Some(0))];
        assert!((matthews(&pairs) - 0.5f64.sqrt()).abs() < 1e-12);
        assert_eq!(matthews(&[(1, Some(1)), (0, Some(1))]), 0.0);
        assert!(matthews(&[(1, None), (0, Some(0))]) > 0.0);
    }
}
