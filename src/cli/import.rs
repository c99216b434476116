//! `harness import`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// What wrote the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImportFormat {
    /// lm-evaluation-harness: a file or folder with results_*.json and samples_*.jsonl
    LmEval,
    /// alpaca_eval: annotations.json
    AlpacaEval,
    /// FastChat: a model_judgment file, single or pairwise
    Fastchat,
    /// One JSON object per line, or a JSON array of objects
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
    /// Tool or format the results are from
    pub format: ImportFormat,
    /// File or folder that contains the results
    pub path: PathBuf,
    /// Name to use for the results in comparisons
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// Map columns to fields, as FIELD=COLUMN. Fields: id (COLUMN+COLUMN joins several columns), task, cluster, repeat,
    /// output, baseline (the other output of a pair), first (whether the model's output was shown first), or the name
    /// of a metric; for results without documents: mean, stderr and n. Values: COLUMN:percent, COLUMN:1..10 (a scale),
    /// or labels such as win=preference:A=1,B=0,tie=0.5. Verdicts such as `[[A]]`, `[[7]]` and `[RESULT] 4` are also
    /// read from inside texts
    #[arg(long, value_name = "FIELD=COLUMN,...")]
    pub map: Vec<String>,
    /// Task of all rows, if no column names it
    #[arg(long, value_name = "TASK")]
    pub task: Option<String>,
    /// Model to import, if the file contains several
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Metrics for which lower values are better
    #[arg(long, value_delimiter = ',', value_name = "METRIC")]
    pub lower_is_better: Vec<String>,
    /// How the model was trained: a recipe, training.json, adapter_config.json, or a file of KEY = VALUE lines. Used to
    /// warn about candidates that differ in more than one setting
    #[arg(long, value_name = "FILE")]
    pub facts: Option<PathBuf>,
    /// Replace existing results of this name
    #[arg(long)]
    pub force: bool,
}
