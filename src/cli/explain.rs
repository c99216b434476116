//! `harness explain`.

use clap::Args;

/// Arguments of `harness explain`.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// Folder written by `harness compare --out`, or the id of a stored comparison
    pub report: String,
    /// The number to explain: TASK/MODEL, or TASK:METRIC,FILTER/MODEL
    pub cell: String,
}
