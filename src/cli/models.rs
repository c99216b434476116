//! `harness models`.

use std::path::PathBuf;

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
    /// Write a model with its linears in 4 bits, as bitsandbytes stores them
    Quantize {
        /// A name from the experiment, or a path of a model in Hugging Face layout
        model: String,
        /// Folder for the result
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Codes: nf4 with double quantisation of the scales, or nf4-plain without
        #[arg(long = "type", value_name = "TYPE", default_value = "nf4", value_parser = ["nf4", "nf4-plain"])]
        kind: String,
    },
}
