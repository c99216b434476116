//! Bounds on memory and batches, for all commands that ask much of models on this machine.

use clap::Args;

use super::number::whole;

/// Bounds on memory and batches.
#[derive(Clone, Debug, Default, Args)]
pub struct LimitArgs {
    /// Memory for cached keys and values, in MiB [default: 1024; most of what is free on a GPU]
    #[arg(long, value_name = "MIB", value_parser = whole::<usize>)]
    pub kv_memory: Option<usize>,
    /// Number of tokens per forward pass [default: 768; 16384 on a GPU]
    #[arg(long, value_name = "TOKENS", value_parser = whole::<usize>)]
    pub batch_tokens: Option<usize>,
    /// Number of sequences to generate together [default: 64; 256 on a GPU]
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    pub batch_sequences: Option<usize>,
}
