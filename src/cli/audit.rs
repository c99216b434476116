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
    /// Exit with code 3 if there are non-statistical findings
    #[arg(long)]
    pub strict: bool,
}
