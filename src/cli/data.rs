//! `harness data`.

use clap::{Args, Subcommand};

use super::number::whole;

/// Arguments of `harness data`.
#[derive(Clone, Debug, Args)]
pub struct DataArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: DataCommand,
}

/// What `harness data` can do.
#[derive(Clone, Debug, Subcommand)]
pub enum DataCommand {
    /// Format, filter, split and tokenise a recipe's data, keep them for training, and say what became of them
    Prepare(PrepareArgs),
    /// Remove prepared sets that were not used for some time; they are made again when they are needed
    Prune(PruneArgs),
}

/// Arguments of `harness data prune`.
#[derive(Clone, Debug, Args)]
pub struct PruneArgs {
    /// Sets last used before so many days go; 0 removes all
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = whole::<u64>)]
    pub days: u64,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `harness data prepare`.
#[derive(Clone, Debug, Args)]
pub struct PrepareArgs {
    /// A model of the experiment that has a recipe, or a recipe file
    pub name: String,
    /// The model whose tokenizer is used, instead of the one that experiment or recipe name
    #[arg(long, value_name = "MODEL")]
    pub base: Option<String>,
    /// Another value for a key of the recipe, such as data.max_length=512; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}
