//! `harness compare`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{EvaluationArgs, number::whole};

/// Formats of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// report.md
    Md,
    /// report.html, with the plot inside
    Html,
    /// report.tex
    Latex,
    /// report.csv
    Csv,
    /// report.json
    Json,
}

/// Conditions under which a comparison that is done exits with 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// Some candidate is worse than the base on some task.
    Worse,
    /// Some verdict is not decided.
    Undecided,
}

/// Arguments of `harness compare`.
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// The base, which all others are compared with: a name from the experiment, a folder in Hugging Face layout, a
    /// .gguf file, or an adapter folder
    pub base: String,
    /// The candidates
    #[arg(required = true)]
    pub candidates: Vec<String>,
    /// What is evaluated.
    #[command(flatten)]
    pub evaluation: EvaluationArgs,
    /// Write reports, plots and the manifest into this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Formats written to --out [default: all]
    #[arg(long, value_delimiter = ',', value_name = "FORMAT")]
    pub format: Vec<Format>,
    /// Exit with 3 if the finished comparison shows this
    #[arg(long, value_name = "CONDITION")]
    pub fail_on: Option<FailOn>,
    /// Do not train candidates that are missing
    #[arg(long)]
    pub no_train: bool,
    /// Score only what is stored; ask no model
    #[arg(long)]
    pub from_store: bool,
    /// Seed of resampling
    #[arg(long, default_value_t = 42, value_parser = whole::<u64>)]
    pub seed: u64,
    /// Print the members of groups too (files hold them always)
    #[arg(long)]
    pub all_rows: bool,
    /// Let this judge compare the outputs of generation tasks with the base's: overlap, human:FILE, a name from the
    /// experiment, or a model; several are a jury
    #[arg(long, value_name = "NAME")]
    pub judge: Vec<String>,
    /// Protocol of --judge
    #[arg(long, value_name = "NAME", default_value = "pairwise", requires = "judge")]
    pub judge_protocol: String,
    /// Compare on the documents all models share, instead of refusing when they differ
    #[arg(long)]
    pub intersect: bool,
}
