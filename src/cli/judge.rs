//! `harness judge`, and the options of judging that it shares with `compare`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::PromptArgs;

/// Options of endpoints.
#[derive(Clone, Debug, Default, Args)]
pub struct RemoteArgs {
    /// Most requests in flight at an endpoint
    #[arg(long, value_name = "N")]
    pub concurrency: Option<usize>,
    /// Most requests begun a minute at an endpoint
    #[arg(long, value_name = "N")]
    pub requests_per_minute: Option<f64>,
    /// Most that all endpoints together may cost, in the currency of their prices; work stops before it is passed
    #[arg(long, value_name = "COST")]
    pub max_cost: Option<f64>,
}

/// In which orders pairs are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum JudgeOrders {
    /// In both
    #[default]
    Both,
    /// In the one that alpaca_eval draws for the instruction: half the questions
    AlpacaEval,
    /// The baseline first: open to every position bias
    BaselineFirst,
}

/// Arguments of `harness judge`.
#[derive(Clone, Debug, Args)]
pub struct JudgeArgs {
    /// alpaca-eval, mt-bench, mt-bench-pair, absolute, pairwise, or a protocol's TOML file
    pub protocol: String,
    /// What is judged: models (by name, path or openai:MODEL@URL), or files of outputs
    #[arg(required = true, value_name = "MODEL")]
    pub models: Vec<String>,
    /// Who judges: overlap, human:FILE, a name from the experiment, or a model; several are a jury
    #[arg(long, value_name = "NAME", default_value = "overlap")]
    pub judge: Vec<String>,
    /// What pairs are compared with: a model or a file of outputs
    #[arg(long, value_name = "MODEL")]
    pub baseline: Option<String>,
    /// How texts become prompts of the models that are judged.
    #[command(flatten)]
    pub texts: PromptArgs,
    /// Compare every two of the models instead of each with a baseline
    #[arg(long, conflicts_with = "baseline")]
    pub all_pairs: bool,
    /// Gold labels on a part of what is judged: people's verdicts, as for human:FILE. They correct the result
    #[arg(long, value_name = "FILE")]
    pub gold: Option<PathBuf>,
    /// AlpacaEval's instruction_difficulty.csv, for its length control with difficulties
    #[arg(long, value_name = "FILE")]
    pub instruction_difficulty: Option<PathBuf>,
    /// AlpacaEval's df_gamed.csv, for the length control of its leaderboard
    #[arg(long, value_name = "FILE")]
    pub gamed_baselines: Option<PathBuf>,
    /// File of instructions or questions [default: the protocol's own, from the data folders]
    #[arg(long, value_name = "FILE")]
    pub instructions: Option<PathBuf>,
    /// File of reference answers in FastChat's form
    #[arg(long, value_name = "FILE")]
    pub references: Option<PathBuf>,
    /// Rubric: a name, or a TOML file
    #[arg(long, value_name = "NAME")]
    pub rubric: Option<String>,
    /// The protocol's official prompts from this file
    #[arg(long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// Read verdicts as the reference tool does
    #[arg(long)]
    pub compat: bool,
    /// Share of the probability that the labels need for a verdict [default: the protocol's, 0.5]
    #[arg(long, value_name = "SHARE")]
    pub least_label_share: Option<f64>,
    /// In which orders pairs are shown
    #[arg(long, value_enum, default_value_t)]
    pub orders: JudgeOrders,
    /// Only the first N instructions
    #[arg(long, short = 'L', value_name = "N")]
    pub limit: Option<usize>,
    /// Most tokens of an output, where a model writes it [default: 512, of MT-Bench 1024]
    #[arg(long, value_name = "N")]
    pub max_new_tokens: Option<usize>,
    /// Most tokens of a verdict [default: the protocol's]
    #[arg(long, value_name = "N")]
    pub judge_max_tokens: Option<usize>,
    /// Let a local judge write freely instead of within the protocol's form
    #[arg(long)]
    pub unconstrained: bool,
    /// Share of instructions that are asked twice, for the judge's flip rate
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub repeats: f64,
    /// Share of instructions on which candidates meet themselves, as a placebo
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub self_pairs: f64,
    /// Share of instructions on which a null answer takes part
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub null_answers: f64,
    /// Seed of draws and of the judge's sampling
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Options of endpoints.
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// Write outputs, judgments, reports and the files of the reference tools into this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}
