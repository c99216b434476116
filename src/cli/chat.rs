//! `harness chat`.

use clap::Args;

use super::{PromptArgs, SamplingArgs};

/// Arguments of `harness chat`.
#[derive(Clone, Debug, Args)]
pub struct ChatArgs {
    /// A name from the experiment, a folder in Hugging Face layout, a .gguf file, or an adapter folder
    pub model: String,
    /// System message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// How texts become prompts.
    #[command(flatten)]
    pub texts: PromptArgs,
    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
}
