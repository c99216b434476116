//! Recipes: a training run as a declarative TOML file.
//!
//! A recipe says what is trained (`method`, `[lora]` or `[model]`), on what (`[data]`) and how (`[training]`). Paths in
//! it are relative to the recipe file. Unknown keys, impossible values and contradictions are refused with file, line
//! and column before anything is read or written.

mod data;
pub(crate) mod diagnostics;
mod lora;
mod model;
mod precision;
mod resolve;
mod training;
mod validate;

use std::path::{Path, PathBuf};

use harness_core::Digest;
use serde::{Deserialize, Serialize};

pub use data::{DataOptions, Loss, Padding, SplitFractions};
pub use harness_engine::Quantization;
pub use lora::{LoraInit, LoraOptions, Targets};
pub use model::{ModelOptions, WeightDtype};
pub use precision::{Checkpointing, Precision, Sharding};
pub use resolve::ResolvedRecipe;
pub use training::{ScheduleKind, TrainingOptions};

use crate::TrainingError;

/// Which parameters a run trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Low-rank adapters beside the frozen weights of a base model (Hu et al. 2021); writes a PEFT adapter directory.
    Lora,
    /// Every parameter, of a base model or, with `[model]`, from scratch; writes a model directory.
    Full,
}

/// A declarative training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the run and of the folder it writes.
    pub name: String,
    /// The model to start from, where the experiment does not name it: a name of the experiment or a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Which parameters are trained.
    pub method: Method,
    /// What is trained on.
    pub data: DataOptions,
    /// The adapter; present exactly when `method = "lora"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraOptions>,
    /// Quantisation of the frozen base (QLoRA, Dettmers et al. 2023); only with `method = "lora"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Quantization>,
    /// Training on preferences instead of texts; only with `method = "lora"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dpo: Option<DpoOptions>,
    /// The optimisation.
    pub training: TrainingOptions,
    /// The model made from scratch; only with `method = "full"`, and then instead of a base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelOptions>,
    /// The folder that paths in the recipe are relative to; not part of the file nor of its hash.
    #[serde(skip)]
    pub folder: PathBuf,
    /// The file and its text, for messages.
    #[serde(skip)]
    pub(crate) source: Source,
}

/// Where a recipe was read from; recipes that say the same are equal wherever they lie.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source {
    path: PathBuf,
    text: String,
}

impl PartialEq for Source {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Direct preference optimisation (Rafailov et al. 2023) with the sigmoid loss; the reference is the base without adapter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DpoOptions {
    /// How strongly the adapter is held to the reference.
    #[serde(default = "default_beta")]
    pub beta: f64,
}

fn default_beta() -> f64 {
    0.1
}

impl Recipe {
    /// Reads and checks a recipe file.
    ///
    /// # Errors
    /// [`TrainingError::Io`] if the file cannot be read, [`TrainingError::File`] with file, line and column for
    /// anything wrong in it.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, TrainingError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(TrainingError::io("read", path))?;
        Self::parse(&text, path)
    }

    /// As [`Recipe::load`], with other values for some keys, given as dotted paths.
    ///
    /// # Errors
    /// As [`Recipe::load`]; if there is no such key, or it cannot have the value.
    pub fn load_with(path: impl AsRef<Path>, changes: &[(String, toml::Value)]) -> Result<Self, TrainingError> {
        let path = path.as_ref();
        let recipe = Self::load(path)?;
        if changes.is_empty() {
            return Ok(recipe);
        }
        let said: Vec<String> = changes.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        let wrong = |message: String| TrainingError::Data {
            path: path.to_owned(),
            message: format!("with {}: {message}", said.join(", ")),
        };
        let mut table: toml::Table = recipe.source.text.parse().map_err(|e: toml::de::Error| wrong(e.to_string()))?;
        for (key, value) in changes {
            let mut parts: Vec<&str> = key.split('.').collect();
            let last = parts.pop().unwrap_or_default();
            let mut inner = &mut table;
            for part in parts {
                let entry = inner.entry(part).or_insert_with(|| toml::Table::new().into());
                inner = entry.as_table_mut().ok_or_else(|| wrong(format!("{part} is no table")))?;
            }
            inner.insert(last.to_owned(), value.clone());
        }
        let text = toml::to_string(&table).map_err(|e| wrong(e.to_string()))?;
        let changed = Self::parse(&text, path).map_err(|error| match error {
            TrainingError::File { message, .. } => wrong(message),
            other => other,
        })?;
        // Places in messages are those of the file.
        Ok(Self { source: recipe.source, ..changed })
    }

    /// Reads and checks the text of a recipe; `path` is where it lies, for messages and relative paths.
    ///
    /// # Errors
    /// [`TrainingError::File`] with file, line and column.
    pub fn parse(text: &str, path: &Path) -> Result<Self, TrainingError> {
        let mut recipe: Self = toml::from_str(text).map_err(|error| diagnostics::syntax(path, text, &error))?;
        validate::validate(&recipe).map_err(|problem| diagnostics::value(path, text, &problem))?;
        recipe.folder = path.parent().map(Path::to_owned).unwrap_or_default();
        recipe.source = Source { path: path.to_owned(), text: text.to_owned() };
        Ok(recipe)
    }

    /// Hash of everything the recipe says, defaults included; comments, order and the place of the file do not matter.
    pub fn hash(&self) -> Digest {
        // What changes no result names no other run.
        let mut recipe = self.clone();
        recipe.training.sharding = Sharding::None;
        recipe.training.gradient_checkpointing = Checkpointing::Auto;
        recipe.training.paged_optimizer = false;
        Digest::of_json(&recipe)
    }

    /// An error at the place of a dotted key, or of the table that should have it.
    pub(crate) fn problem(&self, key: &'static str, message: impl Into<String>) -> TrainingError {
        let problem = validate::Problem { key, message: message.into() };
        diagnostics::value(&self.source.path, &self.source.text, &problem)
    }

    /// A setting's error with its place in the file.
    pub(crate) fn place(&self, error: TrainingError) -> TrainingError {
        let TrainingError::Setting { name, found, expected } = &error else { return error };
        diagnostics::setting(&self.source.path, &self.source.text, name, &format!("is {found}; expected {expected}"))
    }

    /// A path of the recipe as seen from the working directory.
    pub fn path(&self, written: impl AsRef<Path>) -> PathBuf {
        self.folder.join(written)
    }
}

#[cfg(test)]
mod tests;
