//! `harness bench`.

use clap::{Args, Subcommand};

use super::number::whole;

/// Arguments of `harness bench`.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// What is measured.
    #[command(subcommand)]
    pub command: BenchCommand,
}

/// What `harness bench` can do.
#[derive(Clone, Debug, Subcommand)]
pub enum BenchCommand {
    /// Send many streams to a server at once and measure how long their texts take; exit with code 1 if one fails
    Serve(BenchServeArgs),
}

/// Arguments of `harness bench serve`.
#[derive(Clone, Debug, Args)]
pub struct BenchServeArgs {
    /// Model behind a server: openai:MODEL@URL, or a name from harness.toml
    pub model: String,
    /// Number of requests
    #[arg(long, short = 'n', value_name = "N", default_value_t = 200, value_parser = whole::<usize>)]
    pub requests: usize,
    /// Number of streams at once
    #[arg(long, short, value_name = "N", default_value_t = 32, value_parser = whole::<usize>)]
    pub concurrency: usize,
    /// Tokens per prompt (words, if the server has no /tokenize)
    #[arg(long, value_name = "TOKENS", default_value_t = 128, value_parser = whole::<usize>)]
    pub prompt_tokens: usize,
    /// Maximum number of tokens to generate per request
    #[arg(long, value_name = "TOKENS", default_value_t = 64, value_parser = whole::<usize>)]
    pub new_tokens: usize,
    /// Random seed for the prompts
    #[arg(long, default_value_t = 0, value_parser = whole::<u64>)]
    pub seed: u64,
}
