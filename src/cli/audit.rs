//! `harness audit`.

use clap::Args;

use super::EvaluationArgs;

/// Arguments of `harness audit`.
#[derive(Clone, Debug, Args)]
pub struct AuditArgs {
    /// Models or imported results, base first
    #[arg(required = true)]
    pub models: Vec<String>,
    /// What was evaluated.
    #[command(flatten)]
    pub evaluation: EvaluationArgs,
    /// Exit with 3 if something is found that is not of statistical kind
    #[arg(long)]
    pub strict: bool,
}
