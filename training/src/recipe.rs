//! Recipes: a training run as a declarative TOML file.
//!
//! A recipe says what is trained (`method`, `[lora]` or `[model]`), on what (`[data]`) and how (`[training]`). Paths in
//! it are relative to the recipe file. Unknown keys, impossible values and contradictions are refused with file, line
//! and column before anything is read or written.

mod model;
mod precision;
mod read;
mod resolve;
mod set;
mod training;
mod validate;

use std::path::{Path, PathBuf};

use harness_core::Digest;
use harness_decoder::DecoderConfig;
use serde::{Deserialize, Serialize};

pub use harness_kernels::Quantization;
pub use model::ModelOptions;
pub use precision::{Checkpointing, Precision, Sharding};
pub use resolve::ResolvedRecipe;
pub use training::{ScheduleKind, TrainingOptions};

use crate::{TrainingError, diagnostics, lora::LoraSpec};
pub use crate::{
    data::{DataOptions, Loss, Padding, SplitFractions, UnusableRows},
    files::WeightDtype,
    lora::{LoraInit, LoraOptions, Targets},
};

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
    /// `key = value` of what was asked for otherwise than the file says.
    changed: Vec<String>,
}

impl Source {
    /// An error at the place of a dotted key in the file, or about what was asked for instead.
    fn error(&self, key: &str, message: &str) -> TrainingError {
        let is_key = |said: &&String| said.split(" = ").next() == Some(key);
        match self.changed.iter().find(is_key) {
            Some(said) => {
                let told = message.strip_prefix("is ").and_then(|rest| rest.split_once("; "));
                let message = format!("with {said}: {}", told.map_or(message, |(_, expected)| expected));
                TrainingError::Data { path: self.path.clone(), message }
            }
            None => diagnostics::setting(&self.path, &self.text, key, message),
        }
    }
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
    /// Hash of everything the recipe says, defaults included; comments, order and the place of the file do not matter.
    pub fn hash(&self) -> Digest {
        // What changes no result names no other run.
        let mut recipe = self.clone();
        recipe.training.sharding = Sharding::None;
        recipe.training.gradient_checkpointing = Checkpointing::Auto;
        recipe.training.paged_optimizer = false;
        Digest::of_json(&recipe)
    }

    /// Fails unless the micro-batches of an update can be dealt out evenly over this many ranks.
    ///
    /// # Errors
    /// With the numbers of ranks that there can be.
    pub fn check_ranks(&self, ranks: usize) -> Result<(), TrainingError> {
        self.training.divide(ranks).map_err(|error| self.place(error))
    }

    /// The adapter that the recipe trains over this decoder, `None` where it trains all parameters: what can be known from a
    /// configuration alone is refused here, before data and weights are touched.
    ///
    /// # Errors
    /// If training does not know this kind of decoder, documents may be longer than it allows, or it lacks what the adapter
    /// is for.
    pub fn check_base(&self, config: &DecoderConfig) -> Result<Option<LoraSpec>, TrainingError> {
        let (length, longest) = (self.data.max_length, config.max_position_embeddings);
        let full = self.method == Method::Full;
        crate::model::check(config, length, full).map_err(|error| self.place(error))?;
        if length > longest {
            let message = format!("is {length}; expected at most {longest}, the model's longest context");
            return Err(self.problem("data.max_length", message));
        }
        let spec = self.lora.as_ref().map(|lora| LoraSpec::from_options(lora, config));
        spec.transpose().map_err(|error| self.place(error))
    }

    /// An error at the place of a dotted key, or of the table that should have it.
    pub(crate) fn problem(&self, key: &'static str, message: impl Into<String>) -> TrainingError {
        self.source.error(key, &message.into())
    }

    /// A setting's error with its place in the file.
    pub(crate) fn place(&self, error: TrainingError) -> TrainingError {
        let TrainingError::Setting { name, found, expected } = &error else { return error };
        self.source.error(name, &format!("is {found}; expected {expected}"))
    }

    /// A path of the recipe as seen from the working directory.
    pub fn path(&self, written: impl AsRef<Path>) -> PathBuf {
        self.folder.join(written)
    }
}

#[cfg(test)]
mod tests;
