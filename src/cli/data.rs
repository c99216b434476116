//! `harness data`.

use clap::{Args, Subcommand};

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
}

/// Arguments of `harness data prepare`.
#[derive(Clone, Debug, Args)]
pub struct PrepareArgs {
    /// A model of the experiment that has a recipe, or a recipe file
    pub name: String,
    /// The model whose tokenizer is used, instead of the one that experiment or recipe name
    #[arg(long, value_name = "MODEL")]
    pub base: Option<String>,
}
