//! `harness train`.

use std::path::PathBuf;

use clap::Args;

use super::number::whole;

/// Arguments of `harness train`.
#[derive(Clone, Debug, Args)]
pub struct TrainArgs {
    /// A model of the experiment that has a recipe, or a recipe file
    #[arg(required_unless_present = "matrix")]
    pub name: Option<String>,
    /// A grid of runs: a TOML file with lists of recipes, bases, ranks and sharding; every cell that is not done is trained
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "resume", "nproc", "sharding"])]
    pub matrix: Option<PathBuf>,
    /// The model to start from, instead of the one that experiment, recipe or grid name
    #[arg(long, value_name = "MODEL")]
    pub base: Option<String>,
    /// Folder for the result [default: a folder of its own below HARNESS_HOME/models]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Go on from the latest checkpoint
    #[arg(long)]
    pub resume: bool,
    /// Train again although the result is there
    #[arg(long, conflicts_with = "resume")]
    pub force: bool,
    /// Print tokens, steps, trainable parameters and estimates of memory and time, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Ranks to start on this host, which share the micro-batches of every update
    #[arg(long, value_name = "N")]
    pub nproc: Option<usize>,
    /// What each rank holds, instead of what the recipe says: everything (none), or a part of weights and optimizer
    /// states (fsdp)
    #[arg(long, value_name = "KIND", value_parser = ["none", "fsdp"])]
    pub sharding: Option<String>,
    /// Another value for a key of the recipe, such as training.learning_rate=1e-4 or lora.rank=16; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Updates to do, instead of what the recipe says
    #[arg(long, value_name = "N", value_parser = whole::<u64>)]
    pub max_steps: Option<u64>,
}
