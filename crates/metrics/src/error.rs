//! What can go wrong in this crate.

use thiserror::Error;

/// Errors of the metrics and the statistics.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// A regular expression is wrong, or was given up.
    #[error(transparent)]
    Regex(#[from] harness_python::RegexError),
    /// An option of a metric has a value that it cannot have.
    #[error("{0}")]
    Option(String),
    /// A setting has a value that does not exist.
    #[error("unknown {setting} `{found}`: expected one of {expected}{}", nearest.map(|n| format!(" (did you mean `{n}`?)")).unwrap_or_default())]
    Unknown {
        /// The setting, e.g. `tokenizer`.
        setting: &'static str,
        /// The value that was found.
        found: String,
        /// The valid values, separated by commas.
        expected: String,
        /// The valid value most like the one found.
        nearest: Option<&'static str>,
    },
}

impl MetricsError {
    /// [`MetricsError::Unknown`] with the list of valid choices and the nearest of them.
    pub(crate) fn unknown(setting: &'static str, found: &str, choices: &[&'static str]) -> Self {
        let nearest = harness_core::nearest(found, choices.iter().copied());
        let nearest = choices.iter().find(|&&choice| Some(choice) == nearest).copied();
        Self::Unknown { setting, found: found.to_owned(), expected: choices.join(", "), nearest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_value_names_the_nearest_choice() {
        let error = MetricsError::unknown("tokenizer", "13b", &["13a", "intl", "char"]).to_string();
        assert_eq!(error, "unknown tokenizer `13b`: expected one of 13a, intl, char (did you mean `13a`?)");
        let error = MetricsError::unknown("tokenizer", "quite different", &["13a", "intl"]).to_string();
        assert!(!error.contains("did you mean"), "{error}");
    }
}
