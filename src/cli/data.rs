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
    /// Format, filter, split and tokenise the data of a recipe, cache them for training, and report counts
    Prepare(PrepareArgs),
    /// Remove cached prepared data that have not been used for some time
    Prune(PruneArgs),
}

/// Arguments of `harness data prune`.
#[derive(Clone, Debug, Args)]
pub struct PruneArgs {
    /// Remove data last used more than N days ago; 0 removes everything
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = whole::<u64>)]
    pub days: u64,
    /// Print what would be removed without removing it
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `harness data prepare`.
#[derive(Clone, Debug, Args)]
pub struct PrepareArgs {
    /// A model with a recipe in harness.toml, or a recipe file
    pub name: String,
    /// Model whose tokenizer to use, instead of the base in harness.toml or the recipe
    #[arg(long, value_name = "MODEL")]
    pub base: Option<String>,
    /// Override a recipe key, such as data.max_length=512; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}
