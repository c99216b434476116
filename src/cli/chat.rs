//! `harness chat`.

use clap::Args;

use super::{PromptArgs, SamplingArgs};

/// Arguments of `harness chat`.
#[derive(Clone, Debug, Args)]
pub struct ChatArgs {
    /// Model: a name from harness.toml, a Hugging Face folder, a .gguf file, or a PEFT adapter folder
    pub model: String,
    /// System message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Tokenizer, template and date.
    #[command(flatten)]
    pub texts: PromptArgs,
    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
}
