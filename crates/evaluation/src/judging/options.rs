//! How a judging is wanted.

use std::path::PathBuf;

use harness_judges::Orders;

use crate::options::{PromptOptions, Remote};

/// How a judging is wanted.
#[derive(Clone, Debug)]
pub struct JudgingOptions {
    /// Name of a protocol, or its TOML file.
    pub protocol: String,
    /// What is judged: models by name or path, or files of outputs.
    pub models: Vec<String>,
    /// Who judges: `overlap`, `human:FILE`, a name from the experiment, or a model; several are a jury.
    pub judge: Vec<String>,
    /// What pairs are compared with.
    pub baseline: Option<String>,
    /// How texts become prompts of the models that are judged.
    pub texts: PromptOptions,
    /// Whether every two of the models are compared instead of each with a baseline.
    pub all_pairs: bool,
    /// File of people's verdicts on a part of what is judged.
    pub gold: Option<PathBuf>,
    /// AlpacaEval's instruction_difficulty.csv.
    pub instruction_difficulty: Option<PathBuf>,
    /// AlpacaEval's df_gamed.csv.
    pub gamed_baselines: Option<PathBuf>,
    /// File of instructions or questions; the protocol's own, from the data folders, unless given.
    pub instructions: Option<PathBuf>,
    /// File of reference answers in FastChat's form.
    pub references: Option<PathBuf>,
    /// Name of a rubric, or its TOML file.
    pub rubric: Option<String>,
    /// The protocol's official prompts.
    pub prompt_file: Option<PathBuf>,
    /// Whether verdicts are read as the reference tool reads them.
    pub compat: bool,
    /// Share of the probability that the labels need for a verdict; the protocol's unless given.
    pub least_label_share: Option<f64>,
    /// In which orders pairs are shown.
    pub orders: Orders,
    /// Maximum number of instructions.
    pub limit: Option<usize>,
    /// Maximum number of tokens of an output, where a model writes it.
    pub max_new_tokens: Option<usize>,
    /// Maximum number of tokens of a verdict; the protocol's unless given.
    pub judge_max_tokens: Option<usize>,
    /// Whether a local judge writes freely instead of within the protocol's form.
    pub unconstrained: bool,
    /// Share of instructions that are asked twice.
    pub repeats: f64,
    /// Share of instructions on which candidates meet themselves.
    pub self_pairs: f64,
    /// Share of instructions on which a null answer takes part.
    pub null_answers: f64,
    /// Seed of draws and of the judge's sampling.
    pub seed: u64,
    /// How endpoints are asked.
    pub remote: Remote,
}

impl JudgingOptions {
    /// A protocol over some models, by overlap with references, with the usual shares of controls.
    pub fn new(protocol: impl Into<String>, models: Vec<String>) -> Self {
        Self {
            protocol: protocol.into(),
            models,
            judge: vec!["overlap".to_owned()],
            baseline: None,
            texts: PromptOptions::default(),
            all_pairs: false,
            gold: None,
            instruction_difficulty: None,
            gamed_baselines: None,
            instructions: None,
            references: None,
            rubric: None,
            prompt_file: None,
            compat: false,
            least_label_share: None,
            orders: Orders::Both,
            limit: None,
            max_new_tokens: None,
            judge_max_tokens: None,
            unconstrained: false,
            repeats: 0.1,
            self_pairs: 0.1,
            null_answers: 0.0,
            seed: 42,
            remote: Remote::default(),
        }
    }
}
