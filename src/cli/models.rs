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
    /// List models in harness.toml, trained candidates and the Hugging Face cache
    List {
        /// List the supported model families instead, and what works for each
        #[arg(long)]
        supported: bool,
    },
    /// Show a model's architecture, dimensions, files and chat template
    Show {
        /// A name from harness.toml, or a path
        model: String,
    },
    /// Merge an adapter into its base and write the result as a model of its own
    Merge {
        /// A name from harness.toml, or an adapter's folder
        model: String,
        /// Output folder, new or empty
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Write one GGUF file for llama.cpp instead, with or without an adapter
        #[arg(long, value_name = "TYPE", ignore_case = true, value_parser = ["F16", "Q8_0", "Q4_K_M"])]
        gguf: Option<String>,
    },
    /// Write a copy of a model with linear layers in 4 bits, in the bitsandbytes format
    Quantize {
        /// A name from harness.toml, or a Hugging Face folder
        model: String,
        /// Output folder
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Quantisation: nf4 (with double quantisation of the scales) or nf4-plain (without)
        #[arg(long = "type", value_name = "TYPE", default_value = "nf4", value_parser = ["nf4", "nf4-plain"])]
        kind: String,
    },
}
