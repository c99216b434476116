//! `exact_match` with lm-eval's options.

use serde::{Deserialize, Serialize};

use crate::MetricsError;
use harness_python::PythonRegex;
use harness_python::is_ascii_punctuation;

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
