//! `harness explain`.

use clap::Args;

/// Arguments of `harness explain`.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// Folder that `harness compare --out` wrote, or the id of a stored comparison
    pub report: String,
    /// The number: TASK/MODEL, or TASK:METRIC,FILTER/MODEL
    pub cell: String,
}
