//! `harness serve`.

use clap::Args;

use super::{LimitArgs, PromptArgs, number::whole};

/// Arguments of `harness serve`.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Models: names from harness.toml, Hugging Face folders, .gguf files, or PEFT adapter folders
    #[arg(required = true, value_name = "MODEL")]
    pub models: Vec<String>,
    /// Name or address to listen on; any but this machine's own needs a key in HARNESS_API_KEY
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 for any that is free
    #[arg(long, value_name = "PORT", default_value_t = 8000, value_parser = port)]
    pub port: u16,
    /// Number of generations that may wait; requests beyond it are refused
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = whole::<usize>)]
    pub queue: usize,
    /// Maximum duration of a request in seconds, waiting included
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = whole::<u64>)]
    pub timeout: u64,
    /// Maximum size of a request in MiB
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = whole::<usize>)]
    pub max_body: usize,
    /// Prompt tokens computed between two tokens of running answers [default: 256; 2048 on a GPU]
    #[arg(long, value_name = "TOKENS", value_parser = whole::<usize>)]
    pub prompt_tokens: Option<usize>,
    /// Tokenizer, template and date.
    #[command(flatten)]
    pub texts: PromptArgs,
    /// Bounds on memory and batches.
    #[command(flatten)]
    pub limits: LimitArgs,
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| "expected a port from 0 to 65535".to_owned())
}
