//! Scores of one multiple-choice document from the log-likelihoods of its choices, as lm-eval defines them.

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
pub struct ChoiceAnswers<'a, S> {
    /// The texts of the choices, without the delimiter before them.
    pub choices: &'a [S],
    /// Log-likelihood of each choice after the context.
    pub loglikelihoods: &'a [f64],
    /// Whether every token of each choice was the most probable one.
    pub is_greedy: &'a [bool],
    /// Log-likelihood of each choice after an empty context, where `acc_mutual_info` was asked for.
    pub unconditional: Option<&'a [f64]>,
}

/// All multiple-choice metrics of one document.
#[derive(Clone, Debug, PartialEq)]
pub struct ChoiceScores {
    /// The choice with the largest log-likelihood; `None` where a log-likelihood is NaN, which scores 0.
    pub predicted: Option<usize>,
    /// Whether that choice is right.
    pub acc: f64,
    /// The same with log-likelihoods divided by the code points of the choice.
    pub acc_norm: f64,
    /// The same with log-likelihoods divided by the UTF-8 bytes of the choice.
    pub acc_bytes: f64,
    /// The same with the unconditional log-likelihoods subtracted.
    pub acc_mutual_info: Option<f64>,
    /// Whether greedy decoding would have given a right choice.
    pub exact_match: f64,
    /// Softmax of the log-likelihoods.
    pub probabilities: Vec<f64>,
    /// Squared distance of the probabilities from the right answer, 0 to 2; `None` unless exactly one choice is right.
    pub brier_score: Option<f64>,
}

impl<S: AsRef<str>> ChoiceAnswers<'_, S> {
    /// The scores against a gold answer.
    pub fn score(&self, gold: &Gold) -> ChoiceScores {
        let right =
            |predicted: Option<usize>| f64::from(u8::from(predicted.is_some_and(|choice| gold.contains(choice))));
        let per = |length: &dyn Fn(&str) -> usize| -> Vec<f64> {
            let lengths = self.choices.iter().map(|choice| length(choice.as_ref()) as f64);
            self.loglikelihoods.iter().zip(lengths).map(|(ll, length)| ll / length).collect()
        };
        let probabilities = softmax(self.loglikelihoods);
        let brier_score = match gold {
            Gold::One(gold) => Some(brier_score(&probabilities, *gold)),
            Gold::Any(_) | Gold::Missing => None,
        };
        let predicted = argmax(self.loglikelihoods);
        let greedy = gold.indices().iter().any(|&choice| self.is_greedy.get(choice) == Some(&true));
        ChoiceScores {
            predicted,
            acc: right(predicted),
            acc_norm: right(argmax(&per(&|choice| choice.chars().count()))),
            acc_bytes: right(argmax(&per(&str::len))),
            acc_mutual_info: self.unconditional.map(|unconditional| {
                let gain: Vec<f64> =
                    self.loglikelihoods.iter().zip(unconditional).map(|(with, without)| with - without).collect();
                right(argmax(&gain))
            }),
            exact_match: f64::from(u8::from(greedy)),
            probabilities,
            brier_score,
        }
    }
}

/// Squared distance of probabilities from certainty in the right class (Brier 1950), summed over classes.
pub fn brier_score(probabilities: &[f64], gold: usize) -> f64 {
    probabilities.iter().enumerate().map(|(class, p)| (p - f64::from(u8::from(class == gold))).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answers<'a>(choices: &'a [&'a str], loglikelihoods: &'a [f64]) -> ChoiceAnswers<'a, &'a str> {
        ChoiceAnswers { choices, loglikelihoods, is_greedy: &[false, true, false], unconditional: None }
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
        let scores = answers(&["abcd", "éééé"], &[-4.0, -6.0]).score(&Gold::One(1));
        assert_eq!((scores.acc, scores.acc_norm, scores.acc_bytes), (0.0, 0.0, 1.0));
        assert_eq!(scores.exact_match, 1.0);
    }

    #[test]
    fn mutual_information_subtracts_the_unconditional() {
        let unconditional = [-1.0, -9.0];
        let mut answers = answers(&["a", "b"], &[-1.0, -2.0]);
        answers.unconditional = Some(&unconditional);
        let scores = answers.score(&Gold::Any(vec![1]));
        assert_eq!((scores.acc, scores.acc_mutual_info, scores.brier_score), (0.0, Some(1.0), None));
    }

    #[test]
    fn a_missing_gold_scores_zero() {
        let scores = answers(&["a", "b"], &[-1.0, -2.0]).score(&Gold::Missing);
        assert_eq!((scores.acc, scores.acc_norm, scores.exact_match, scores.brier_score), (0.0, 0.0, 0.0, None));
        assert_eq!(scores.predicted, Some(0));
    }

    #[test]
    fn brier_by_hand() {
        assert!((brier_score(&[0.2, 0.8], 1) - 0.08).abs() < 1e-15);
        let p = softmax(&[-1000.0, -1000.0 + 3f64.ln()]);
        assert!((p[1] - 0.75).abs() < 1e-12);
    }
}
