//! `harness import`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// What wrote the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImportFormat {
    /// lm-evaluation-harness: a folder or file of results_*.json and samples_*.jsonl
    LmEval,
    /// alpaca_eval: annotations.json
    AlpacaEval,
    /// FastChat: a file of model_judgment, single or pairwise
    Fastchat,
    /// One JSON object a line, or a JSON array of objects
    Jsonl,
    /// Comma- or tab-separated values with a header line
    Csv,
}

impl From<ImportFormat> for harness_evaluation::import::ImportFormat {
    fn from(format: ImportFormat) -> Self {
        match format {
            ImportFormat::LmEval => Self::LmEval,
            ImportFormat::AlpacaEval => Self::AlpacaEval,
            ImportFormat::Fastchat => Self::Fastchat,
            ImportFormat::Jsonl => Self::Jsonl,
            ImportFormat::Csv => Self::Csv,
        }
    }
}

/// Arguments of `harness import`.
#[derive(Clone, Debug, Args)]
pub struct ImportArgs {
    /// What wrote the results
    pub format: ImportFormat,
    /// File or folder of the results
    pub path: PathBuf,
    /// Name under which the results are compared
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// Which columns hold what, as FIELD=COLUMN: id (of several columns COLUMN+COLUMN), task, cluster, repeat, output,
    /// baseline (the other output of a pair), first (whether the model's was shown first), or the name of a metric; for
    /// results without documents mean, stderr and n. Values: COLUMN:percent, COLUMN:1..10 (a scale), or labels,
    /// win=preference:A=1,B=0,tie=0.5; marks such as `[[A]]`, `[[7]]` and `[RESULT] 4` are found inside texts
    #[arg(long, value_name = "FIELD=COLUMN,...")]
    pub map: Vec<String>,
    /// Task of all rows, where no column says it
    #[arg(long, value_name = "TASK")]
    pub task: Option<String>,
    /// Model whose results are taken, where the file holds several
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Metrics of which smaller values are better
    #[arg(long, value_delimiter = ',', value_name = "METRIC")]
    pub lower_is_better: Vec<String>,
    /// What the model was trained with, so that candidates that differ in more than one thing are named: a recipe, a
    /// training.json, an adapter_config.json, or a list of KEY = VALUE
    #[arg(long, value_name = "FILE")]
    pub facts: Option<PathBuf>,
    /// Replace results of this name
    #[arg(long)]
    pub force: bool,
}
