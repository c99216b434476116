//! `harness models`.

use clap::{Args, Subcommand};

/// Arguments of `harness models`.
#[derive(Clone, Debug, Args)]
pub struct ModelsArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ModelsCommand,
}

/// What `harness models` can do.
#[derive(Clone, Debug, Subcommand)]
pub enum ModelsCommand {
    /// List the models of the experiment, trained candidates and the hub cache
    List,
    /// Show what a model is: architecture, dimensions, files, template
    Show {
        /// A name from the experiment, or a path
        model: String,
    },
}
