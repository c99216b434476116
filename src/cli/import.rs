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

impl ImportFormat {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::LmEval => "lm-eval",
            Self::AlpacaEval => "alpaca-eval",
            Self::Fastchat => "fastchat",
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
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
    /// Which columns hold what, as FIELD=COLUMN: id, task, cluster, repeat, output, or the name of a metric; for results
    /// without documents mean, stderr and n
    #[arg(long, value_delimiter = ',', value_name = "FIELD=COLUMN")]
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
    /// Replace results of this name
    #[arg(long)]
    pub force: bool,
}
