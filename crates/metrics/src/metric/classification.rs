//! Measures over classes with scikit-learn's conventions, which `f1`, `precision` and `recall` are, and the confusion
//! matrix that they are computed from.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Statistic,
    answer::{Answer, Logged, Reads},
    choices::{ChoiceAnswers, argmax},
    definition::{Metric, Scorer, StandardError},
    formula::Formula,
};
use crate::{MetricsError, scale::Scale, stats::Range};

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

    /// The function from summed statistics to the value.
    pub fn statistic(&self) -> Statistic {
        Statistic::Classification(*self)
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

/// [`confusion_stats`] of the first right choice and the predicted one.
pub(super) fn choice_stats(choices: &ChoiceAnswers<'_>) -> Vec<f64> {
    let gold = choices.gold.indices().first().copied().unwrap_or(usize::MAX);
    confusion_stats(choices.classes.max(2), gold, choices.predicted())
}

/// Right and predicted class, as lm-eval logs them.
pub(super) fn log_classes(document: &Logged<'_>) -> Value {
    json!([document.gold(), argmax(document.loglikelihoods).unwrap_or(0)])
}

/// Right and predicted class of what lm-eval logs; `None` where these are no classes.
pub fn logged_classes(logged: &Value) -> Option<(usize, usize)> {
    let [gold, predicted] = logged.as_array()?.as_slice() else { return None };
    Some((usize::try_from(gold.as_i64()?).ok()?, usize::try_from(predicted.as_i64()?).ok()?))
}

/// [`confusion_stats`] of what lm-eval logs.
pub(super) fn read_classes(classes: usize, logged: &Value) -> Option<Vec<f64>> {
    let (gold, predicted) = logged_classes(logged)?;
    Some(confusion_stats(classes, gold, Some(predicted)))
}

/// A measure over the choices as classes.
#[derive(Debug)]
struct OfChoices {
    measure: ClassMeasure,
    average: Option<Average>,
    standard_error: StandardError,
}

impl Scorer for OfChoices {
    fn statistic(&self, classes: usize) -> Statistic {
        let average = self.average.unwrap_or(Average::Binary { positive: 1 });
        Classification { classes: classes.max(2), measure: self.measure, average }.statistic()
    }

    fn stats(&self, answer: &Answer<'_>) -> Result<Option<Vec<f64>>, MetricsError> {
        Ok(answer.choices().map(choice_stats))
    }

    fn standard_error(&self) -> StandardError {
        self.standard_error
    }
}

/// The metric of a measure, of class 1 unless the option `average` names an average.
pub(super) const fn metric(name: &'static str, build: super::definition::Build) -> Metric {
    Metric { options: &["average"], ..Metric::new(name, &[Reads::Choices], build) }
}

/// Its scorer.
pub(super) fn scorer(
    measure: ClassMeasure,
    options: &Value,
    standard_error: impl Fn(Option<Average>) -> StandardError,
) -> Result<Arc<dyn Scorer>, MetricsError> {
    let average = match options["average"].as_str() {
        None => None,
        Some("binary") => Some(Average::Binary { positive: 1 }),
        Some("macro") => Some(Average::Macro),
        Some("micro") => Some(Average::Micro),
        Some("weighted") => Some(Average::Weighted),
        Some(other) => {
            let message = format!("unknown average {other:?}; known: binary, macro, micro, weighted");
            return Err(MetricsError::Option(message));
        }
    };
    Ok(Arc::new(OfChoices { measure, average, standard_error: standard_error(average) }))
}

impl Formula for Classification {
    fn dim(&self) -> usize {
        self.classes * (self.classes + 1)
    }

    fn value(&self, sums: &[f64]) -> f64 {
        Self::value(self, sums)
    }

    fn range(&self, _: Scale) -> Range {
        Range::between(0.0, 1.0)
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

/// A summed confusion matrix.
pub(super) struct Confusion<'a> {
    pub(super) sums: &'a [f64],
    pub(super) classes: usize,
}

impl Confusion<'_> {
    fn at(&self, gold: usize, predicted: usize) -> f64 {
        self.sums[gold * (self.classes + 1) + predicted]
    }

    pub(super) fn hits(&self, class: usize) -> f64 {
        self.at(class, class)
    }

    pub(super) fn gold(&self, class: usize) -> f64 {
        (0..=self.classes).map(|predicted| self.at(class, predicted)).sum()
    }

    pub(super) fn predicted(&self, class: usize) -> f64 {
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
        Classification::macro_f1(classes)
            .statistic()
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
    fn a_gold_label_that_does_not_exist_takes_no_part() {
        assert_eq!(confusion_stats(2, 5, Some(0)), [0.0; 6]);
        assert_eq!(confusion_stats(2, 0, Some(9)), [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
    }
}
