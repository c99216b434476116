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

/// Which differences are tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PairsArg {
    /// Each candidate against the base.
    Base,
    /// Every model against every other, with a ranking.
    All,
}

/// When documents are no longer added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StopWhen {
    /// When a sequential test has decided about every task.
    Decided,
}

/// Tests of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TestArg {
    /// Exact McNemar for right and wrong answers, else paired permutation
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
    /// None
    None,
    /// Bonferroni
    Bonferroni,
    /// Holm: any false verdict
    Holm,
    /// Benjamini-Hochberg: share of false verdicts
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
    /// Which differences are tested
    #[arg(long, value_name = "WHICH", default_value = "base")]
    pub pairs: PairsArg,
    /// The test of a difference
    #[arg(long, value_name = "TEST", default_value = "auto")]
    pub test: TestArg,
    /// Level of a verdict [default: the experiment's, else 0.05]
    #[arg(long, value_name = "P")]
    pub alpha: Option<f64>,
    /// Smallest difference that matters, as a fraction [default: the experiment's, else 0.01]
    #[arg(long, value_name = "FRACTION")]
    pub margin: Option<f64>,
    /// Correction for the number of tests [default: the experiment's, else holm]
    #[arg(long, value_name = "NAME")]
    pub correction: Option<CorrectionArg>,
    /// List the documents that changed between models instead of the tables
    #[arg(long)]
    pub flips: bool,
    /// Most documents listed for a task and candidate
    #[arg(long, value_name = "N", default_value_t = 10, requires = "flips")]
    pub most_flips: usize,
    /// Documents of each task that are asked again to see the numerical noise
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub noise_probe: usize,
    /// Add documents until this holds; tests are those valid at any time of looking
    #[arg(long, value_name = "WHEN", conflicts_with = "plan")]
    pub stop_when: Option<StopWhen>,
    /// Say what the comparison would take and could show, and ask no model
    #[arg(long)]
    pub plan: bool,
    /// Speed for the plan's estimate of time
    #[arg(long, value_name = "RATE", requires = "plan")]
    pub tokens_per_second: Option<f64>,
    /// Price of a million tokens for the plan's estimate of cost
    #[arg(long, value_name = "PRICE", requires = "plan")]
    pub price: Option<f64>,
}
