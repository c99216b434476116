//! The `[data]` table of a recipe.

use std::path::PathBuf;

use harness_core::ChatKwargs;
use serde::{Deserialize, Serialize};

/// Which tokens the loss counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// Those of the completion part of the template, and the end-of-sequence token.
    #[default]
    Completion,
    /// All but the first.
    Full,
}

/// What the rows of a batch are filled up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// Nothing: rows lie end to end.
    #[default]
    None,
    /// The longest row of the batch.
    Longest,
    /// `max_length`.
    MaxLength,
}

/// What is done about rows of which no sample can be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnusableRows {
    /// The run ends at the first one.
    #[default]
    Refuse,
    /// They are left out, and counted by reason.
    Drop,
}

/// Fractions of the rows for training, validation and test; they sum to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "[f64; 3]", into = "[f64; 3]")]
pub struct SplitFractions {
    /// Rows to train on.
    pub train: f64,
    /// Rows to choose a checkpoint with.
    pub validation: f64,
    /// Rows held out.
    pub test: f64,
}

impl Default for SplitFractions {
    fn default() -> Self {
        Self { train: 0.8, validation: 0.1, test: 0.1 }
    }
}

impl From<[f64; 3]> for SplitFractions {
    fn from([train, validation, test]: [f64; 3]) -> Self {
        Self { train, validation, test }
    }
}

impl From<SplitFractions> for [f64; 3] {
    fn from(split: SplitFractions) -> Self {
        [split.train, split.validation, split.test]
    }
}

/// What is trained on, and how rows become tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataOptions {
    /// A data file or folder, relative to the recipe; exactly one of `source` and `dataset` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
    /// A data set by name, found in the data directories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// The split of the data set that is read; `train` unless given.
    #[serde(default = "default_split_name")]
    pub dataset_split: String,
    /// The template: one that ships with the program, by name, or a `.toml` file relative to the recipe.
    #[serde(default = "default_template")]
    pub template: String,
    /// Variables for the chat template of the base, such as `enable_thinking`.
    #[serde(default, skip_serializing_if = "ChatKwargs::is_empty")]
    pub chat_template_kwargs: ChatKwargs,
    /// The day that the chat template is told, such as `2025-01-30`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// Columns that must not be null or empty (after stripping); rows where one is are dropped and counted.
    #[serde(default)]
    pub drop_empty: Vec<String>,
    /// What is done about rows of which no sample can be made.
    #[serde(default, skip_serializing_if = "refuses")]
    pub unusable_rows: UnusableRows,
    /// Whether white space at both ends of every text column is removed.
    #[serde(default = "yes")]
    pub strip: bool,
    /// Seed of the shuffle that precedes the split.
    #[serde(default = "default_shuffle_seed")]
    pub shuffle_seed: u64,
    /// Fractions for training, validation and test.
    #[serde(default)]
    pub split: SplitFractions,
    /// Training rows to use at most, the first of the shuffled part; validation and test rows are not affected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_samples: Option<usize>,
    /// Which tokens the loss counts.
    #[serde(default)]
    pub loss: Loss,
    /// Longest sample, and longest packed row, in tokens; what exceeds it is cut off at the end and counted.
    #[serde(default = "default_max_length")]
    pub max_length: usize,
    /// Whether several samples share a row of up to `max_length` tokens (they never see each other); without it a
    /// sample is a row.
    #[serde(default)]
    pub packing: bool,
    /// Whether rows are filled up to a common length. It changes what is computed for nothing, and which inputs dropout
    /// drops, but nothing that counts otherwise.
    #[serde(default, skip_serializing_if = "is_none")]
    pub padding: Padding,
}

fn is_none(padding: &Padding) -> bool {
    *padding == Padding::None
}

fn refuses(rows: &UnusableRows) -> bool {
    *rows == UnusableRows::Refuse
}

fn default_split_name() -> String {
    "train".into()
}

fn default_template() -> String {
    "instruction".into()
}

fn default_shuffle_seed() -> u64 {
    42
}

fn default_max_length() -> usize {
    1024
}

fn yes() -> bool {
    true
}
