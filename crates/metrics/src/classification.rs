//! Precision, recall, F1 and Matthews correlation over classes, with scikit-learn's conventions.

use serde::{Deserialize, Serialize};

/// What is measured for a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassMeasure {
    /// True positives over predicted positives.
    Precision,
    /// True positives over actual positives.
    Recall,
    /// Harmonic mean of precision and recall.
    F1,
}

/// How the classes are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Average {
    /// One class alone.
    Binary {
        /// The class that counts as positive; 1 in scikit-learn.
        positive: usize,
    },
    /// Unweighted mean over the classes that occur, as gold label or as prediction.
    Macro,
    /// From counts summed over the classes; equals accuracy where every document has a prediction.
    Micro,
    /// Mean over classes weighted by their gold labels.
    Weighted,
}

/// A measure over a confusion matrix. An undefined ratio counts as 0, as in scikit-learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Classification {
    /// Number of classes.
    pub classes: usize,
    /// What is measured.
    pub measure: ClassMeasure,
    /// How classes are put together.
    pub average: Average,
}

impl Classification {
    /// Macro-averaged F1.
    pub fn macro_f1(classes: usize) -> Self {
        Self { classes, measure: ClassMeasure::F1, average: Average::Macro }
    }

    /// F1 of class 1 of two.
    pub fn binary_f1() -> Self {
        Self { classes: 2, measure: ClassMeasure::F1, average: Average::Binary { positive: 1 } }
    }

    /// The value of a summed confusion matrix.
    pub fn value(&self, sums: &[f64]) -> f64 {
        let matrix = Confusion { sums, classes: self.classes };
        let class = |c: usize| self.ratio(matrix.hits(c), matrix.predicted(c), matrix.gold(c));
        let all = 0..self.classes;
        match self.average {
            Average::Binary { positive } if positive < self.classes => class(positive),
            Average::Binary { .. } => 0.0,
            Average::Macro => {
                let present: Vec<f64> =
                    all.filter(|&c| matrix.gold(c) + matrix.predicted(c) > 0.0).map(class).collect();
                divide(present.iter().sum(), present.len() as f64)
            }
            Average::Micro => {
                let total = |f: &dyn Fn(usize) -> f64| all.clone().map(f).sum::<f64>();
                let (hits, gold) = (total(&|c| matrix.hits(c)), total(&|c| matrix.gold(c)));
                self.ratio(hits, total(&|c| matrix.predicted(c)), gold)
            }
            Average::Weighted => {
                let weights: f64 = all.clone().map(|c| matrix.gold(c)).sum();
                divide(all.map(|c| matrix.gold(c) * class(c)).sum(), weights)
            }
        }
    }

    fn ratio(&self, hits: f64, predicted: f64, gold: f64) -> f64 {
        match self.measure {
            ClassMeasure::Precision => divide(hits, predicted),
            ClassMeasure::Recall => divide(hits, gold),
            ClassMeasure::F1 => divide(2.0 * hits, predicted + gold),
        }
    }
}

/// Statistics of one document: a confusion matrix of `classes` rows (gold) and `classes + 1` columns (predicted), row by
/// row, with a single 1; the last column stands for no usable prediction.
///
/// A gold label outside of the classes gives zeros, so that the document takes no part.
pub fn confusion_stats(classes: usize, gold: usize, predicted: Option<usize>) -> Vec<f64> {
    let mut stats = vec![0.0; classes * (classes + 1)];
    if gold < classes {
        stats[gold * (classes + 1) + predicted.filter(|&p| p < classes).unwrap_or(classes)] = 1.0;
    }
    stats
}

/// Matthews correlation of a summed confusion matrix, for any number of classes (Gorodkin 2004); 0 where undefined.
pub fn matthews(sums: &[f64], classes: usize) -> f64 {
    let matrix = Confusion { sums, classes };
    let total: f64 = (0..classes).map(|c| matrix.gold(c)).sum();
    let hits: f64 = (0..classes).map(|c| matrix.hits(c)).sum();
    let none = total - (0..classes).map(|c| matrix.predicted(c)).sum::<f64>();
    let products: f64 = (0..classes).map(|c| matrix.gold(c) * matrix.predicted(c)).sum();
    let gold_squares: f64 = (0..classes).map(|c| matrix.gold(c).powi(2)).sum();
    let predicted_squares: f64 = (0..classes).map(|c| matrix.predicted(c).powi(2)).sum::<f64>() + none * none;
    let spread = (total * total - predicted_squares) * (total * total - gold_squares);
    if spread > 0.0 { (hits * total - products) / spread.sqrt() } else { 0.0 }
}

struct Confusion<'a> {
    sums: &'a [f64],
    classes: usize,
}

impl Confusion<'_> {
    fn at(&self, gold: usize, predicted: usize) -> f64 {
        self.sums[gold * (self.classes + 1) + predicted]
    }

    fn hits(&self, class: usize) -> f64 {
        self.at(class, class)
    }

    fn gold(&self, class: usize) -> f64 {
        (0..=self.classes).map(|predicted| self.at(class, predicted)).sum()
    }

    fn predicted(&self, class: usize) -> f64 {
        (0..self.classes).map(|gold| self.at(gold, class)).sum()
    }
}

fn divide(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(classes: usize, pairs: &[(usize, Option<usize>)]) -> Vec<f64> {
        crate::Statistic::Matthews { classes }
            .sum(pairs.iter().map(|&(gold, predicted)| confusion_stats(classes, gold, predicted)))
    }

    fn measure(measure: ClassMeasure, average: Average, sums: &[f64]) -> f64 {
        Classification { classes: 3, measure, average }.value(sums)
    }

    /// By hand: gold 0 0 1 1 1 2, predicted 0 1 1 1 0 -; class 2 is never predicted.
    #[test]
    fn three_classes_by_hand() {
        let sums = sums(3, &[(0, Some(0)), (0, Some(1)), (1, Some(1)), (1, Some(1)), (1, Some(0)), (2, None)]);
        let third = 1.0 / 3.0;
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        close(measure(ClassMeasure::Precision, Average::Macro, &sums), (0.5 + 2.0 * third) / 3.0);
        close(measure(ClassMeasure::Recall, Average::Macro, &sums), (0.5 + 2.0 * third) / 3.0);
        close(measure(ClassMeasure::F1, Average::Macro, &sums), (0.5 + 2.0 * third) / 3.0);
        close(measure(ClassMeasure::Recall, Average::Micro, &sums), 0.5);
        close(measure(ClassMeasure::Precision, Average::Micro, &sums), 0.6);
        close(measure(ClassMeasure::F1, Average::Weighted, &sums), (2.0 * 0.5 + 3.0 * 2.0 * third) / 6.0);
        close(measure(ClassMeasure::F1, Average::Binary { positive: 1 }, &sums), 2.0 * third);
        close(measure(ClassMeasure::F1, Average::Binary { positive: 7 }, &sums), 0.0);
    }

    #[test]
    fn classes_that_never_occur_do_not_lower_the_macro_mean() {
        let sums = sums(3, &[(0, Some(0)), (1, Some(1))]);
        assert_eq!(measure(ClassMeasure::F1, Average::Macro, &sums), 1.0);
        assert_eq!(measure(ClassMeasure::F1, Average::Macro, &[0.0; 12]), 0.0);
    }

    #[test]
    fn matthews_of_two_classes_is_the_phi_coefficient() {
        let pairs = [(1, Some(0)), (1, Some(1)), (1, Some(1)), (0, Some(0)), (0, Some(0)), (0, Some(0))];
        assert!((matthews(&sums(2, &pairs), 2) - 0.5f64.sqrt()).abs() < 1e-12);
        assert_eq!(matthews(&sums(2, &[(1, Some(1)), (0, Some(1))]), 2), 0.0);
        assert!(matthews(&sums(2, &[(1, None), (0, Some(0))]), 2) > 0.0);
    }

    #[test]
    fn a_gold_label_that_does_not_exist_takes_no_part() {
        assert_eq!(confusion_stats(2, 5, Some(0)), [0.0; 6]);
        assert_eq!(confusion_stats(2, 0, Some(9)), [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
    }
}
