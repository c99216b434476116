//! `harness train`.

use std::path::PathBuf;

use clap::Args;

use super::number::whole;

/// Arguments of `harness train`.
#[derive(Clone, Debug, Args)]
pub struct TrainArgs {
    /// A model with a recipe in harness.toml, or a recipe file
    #[arg(required_unless_present = "matrix")]
    pub name: Option<String>,
    /// Train a grid of runs: a TOML file with lists of recipes, bases, ranks and sharding; finished runs are skipped
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "resume", "nproc", "sharding"])]
    pub matrix: Option<PathBuf>,
    /// Base model, instead of the one in harness.toml, the recipe or the grid
    #[arg(long, value_name = "MODEL")]
    pub base: Option<String>,
    /// Output folder [default: a new folder below HARNESS_HOME/models]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Continue from the latest checkpoint
    #[arg(long)]
    pub resume: bool,
    /// Train again even if the result exists
    #[arg(long, conflicts_with = "resume")]
    pub force: bool,
    /// Print tokens, steps, trainable parameters and estimates of memory and time without training
    #[arg(long)]
    pub dry_run: bool,
    /// Number of ranks to start on this host; they share the micro-batches of each update
    #[arg(long, value_name = "N")]
    pub nproc: Option<usize>,
    /// Sharding, instead of the recipe's: none (each rank holds everything) or fsdp (each rank holds a shard of weights
    /// and optimizer states)
    #[arg(long, value_name = "KIND", value_parser = ["none", "fsdp"])]
    pub sharding: Option<String>,
    /// Override a recipe key, such as training.learning_rate=1e-4 or lora.rank=16; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Maximum number of updates, instead of the recipe's
    #[arg(long, value_name = "N", value_parser = whole::<u64>)]
    pub max_steps: Option<u64>,
}
