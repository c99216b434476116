//! `harness golden`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Arguments of `harness golden`.
#[derive(Clone, Debug, Args)]
pub struct GoldenArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: GoldenCommand,
}

/// What `harness golden` can do.
#[derive(Clone, Debug, Subcommand)]
pub enum GoldenCommand {
    /// Check the metrics of a comparison against the golden metrics; exit with code 3 on a regression
    Check(GoldenFiles),
    /// Store the metrics of a comparison as the golden metrics
    Accept(GoldenFiles),
}

/// Where metrics are.
#[derive(Clone, Debug, Args)]
pub struct GoldenFiles {
    /// report.json of a comparison, or the folder that contains it
    #[arg(value_name = "REPORT")]
    pub report: PathBuf,
    /// File of golden metrics
    #[arg(long, value_name = "FILE", default_value = "golden/metrics.json")]
    pub golden: PathBuf,
    /// Largest absolute difference to ignore, stored in a new golden file
    #[arg(long, value_name = "X", default_value_t = 1e-6)]
    pub tolerance: f64,
}
