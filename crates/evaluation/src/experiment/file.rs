//! The file `harness.toml`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use harness_core::{ChatKwargs, Limits};
use harness_kernels::Quantization;
use harness_metrics::{comparison::Settings, stats::Correction};
use harness_store::nearest;
use serde::Deserialize;

use super::{Day, JudgeSection, TokenizerChoice, place};
use crate::EvaluationError;

/// Name of the file that is looked for.
const FILE: &str = "harness.toml";

/// An experiment: models, suites of tasks, and how models are compared.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Experiment {
    /// Models by name.
    pub models: BTreeMap<String, ModelSection>,
    /// Suites of tasks by name.
    pub suites: BTreeMap<String, SuiteSection>,
    /// Judges by name.
    pub judges: BTreeMap<String, JudgeSection>,
    /// How models are compared.
    pub compare: CompareSection,
    /// Folders of data sets, relative to the file.
    pub data_dirs: Vec<PathBuf>,
    /// How much task files, templates and data may ask for.
    pub limits: Limits,
    /// Folders of further task definitions, relative to the file.
    pub include_path: Vec<PathBuf>,
    /// The folder of the file; the working directory where there is no file.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// One model.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSection {
    /// A folder in Hugging Face layout, or an adapter folder.
    pub path: Option<PathBuf>,
    /// A GGUF file.
    pub gguf: Option<PathBuf>,
    /// A hub id in the local cache.
    pub hub: Option<String>,
    /// Revision of the hub id.
    pub revision: Option<String>,
    /// The model an adapter sits on, or a recipe starts from.
    pub base: Option<String>,
    /// A recipe that makes the model.
    pub recipe: Option<PathBuf>,
    /// An adapter folder over `base`.
    pub adapter: Option<PathBuf>,
    /// Longest input in tokens, instead of what the model was made for.
    pub max_length: Option<usize>,
    /// Whether prompts begin with BOS, instead of what the tokenizer does.
    pub add_bos: Option<bool>,
    /// A Jinja file, relative to the experiment, or the name of one of the model's templates, instead of the model's default.
    pub chat_template: Option<PathBuf>,
    /// The mark that ends its thinking, where it thinks before it answers: `</think>` for most such models. Stop strings
    /// then apply to the answer alone, and only the answer is scored.
    pub think_end_token: Option<String>,
    /// Where tokenizer and chat template come from: `adapter` (default), `base`, or a folder, relative to the experiment.
    pub tokenizer: Option<TokenizerChoice>,
    /// Variables for the chat template, e.g. `{ enable_thinking = false }`; also sent to an endpoint.
    pub chat_template_kwargs: ChatKwargs,
    /// The day that chat templates are told, instead of that of the first run.
    pub date: Option<Day>,
    /// How texts are split before merges, instead of what the tokenizer's file says.
    pub pre_tokenizer: Option<PreTokenizer>,
    /// Quantisation of the blocks' linears when the model is loaded: `nf4`, or `nf4-plain` without double quantisation.
    pub quantization: Option<String>,
    /// An OpenAI-compatible server: `openai:MODEL@URL`, or the URL with `model` beside it.
    pub endpoint: Option<String>,
    /// The model's name at the endpoint.
    pub model: Option<String>,
    /// How an endpoint is asked for texts: `chat` (default) or `completions`.
    pub api: Option<String>,
    /// Environment variable that holds the endpoint's key, instead of `OPENAI_API_KEY`.
    pub api_key_env: Option<String>,
    /// Most requests in flight at an endpoint.
    pub concurrency: Option<usize>,
    /// Most requests begun a minute at an endpoint.
    pub requests_per_minute: Option<f64>,
    /// Longest time in seconds for one answer of an endpoint.
    pub timeout: Option<f64>,
    /// How often a request that failed is sent again.
    pub retries: Option<u32>,
    /// Price of a million tokens of prompts.
    pub input_price: Option<f64>,
    /// Price of a million generated tokens.
    pub output_price: Option<f64>,
    /// Whether the endpoint keeps answers within a pattern (vLLM's structured outputs).
    pub patterns: Option<bool>,
    /// Whether the endpoint takes `top_k`, `min_p` and `repetition_penalty`, instead of: all but api.openai.com do.
    pub extended_sampling: Option<bool>,
}

impl ModelSection {
    /// The quantisation, which [`Experiment::load`] has checked.
    pub fn quantization(&self) -> Option<Quantization> {
        self.quantization.as_deref().and_then(Quantization::from_name)
    }
}

/// Ways of splitting a text that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PreTokenizer {
    /// GPT-2's, as transformers 5 gives it to every tokenizer of the class `GPT2Tokenizer`.
    Gpt2,
}

/// A suite.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuiteSection {
    /// Tasks, groups or tags.
    pub tasks: Vec<String>,
    /// Most documents of single tasks, or of each task of a group; below 1 a fraction. `--limit` goes before them.
    #[serde(default)]
    pub limits: BTreeMap<String, f64>,
}

/// How models are compared.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompareSection {
    /// The suite that is run when no tasks are named.
    pub suite: Option<String>,
    /// Coverage of intervals.
    pub confidence: f64,
    /// Level at which a corrected p-value decides.
    pub alpha: f64,
    /// Correction of p-values.
    pub correction: Correction,
    /// Smallest difference that matters, as a fraction.
    pub margin: f64,
    /// Bootstrap resamples and permutations.
    pub resamples: usize,
}

impl Default for CompareSection {
    fn default() -> Self {
        let Settings { confidence, alpha, correction, margin, resamples, .. } = Settings::default();
        Self { suite: None, confidence, alpha, correction, margin, resamples }
    }
}

impl CompareSection {
    /// The settings of a comparison, those that the section does not have at their usual values.
    pub fn settings(&self) -> Settings {
        Settings {
            confidence: self.confidence,
            alpha: self.alpha,
            correction: self.correction,
            margin: self.margin,
            resamples: self.resamples,
            ..Settings::default()
        }
    }
}

impl Experiment {
    /// Reads the given file, or the one found here or in a folder above; without any, an empty experiment.
    ///
    /// # Errors
    /// If a named file does not exist, or the file is not a valid experiment (with line and column).
    pub fn load(path: Option<&Path>) -> Result<Self, EvaluationError> {
        let here = std::env::current_dir().map_err(|e| EvaluationError::work(format!("no working directory: {e}")))?;
        let found = match path {
            Some(path) => Some(path.to_owned()),
            None => here.ancestors().map(|folder| folder.join(FILE)).find(|path| path.is_file()),
        };
        let Some(path) = found else { return Ok(Self { folder: here, ..Self::default() }) };
        let text = harness_core::read_text(&path)
            .map_err(|e| EvaluationError::usage(format!("cannot read {}: {e}", path.display())))?;
        let mut experiment: Self = toml::from_str(&text).map_err(|e| place::syntax(&path, &text, &e))?;
        experiment.folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => here,
        };
        experiment.check(&path, &text)?;
        Ok(experiment)
    }

    /// Every model has one source, and names that are used exist.
    fn check(&self, path: &Path, text: &str) -> Result<(), EvaluationError> {
        for (name, model) in &self.models {
            let fail = |what: &str| Err(place::key(path, text, &["models", name], &format!("[models.{name}]: {what}")));
            let sources = [
                model.path.is_some(),
                model.gguf.is_some(),
                model.hub.is_some(),
                model.recipe.is_some(),
                model.adapter.is_some(),
                model.endpoint.is_some(),
            ];
            match sources.iter().filter(|&&given| given).count() {
                1 => {}
                0 => return fail("found no source; expected one of path, gguf, hub, recipe, adapter, endpoint"),
                _ => return fail("found several sources; expected one of path, gguf, hub, recipe, adapter, endpoint"),
            }
            if let Some(name) = model.quantization.as_ref().filter(|name| Quantization::from_name(name).is_none()) {
                return fail(&format!("quantization = {name:?}; expected \"nf4\" or \"nf4-plain\""));
            }
            if model.adapter.is_some() && model.base.is_none() {
                return fail("an adapter needs `base`, the model it was trained on");
            }
            if let Some(key) = model.stray_endpoint_key() {
                return fail(&format!("`{key}` belongs to an endpoint; set `endpoint` to the server's URL"));
            }
            if let Some(key) = model.stray_local_key() {
                return fail(&format!("`{key}` belongs to a model on this machine; the endpoint's server has its own"));
            }
            if let Some(endpoint) = &model.endpoint
                && let Err(error) = model.endpoint_options(endpoint)
            {
                return fail(&error.message());
            }
        }
        for (name, judge) in &self.judges {
            if let Some(what) = judge.fault() {
                return Err(place::key(path, text, &["judges", name], &format!("[judges.{name}]: {what}")));
            }
        }
        if let Some(suite) = &self.compare.suite
            && !self.suites.contains_key(suite)
        {
            let known: Vec<&str> = self.suites.keys().map(String::as_str).collect();
            let near =
                nearest(suite, known.iter().copied()).map_or(String::new(), |near| format!("; did you mean {near:?}?"));
            let message =
                format!("[compare] suite = {suite:?} is not defined; defined are: {}{near}", known.join(", "));
            return Err(place::key(path, text, &["compare", "suite"], &message));
        }
        Ok(())
    }

    /// The default suite.
    ///
    /// # Errors
    /// If there is none.
    pub fn default_suite(&self) -> Result<&SuiteSection, EvaluationError> {
        let suite = self.compare.suite.as_ref().and_then(|name| self.suites.get(name));
        suite.ok_or_else(|| {
            EvaluationError::usage("no tasks: give --tasks, or a harness.toml whose [compare] names a suite".to_owned())
        })
    }
}
