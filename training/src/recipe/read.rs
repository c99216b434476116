//! Recipes from files, with the place of everything that is wrong in them.

use std::path::Path;

use super::{Recipe, Source, validate};
use crate::{TrainingError, diagnostics};

/// A value as it would be written in a recipe.
fn written(value: &toml::Value) -> String {
    value.as_float().map_or_else(|| value.to_string(), validate::shown)
}

impl Recipe {
    /// Reads and checks a recipe file.
    ///
    /// # Errors
    /// [`TrainingError::Io`] if the file cannot be read, [`TrainingError::File`] with file, line and column for
    /// anything wrong in it.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, TrainingError> {
        let path = path.as_ref();
        let text = harness_core::read_text(path).map_err(TrainingError::io("read", path))?;
        Self::parse(&text, path)
    }

    /// As [`Recipe::load`], with other values for some keys, given as dotted paths.
    ///
    /// # Errors
    /// As [`Recipe::load`]; if there is no such key, or it cannot have the value.
    pub fn load_with(path: impl AsRef<Path>, changes: &[(String, toml::Value)]) -> Result<Self, TrainingError> {
        let path = path.as_ref();
        if changes.is_empty() {
            return Self::load(path);
        }
        let text = harness_core::read_text(path).map_err(TrainingError::io("read", path))?;
        let said: Vec<String> = changes.iter().map(|(key, value)| format!("{key} = {}", written(value))).collect();
        let wrong = |message: String| TrainingError::Data {
            path: path.to_owned(),
            message: format!("with {}: {message}", said.join(", ")),
        };
        // What the file says of these keys does not matter, so it is read as a table before it is checked as a recipe.
        let mut table: toml::Table = text.parse().map_err(|error| diagnostics::syntax(path, &text, &error))?;
        for (key, value) in changes {
            let mut parts: Vec<&str> = key.split('.').collect();
            let last = parts.pop().unwrap_or_default();
            let mut inner = &mut table;
            for part in parts {
                let entry = inner.entry(part).or_insert_with(|| toml::Table::new().into());
                inner = entry.as_table_mut().ok_or_else(|| wrong(format!("{part} is not a table")))?;
            }
            inner.insert(last.to_owned(), value.clone());
        }
        let changed = toml::to_string(&table).map_err(|e| wrong(e.to_string()))?;
        let recipe = Self::parse(&changed, path).map_err(|error| match (error, Self::parse(&text, path)) {
            // The file is wrong, not what is asked for instead.
            (TrainingError::File { message, .. }, Err(error @ TrainingError::File { .. }))
                if error.to_string().ends_with(&message) =>
            {
                error
            }
            (TrainingError::File { message, .. }, _) => wrong(message),
            (other, _) => other,
        })?;
        // Places in messages are those of the file.
        let source = Source { text, changed: said, ..recipe.source };
        Ok(Self { source, ..recipe })
    }

    /// Reads and checks the text of a recipe; `path` is where it lies, for messages and relative paths.
    ///
    /// # Errors
    /// [`TrainingError::File`] with file, line and column.
    pub fn parse(text: &str, path: &Path) -> Result<Self, TrainingError> {
        let mut recipe: Self = toml::from_str(text).map_err(|error| diagnostics::syntax(path, text, &error))?;
        validate::validate(&recipe)
            .map_err(|problem| diagnostics::setting(path, text, problem.key, &problem.message))?;
        recipe.folder = path.parent().map(Path::to_owned).unwrap_or_default();
        recipe.source = Source { path: path.to_owned(), text: text.to_owned(), changed: vec![] };
        Ok(recipe)
    }
}
