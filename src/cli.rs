//! The command line: definitions only, one file a command.

mod audit;
mod bench;
mod chat;
mod compare;
mod data;
mod explain;
mod generate;
mod golden;
mod import;
mod judge;
mod limits;
mod models;
mod number;
mod prompt;
mod report;
mod run;
mod serve;
mod tasks;
mod train;
mod verify;

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

pub use audit::AuditArgs;
pub use bench::{BenchArgs, BenchCommand, BenchServeArgs};
pub use chat::ChatArgs;
pub use compare::{CompareArgs, CorrectionArg, FailOn, Format, PairsArg, StopWhen, TestArg};
pub use data::{DataArgs, DataCommand, PrepareArgs, PruneArgs};
pub use explain::ExplainArgs;
pub use generate::{GenerateArgs, SamplingArgs};
pub use golden::{GoldenArgs, GoldenCommand, GoldenFiles};
pub use import::{ImportArgs, ImportFormat};
pub use judge::{JudgeArgs, JudgeOrders, RemoteArgs};
pub use limits::LimitArgs;
pub use models::{ModelsArgs, ModelsCommand};
pub use prompt::PromptArgs;
pub use report::{ComparisonReportArgs, ReportArgs, ReportCommand, TrainingReportArgs};
pub use run::{EvaluationArgs, RunArgs};
pub use serve::ServeArgs;
pub use tasks::{TasksArgs, TasksCommand};
pub use train::TrainArgs;
pub use verify::VerifyArgs;

/// Is the candidate really better than the base, on which tasks, by how much, and can the answer be trusted?
#[derive(Debug, Parser)]
#[command(name = "harness", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads the program's arguments. Values may begin with a minus: `--limit -3` is then refused for what it is.
    ///
    /// # Errors
    /// If they are wrong, or ask for help or the version.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut command = numbers_may_be_negative(Self::command());
        let matches = command.try_get_matches_from_mut(arguments)?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }
}

fn numbers_may_be_negative(command: clap::Command) -> clap::Command {
    let takes_values = |argument: &clap::Arg| argument.get_action().takes_values() && !argument.is_positional();
    command
        .mut_args(|argument| if takes_values(&argument) { argument.allow_negative_numbers(true) } else { argument })
        .mut_subcommands(numbers_may_be_negative)
}

/// Options of every command.
#[derive(Clone, Debug, Default, Args)]
pub struct GlobalArgs {
    /// Experiment file [default: harness.toml in this or a parent folder]
    #[arg(long, global = true, value_name = "FILE")]
    pub experiment: Option<PathBuf>,
    /// Folder of data sets, searched before HARNESS_DATA_DIR and the Hugging Face cache; may be repeated
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Vec<PathBuf>,
    /// Device to train and run models on: cpu, cuda, or cuda:N for GPU number N [default: cpu]
    #[arg(long, global = true, value_name = "DEVICE", env = "HARNESS_DEVICE")]
    pub device: Option<String>,
    /// Data type for computation: f32, or bf16 (GPU only) [default: f32 on the CPU, bf16 on a GPU]
    #[arg(long, global = true, value_name = "TYPE")]
    pub dtype: Option<String>,
    /// Print one JSON object instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Do not print progress to standard error
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compare candidates with a base model: train what is missing, evaluate on the same documents, print verdicts
    Compare(CompareArgs),
    /// Evaluate one model
    Run(RunArgs),
    /// Have a judge rate outputs: AlpacaEval, MT-Bench, Prometheus-style grading
    Judge(JudgeArgs),
    /// Train a candidate from a recipe
    Train(TrainArgs),
    /// Inspect and prepare training data
    Data(DataArgs),
    /// Complete a prompt
    Generate(GenerateArgs),
    /// Chat with a model in the terminal
    Chat(ChatArgs),
    /// Serve models through an OpenAI-compatible API
    Serve(ServeArgs),
    /// Measure a server under load
    Bench(BenchArgs),
    /// List tasks and preview their prompts
    Tasks(TasksArgs),
    /// List, inspect, merge and quantise models
    Models(ModelsArgs),
    /// Check metrics against golden values
    Golden(GoldenArgs),
    /// Check stored results for anything that would make a comparison misleading
    Audit(AuditArgs),
    /// Import the results of another tool so that they can be compared like a model's
    Import(ImportArgs),
    /// Trace a number in a report to its inputs and recompute it
    Explain(ExplainArgs),
    /// Verify metrics and statistics on this machine
    Verify(VerifyArgs),
    /// Print stored comparisons and training runs as tables and curves
    Report(ReportArgs),
}
