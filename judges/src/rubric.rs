//! Rubrics: one criterion and what each of five scores means.

use harness_core::Digest;
use serde::{Deserialize, Serialize};

use crate::{
    JudgesError, Location, Result, built_in,
    toml_text::{line_of, toml_error},
};

/// A criterion with five described scores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rubric {
    /// Short name, e.g. `helpfulness`.
    pub name: String,
    /// The question that is judged.
    pub criterion: String,
    /// What scores 1 to 5 mean.
    pub scores: [String; 5],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    criterion: String,
    scores: toml::Spanned<Vec<String>>,
}

/// The rubrics that come with the program, by name.
const BUILT_IN: [(&str, &str); 5] = [
    ("helpfulness", include_str!("../rubrics/helpfulness.toml")),
    ("correctness", include_str!("../rubrics/correctness.toml")),
    ("harmlessness", include_str!("../rubrics/harmlessness.toml")),
    ("honesty", include_str!("../rubrics/honesty.toml")),
    ("reasoning", include_str!("../rubrics/reasoning.toml")),
];

impl Rubric {
    /// Names of the rubrics that come with the program.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// A rubric by name, or from a TOML file if the name is a path (ends in `.toml` or has a slash).
    ///
    /// # Errors
    /// If there is none of this name, or the file cannot be read or is wrong.
    pub fn load(name: &str) -> Result<Self> {
        built_in::load("rubric", &BUILT_IN, name, |text, file| Self::parse(text, &file.display().to_string()))
    }

    /// Reads a rubric; `file` is named in errors.
    ///
    /// # Errors
    /// [`JudgesError::Syntax`] for bad TOML, [`JudgesError::Setting`] for a number of scores other than five or an empty
    /// text.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let raw: File = toml::from_str(text).map_err(|error| toml_error(file, text, &error))?;
        let line = line_of(text, raw.scores.span().start);
        let setting = |key: &str, line, found: String, expected: &str| JudgesError::Setting {
            at: Location::new(file, line),
            key: key.into(),
            found,
            expected: expected.into(),
        };
        let scores = raw.scores.into_inner();
        let count = scores.len();
        let scores: [String; 5] = scores
            .try_into()
            .map_err(|_| setting("scores", Some(line), format!("{count} texts"), "five texts, for scores 1 to 5"))?;
        if let Some(empty) = scores.iter().position(|score| score.trim().is_empty()) {
            return Err(setting("scores", Some(line), format!("empty for score {}", empty + 1), "a description"));
        }
        if raw.criterion.trim().is_empty() {
            return Err(setting("criterion", None, "empty".into(), "the question that is judged"));
        }
        Ok(Self { name: raw.name, criterion: raw.criterion, scores })
    }

    /// The text an absolute grader sees: the criterion in brackets, then a line a score.
    pub fn absolute_text(&self) -> String {
        let mut text = format!("[{}]", self.criterion);
        for (i, score) in self.scores.iter().enumerate() {
            text.push_str(&format!("\nScore {}: {score}", i + 1));
        }
        text
    }

    /// The text a relative grader sees: the criterion in brackets.
    pub fn relative_text(&self) -> String {
        format!("[{}]", self.criterion)
    }

    /// Hash of the content.
    pub fn digest(&self) -> Digest {
        Digest::of_json(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_rubrics_are_well_formed() {
        for name in Rubric::names() {
            let rubric = Rubric::load(name).unwrap();
            assert_eq!(rubric.name, name);
            let text = rubric.absolute_text();
            assert!(text.starts_with(&rubric.relative_text()) && text.contains("\nScore 5: "), "{text}");
            assert_eq!(text.lines().count(), 6, "{name}: one line a score");
        }
    }

    #[test]
    fn errors_say_where() {
        let error = Rubric::parse("name = \"x\"\ncriterion = \"y\"\nscores = [\"a\", \"b\"]\n", "x.toml").unwrap_err();
        assert_eq!(error.to_string(), "x.toml, line 3: `scores` is 2 texts: expected five texts, for scores 1 to 5");
        let error = Rubric::parse("name = \"x\"\ncriterion = 3\n", "x.toml").unwrap_err().to_string();
        assert!(error.starts_with("x.toml, line 2: "), "{error}");
        let error = Rubric::load("helpfullness").unwrap_err().to_string();
        assert!(error.contains("did you mean `helpfulness`?"), "{error}");
    }
}
