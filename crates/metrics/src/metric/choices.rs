//! The choices of one document with their log-likelihoods, and the right ones among them.

use serde_json::Value;

/// The right answer of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gold {
    /// One choice.
    One(usize),
    /// Any of several choices.
    Any(Vec<usize>),
    /// None of the choices: the label is out of range (lm-eval's −100), or its text is not among them. Every accuracy
    /// is then 0.
    Missing,
}

impl Gold {
    /// The gold of an index. A negative index is missing, as is one beyond the choices.
    pub fn from_index(index: i64, choices: usize) -> Self {
        usize::try_from(index).ok().filter(|&index| index < choices).map_or(Self::Missing, Self::One)
    }

    /// The gold of a choice's text: the first choice that equals it.
    pub fn from_text<S: AsRef<str>>(text: &str, choices: &[S]) -> Self {
        choices.iter().position(|choice| choice.as_ref() == text).map_or(Self::Missing, Self::One)
    }

    /// The gold of a field: an index, a text, a truth value (0 or 1), or a list of these, any of which is right. Entries
    /// of a list that name no choice are left out; anything else is missing.
    pub fn from_value<S: AsRef<str>>(value: &Value, choices: &[S]) -> Self {
        match value {
            Value::Number(number) => {
                number.as_i64().map_or(Self::Missing, |index| Self::from_index(index, choices.len()))
            }
            Value::Bool(truth) => Self::from_index(i64::from(*truth), choices.len()),
            Value::String(text) => Self::from_text(text, choices),
            Value::Array(entries) => Self::Any(
                entries
                    .iter()
                    .filter_map(|entry| match Self::from_value(entry, choices) {
                        Self::One(index) => Some(index),
                        _ => None,
                    })
                    .collect(),
            ),
            Value::Null | Value::Object(_) => Self::Missing,
        }
    }

    /// Whether a choice is right.
    pub fn contains(&self, choice: usize) -> bool {
        self.indices().contains(&choice)
    }

    /// The right choices.
    pub fn indices(&self) -> &[usize] {
        match self {
            Self::One(index) => std::slice::from_ref(index),
            Self::Any(indices) => indices,
            Self::Missing => &[],
        }
    }

    /// Whether no choice is right, which is worth a warning.
    pub fn is_missing(&self) -> bool {
        self.indices().is_empty()
    }
}

/// Position of the first maximum; `None` for no values, or if one is NaN.
pub fn argmax(values: &[f64]) -> Option<usize> {
    if values.iter().any(|value| value.is_nan()) {
        return None;
    }
    (0..values.len()).reduce(|best, i| if values[i] > values[best] { i } else { best })
}

/// Probabilities proportional to `exp(log-likelihood)`.
pub fn softmax(loglikelihoods: &[f64]) -> Vec<f64> {
    let largest = loglikelihoods.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = loglikelihoods.iter().map(|ll| (ll - largest).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

/// What a model said about the choices of one document.
#[derive(Clone, Copy, Debug)]
pub struct ChoiceAnswers<'a> {
    /// The texts of the choices, without the delimiter before them.
    pub choices: &'a [String],
    /// Log-likelihood of each choice after the context.
    pub loglikelihoods: &'a [f64],
    /// Whether every token of each choice was the most probable one.
    pub is_greedy: &'a [bool],
    /// Log-likelihood of each choice after an empty context, where a metric needs it.
    pub unconditional: Option<&'a [f64]>,
    /// The right answer.
    pub gold: &'a Gold,
    /// Number of classes of the task: the choices of its first document.
    pub classes: usize,
}

impl ChoiceAnswers<'_> {
    /// The choice with the largest log-likelihood; `None` where a log-likelihood is NaN, which is wrong.
    pub fn predicted(&self) -> Option<usize> {
        argmax(self.loglikelihoods)
    }

    /// The same with log-likelihoods divided by a length of the choice.
    pub fn predicted_per(&self, length: impl Fn(&str) -> usize) -> Option<usize> {
        let lengths = self.choices.iter().map(|choice| length(choice) as f64);
        argmax(&self.loglikelihoods.iter().zip(lengths).map(|(ll, length)| ll / length).collect::<Vec<_>>())
    }

    /// 1 if a choice is right, else 0.
    pub fn right(&self, predicted: Option<usize>) -> f64 {
        f64::from(u8::from(predicted.is_some_and(|choice| self.gold.contains(choice))))
    }

    /// 1 if greedy decoding would have given a right choice, else 0.
    pub fn right_greedily(&self) -> f64 {
        let greedy = self.gold.indices().iter().any(|&choice| self.is_greedy.get(choice) == Some(&true));
        f64::from(u8::from(greedy))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Answer, Metric, Reads};

    /// The score of a metric of choices; `None` where it has none.
    fn score(metric: &str, gold: &Gold, choices: &[&str], lls: &[f64], unconditional: Option<&[f64]>) -> Option<f64> {
        let choices = choices.iter().map(|choice| (*choice).to_owned()).collect::<Vec<_>>();
        let is_greedy = &[false, true, false];
        let answers =
            ChoiceAnswers { choices: &choices, loglikelihoods: lls, is_greedy, unconditional, gold, classes: 2 };
        let scorer = Metric::of(metric).unwrap().configure(Reads::Choices, &Value::Null).unwrap();
        let stats = scorer.stats(&Answer::Choices(&answers)).unwrap().unwrap();
        (stats[1] > 0.0).then_some(stats[0])
    }

    #[test]
    fn gold_is_read_from_indices_texts_and_lists() {
        let choices = ["a", "b", "b"];
        assert_eq!(Gold::from_value(&json!(2), &choices), Gold::One(2));
        assert_eq!(Gold::from_value(&json!("b"), &choices), Gold::One(1));
        assert_eq!(Gold::from_value(&json!(true), &choices), Gold::One(1));
        assert_eq!(Gold::from_value(&json!([0, 9, "b", -100]), &choices), Gold::Any(vec![0, 1]));
        for missing in [json!(3), json!(-100), json!(-1), json!("c"), json!(null), json!(1.5), json!([7])] {
            assert!(Gold::from_value(&missing, &choices).is_missing(), "{missing}");
        }
    }

    #[test]
    fn the_first_maximum_wins_and_nan_predicts_nothing() {
        assert_eq!(argmax(&[-2.0, -1.0, -1.0]), Some(1));
        assert_eq!(argmax(&[f64::NEG_INFINITY; 2]), Some(0));
        assert_eq!(argmax(&[]), None);
        assert_eq!(argmax(&[0.0, f64::NAN]), None);
    }

    #[test]
    fn normalisation_counts_code_points_or_bytes() {
        // Per code point the first choice leads, per byte the second.
        let score = |metric| score(metric, &Gold::One(1), &["abcd", "éééé"], &[-4.0, -6.0], None).unwrap();
        assert_eq!(["acc", "acc_norm", "acc_bytes"].map(score), [0.0, 0.0, 1.0]);
        assert_eq!(score("exact_match"), 1.0);
    }

    #[test]
    fn mutual_information_subtracts_the_unconditional() {
        let (gold, unconditional) = (Gold::Any(vec![1]), [-1.0, -9.0]);
        let score = |metric| score(metric, &gold, &["a", "b"], &[-1.0, -2.0], Some(&unconditional));
        assert_eq!(["acc", "acc_mutual_info", "brier_score"].map(score), [Some(0.0), Some(1.0), None]);
    }

    #[test]
    fn a_missing_gold_scores_zero() {
        let score = |metric| score(metric, &Gold::Missing, &["a", "b"], &[-1.0, -2.0], None);
        let metrics = ["acc", "acc_norm", "exact_match", "brier_score"];
        assert_eq!(metrics.map(score), [Some(0.0), Some(0.0), Some(0.0), None]);
        assert_eq!(argmax(&[-1.0, -2.0]), Some(0));
    }
}
