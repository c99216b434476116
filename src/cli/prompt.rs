//! How texts become prompts, for all commands that run models.

use clap::Args;
use harness_evaluation::experiment::Day;

/// How texts become prompts; these options take precedence over harness.toml.
#[derive(Clone, Debug, Default, Args)]
pub struct PromptArgs {
    /// Date for chat templates, e.g. 2025-01-30 [default: the day of the first run, kept in HARNESS_HOME/date]
    #[arg(long, value_name = "DATE")]
    pub date: Option<Day>,
    /// Variables for chat templates (local models and servers): a JSON object or NAME=VALUE; may be repeated
    #[arg(long, value_name = "JSON")]
    pub chat_template_kwargs: Vec<String>,
    /// Source of tokenizer and chat template: adapter (its own, if it has them), base, or a folder [default: adapter]
    #[arg(long, value_name = "WHICH")]
    pub tokenizer: Option<String>,
}
