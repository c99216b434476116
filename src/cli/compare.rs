//! `harness compare`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use harness_metrics::{comparison::TestChoice, stats::Correction};

use super::{EvaluationArgs, number::whole};

/// Formats of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// report.md
    Md,
    /// report.html, including the plot
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
    /// A candidate is worse than the base on at least one task.
    Worse,
    /// At least one verdict is undecided.
    Undecided,
}

/// Which differences are tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PairsArg {
    /// Each candidate against the base.
    Base,
    /// Every pair of models, with a ranking.
    All,
}

/// When documents are no longer added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StopWhen {
    /// When a sequential test has decided every task.
    Decided,
}

/// Tests of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TestArg {
    /// Exact McNemar for right or wrong answers, otherwise paired permutation
    Auto,
    /// Paired permutation
    Permutation,
    /// Paired bootstrap
    Bootstrap,
    /// sacreBLEU's approximate randomisation
    SacrebleuAr,
    /// sacreBLEU's paired bootstrap
    SacrebleuBs,
}

impl From<TestArg> for TestChoice {
    fn from(test: TestArg) -> Self {
        match test {
            TestArg::Auto => Self::Auto,
            TestArg::Permutation => Self::Permutation,
            TestArg::Bootstrap => Self::Bootstrap,
            TestArg::SacrebleuAr => Self::SacrebleuAr,
            TestArg::SacrebleuBs => Self::SacrebleuBs,
        }
    }
}

/// Corrections for several tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CorrectionArg {
    /// No correction
    None,
    /// Bonferroni
    Bonferroni,
    /// Holm (controls the family-wise error rate)
    Holm,
    /// Benjamini-Hochberg (controls the false discovery rate)
    Bh,
}

impl From<CorrectionArg> for Correction {
    fn from(correction: CorrectionArg) -> Self {
        match correction {
            CorrectionArg::None => Self::None,
            CorrectionArg::Bonferroni => Self::Bonferroni,
            CorrectionArg::Holm => Self::Holm,
            CorrectionArg::Bh => Self::BenjaminiHochberg,
        }
    }
}

/// Arguments of `harness compare`.
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// Base model, which every candidate is compared with: a name from harness.toml, a Hugging Face folder, a .gguf
    /// file, or a PEFT adapter folder
    pub base: String,
    /// Candidate models
    #[arg(required = true)]
    pub candidates: Vec<String>,
    /// What is evaluated.
    #[command(flatten)]
    pub evaluation: EvaluationArgs,
    /// Write reports, plots and the manifest to this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Report formats to write to --out [default: all]
    #[arg(long, value_delimiter = ',', value_name = "FORMAT")]
    pub format: Vec<Format>,
    /// Exit with code 3 if the finished comparison meets this condition
    #[arg(long, value_name = "CONDITION")]
    pub fail_on: Option<FailOn>,
    /// Do not train missing candidates
    #[arg(long)]
    pub no_train: bool,
    /// Use stored answers only; do not run any model
    #[arg(long)]
    pub from_store: bool,
    /// Random seed for resampling
    #[arg(long, default_value_t = 42, value_parser = whole::<u64>)]
    pub seed: u64,
    /// Also print the members of groups (report files always list them)
    #[arg(long)]
    pub all_rows: bool,
    /// Judge that compares the outputs of generation tasks with those of the base: overlap, human:FILE, a name from
    /// harness.toml, or a model. Repeat the option to form a jury
    #[arg(long, value_name = "NAME")]
    pub judge: Vec<String>,
    /// Judging protocol for --judge
    #[arg(long, value_name = "NAME", default_value = "pairwise", requires = "judge")]
    pub judge_protocol: String,
    /// Compare on the documents that all models share instead of failing when they differ
    #[arg(long)]
    pub intersect: bool,
    /// Which pairs of models to test
    #[arg(long, value_name = "WHICH", default_value = "base")]
    pub pairs: PairsArg,
    /// Significance test for a difference
    #[arg(long, value_name = "TEST", default_value = "auto")]
    pub test: TestArg,
    /// Significance level [default: the value in harness.toml, else 0.05]
    #[arg(long, value_name = "P")]
    pub alpha: Option<f64>,
    /// Equivalence margin: the smallest difference that matters, as a fraction [default: the value in harness.toml,
    /// else 0.01]
    #[arg(long, value_name = "FRACTION")]
    pub margin: Option<f64>,
    /// Correction for multiple testing [default: the value in harness.toml, else holm]
    #[arg(long, value_name = "NAME")]
    pub correction: Option<CorrectionArg>,
    /// Print the documents whose scores differ between models instead of the tables
    #[arg(long)]
    pub flips: bool,
    /// Maximum number of documents to list per task and candidate
    #[arg(long, value_name = "N", default_value_t = 10, requires = "flips")]
    pub most_flips: usize,
    /// Number of documents per task to run again to measure numerical noise
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub noise_probe: usize,
    /// Add documents until this condition holds, with tests that stay valid at every look (anytime-valid)
    #[arg(long, value_name = "WHEN", conflicts_with = "plan")]
    pub stop_when: Option<StopWhen>,
    /// Estimate cost and statistical power without running any model
    #[arg(long)]
    pub plan: bool,
    /// Speed to assume for the time estimate of --plan
    #[arg(long, value_name = "RATE", requires = "plan")]
    pub tokens_per_second: Option<f64>,
    /// Price of a million tokens to assume for the cost estimate of --plan
    #[arg(long, value_name = "PRICE", requires = "plan")]
    pub price: Option<f64>,
}
