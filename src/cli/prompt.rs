//! How texts become prompts, for all commands that ask models.

use clap::Args;
use harness_evaluation::experiment::Day;

/// How texts become prompts; what is given here goes before what the experiment says.
#[derive(Clone, Debug, Default, Args)]
pub struct PromptArgs {
    /// Day that chat templates are told, e.g. 2025-01-30 [default: that of the first run, kept in HARNESS_HOME/date]
    #[arg(long, value_name = "DATE")]
    pub date: Option<Day>,
    /// Variables for chat templates, local or at a server: a JSON object or NAME=VALUE; may be repeated
    #[arg(long, value_name = "JSON")]
    pub chat_template_kwargs: Vec<String>,
    /// Tokenizer and chat template: adapter (its own where it has them), base, or a folder [default: adapter]
    #[arg(long, value_name = "WHICH")]
    pub tokenizer: Option<String>,
}
