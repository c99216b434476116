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
    /// Compare the metrics of a comparison with the golden ones; exits with 3 on a regression
    Check(GoldenFiles),
    /// Take the metrics of a comparison as the golden ones
    Accept(GoldenFiles),
}

/// Where metrics are.
#[derive(Clone, Debug, Args)]
pub struct GoldenFiles {
    /// report.json of a comparison, or the folder that holds it
    #[arg(value_name = "REPORT")]
    pub report: PathBuf,
    /// The golden metrics
    #[arg(long, value_name = "FILE", default_value = "golden/metrics.json")]
    pub golden: PathBuf,
    /// Largest absolute difference that is no change, for a new file
    #[arg(long, value_name = "X", default_value_t = 1e-6)]
    pub tolerance: f64,
}
