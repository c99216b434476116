//! `exact_match` with lm-eval's options; of choices, whether a right one is what the model would say.

use std::sync::Arc;

use harness_python::{PythonRegex, is_ascii_punctuation};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    answer::{Answer, Reads},
    definition::{Metric, Scored, Scorer, flag},
    formula::mean_stats,
};
use crate::MetricsError;

pub(crate) const OPTIONS: &[&str] = &["regexes_to_ignore", "ignore_case", "ignore_punctuation", "ignore_numbers"];

pub(super) const METRIC: Metric = Metric {
    options: OPTIONS,
    share: true,
    tells_documents: true,
    ..Metric::new("exact_match", &[Reads::Choices, Reads::Text], |reads, options| match reads {
        Reads::Choices => Scored::whole(|answer| Some(answer.choices()?.right_greedily())),
        _ => Ok(Arc::new(ExactMatch::new(ExactMatchOptions::read(options)?)?)),
    })
};

/// Options of `exact_match`, by their names in task files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExactMatchOptions {
    /// Expressions of Python's `re` whose matches are removed from both texts, in this order, before all else.
    pub regexes_to_ignore: Vec<String>,
    /// Whether both texts are lower-cased.
    pub ignore_case: bool,
    /// Whether ASCII punctuation is removed.
    pub ignore_punctuation: bool,
    /// Whether ASCII digits are removed.
    pub ignore_numbers: bool,
}

impl ExactMatchOptions {
    /// From an entry of `metric_list`.
    fn read(options: &Value) -> Result<Self, MetricsError> {
        Ok(Self {
            regexes_to_ignore: match &options["regexes_to_ignore"] {
                Value::Null => Vec::new(),
                Value::Array(items) => items.iter().map(harness_python::str).collect(),
                other => vec![harness_python::str(other)],
            },
            ignore_case: flag(options, "ignore_case")?,
            ignore_punctuation: flag(options, "ignore_punctuation")?,
            ignore_numbers: flag(options, "ignore_numbers")?,
        })
    }
}

/// `exact_match` with its expressions compiled.
#[derive(Clone, Debug)]
pub struct ExactMatch {
    regexes: Vec<PythonRegex>,
    options: ExactMatchOptions,
}

impl ExactMatch {
    /// Compiles the options.
    ///
    /// # Errors
    /// [`MetricsError::Regex`] for an expression that is not valid.
    pub fn new(options: ExactMatchOptions) -> Result<Self, MetricsError> {
        let regexes =
            options.regexes_to_ignore.iter().map(|pattern| PythonRegex::new(pattern)).collect::<Result<_, _>>()?;
        Ok(Self { regexes, options })
    }

    /// Whether a prediction equals any of the targets after normalisation.
    ///
    /// # Errors
    /// [`MetricsError::Regex`] if an expression would backtrack without end on one of the texts.
    pub fn matches<S: AsRef<str>>(&self, prediction: &str, targets: &[S]) -> Result<bool, MetricsError> {
        let prediction = self.normalize(prediction)?;
        for target in targets {
            if self.normalize(target.as_ref())? == prediction {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A text as it is compared. Nothing is stripped but trailing NUL characters, which the arrays of numpy that lm-eval
    /// compares do not keep.
    ///
    /// # Errors
    /// [`MetricsError::Regex`] if an expression would backtrack without end.
    pub fn normalize(&self, text: &str) -> Result<String, MetricsError> {
        let mut text = text.to_owned();
        for regex in &self.regexes {
            text = regex.remove_all(&text)?;
        }
        if self.options.ignore_case {
            // numpy's fixed width cuts the one letter that grows: İ becomes a plain i.
            let width = text.chars().count();
            text = text.to_lowercase().chars().take(width).collect();
        }
        let options = &self.options;
        text.retain(|c| {
            !(options.ignore_punctuation && is_ascii_punctuation(c) || options.ignore_numbers && c.is_ascii_digit())
        });
        text.truncate(text.trim_end_matches('\0').len());
        Ok(text)
    }
}

impl Scorer for ExactMatch {
    fn stats(&self, answer: &Answer<'_>) -> Result<Option<Vec<f64>>, MetricsError> {
        let Answer::Text { text, references } = answer else { return Ok(None) };
        Ok(Some(mean_stats(f64::from(u8::from(self.matches(text, references)?)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_change_what_is_equal() {
        let plain = ExactMatch::new(ExactMatchOptions::default()).unwrap();
        assert!(plain.matches("Paris", &["London", "Paris"]).unwrap());
        assert!(!plain.matches("paris ", &["paris"]).unwrap());
        assert!(!plain.matches::<&str>("paris", &[]).unwrap());
        let gsm8k = ExactMatchOptions {
            regexes_to_ignore: [",", r"\$", "(?s).*#### ", r"\.$"].map(String::from).to_vec(),
            ignore_case: true,
            ..ExactMatchOptions::default()
        };
        let gsm8k = ExactMatch::new(gsm8k).unwrap();
        assert!(gsm8k.matches("$1,234.", &["He ate.\n#### 1234"]).unwrap());
        let loose =
            ExactMatchOptions { ignore_punctuation: true, ignore_numbers: true, ..ExactMatchOptions::default() };
        assert!(ExactMatch::new(loose).unwrap().matches("(3 cats)", &[" cats"]).unwrap());
    }

    #[test]
    fn a_bad_expression_is_named() {
        let options = ExactMatchOptions { regexes_to_ignore: vec!["(".into()], ..ExactMatchOptions::default() };
        assert!(ExactMatch::new(options).unwrap_err().to_string().contains("`(`"));
    }
}
