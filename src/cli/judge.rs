//! `harness judge`, and the options of judging that it shares with `compare`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::PromptArgs;

/// Options of endpoints.
#[derive(Clone, Debug, Default, Args)]
pub struct RemoteArgs {
    /// Maximum number of concurrent requests per endpoint
    #[arg(long, value_name = "N")]
    pub concurrency: Option<usize>,
    /// Maximum number of requests per minute and endpoint
    #[arg(long, value_name = "N")]
    pub requests_per_minute: Option<f64>,
    /// Spending limit for all endpoints together, in the currency of their prices; work stops before exceeding it
    #[arg(long, value_name = "COST")]
    pub max_cost: Option<f64>,
}

/// In which orders pairs are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum JudgeOrders {
    /// In both orders
    #[default]
    Both,
    /// In the order that alpaca_eval draws for each instruction: half as many questions
    AlpacaEval,
    /// Baseline first: not protected against position bias
    BaselineFirst,
}

/// Arguments of `harness judge`.
#[derive(Clone, Debug, Args)]
pub struct JudgeArgs {
    /// alpaca-eval, mt-bench, mt-bench-pair, absolute, pairwise, or a protocol in a TOML file
    pub protocol: String,
    /// What to judge: models (name, path or openai:MODEL@URL) or files of outputs
    #[arg(required = true, value_name = "MODEL")]
    pub models: Vec<String>,
    /// The judge: overlap, human:FILE, a name from harness.toml, or a model. Repeat the option to form a jury
    #[arg(long, value_name = "NAME", default_value = "overlap")]
    pub judge: Vec<String>,
    /// Baseline for pairwise protocols: a model or a file of outputs
    #[arg(long, value_name = "MODEL")]
    pub baseline: Option<String>,
    /// Tokenizer, template and date of the judged models.
    #[command(flatten)]
    pub texts: PromptArgs,
    /// Compare every pair of models instead of each model with a baseline
    #[arg(long, conflicts_with = "baseline")]
    pub all_pairs: bool,
    /// Human gold labels for some of the instructions, in the format of human:FILE; they correct the result
    #[arg(long, value_name = "FILE")]
    pub gold: Option<PathBuf>,
    /// AlpacaEval's instruction_difficulty.csv, for length control with instruction difficulty
    #[arg(long, value_name = "FILE")]
    pub instruction_difficulty: Option<PathBuf>,
    /// AlpacaEval's df_gamed.csv, for the length control of the leaderboard
    #[arg(long, value_name = "FILE")]
    pub gamed_baselines: Option<PathBuf>,
    /// File of instructions or questions [default: the protocol's own, looked up in the data folders]
    #[arg(long, value_name = "FILE")]
    pub instructions: Option<PathBuf>,
    /// File of reference answers in FastChat's format
    #[arg(long, value_name = "FILE")]
    pub references: Option<PathBuf>,
    /// Rubric: a name or a TOML file
    #[arg(long, value_name = "NAME")]
    pub rubric: Option<String>,
    /// Read the protocol's official prompts from this file
    #[arg(long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// Parse verdicts exactly as the reference tool does
    #[arg(long)]
    pub compat: bool,
    /// Minimum probability of the labels for a verdict to count [default: set by the protocol, 0.5]
    #[arg(long, value_name = "SHARE")]
    pub least_label_share: Option<f64>,
    /// Order in which the two outputs of a pair are shown
    #[arg(long, value_enum, default_value_t)]
    pub orders: JudgeOrders,
    /// Limit to N instructions
    #[arg(long, short = 'L', value_name = "N")]
    pub limit: Option<usize>,
    /// Maximum number of tokens per output that a model generates [default: 512; 1024 for MT-Bench]
    #[arg(long, value_name = "N")]
    pub max_new_tokens: Option<usize>,
    /// Maximum number of tokens per verdict [default: set by the protocol]
    #[arg(long, value_name = "N")]
    pub judge_max_tokens: Option<usize>,
    /// Do not constrain a local judge to the protocol's output format
    #[arg(long)]
    pub unconstrained: bool,
    /// Fraction of instructions to judge twice, to measure how often the judge changes its verdict
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub repeats: f64,
    /// Fraction of instructions on which each candidate is compared with itself, as a placebo
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub self_pairs: f64,
    /// Fraction of instructions on which a null answer is judged too
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub null_answers: f64,
    /// Random seed for draws and for sampling from the judge
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Options of endpoints.
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// Write outputs, judgments, reports and files in the reference tools' formats to this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}
