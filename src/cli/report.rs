//! `harness report`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Format;

/// Arguments of `harness report`.
#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    /// What to report on.
    #[command(subcommand)]
    pub command: ReportCommand,
}

/// What `harness report` can do.
#[derive(Clone, Debug, Subcommand)]
pub enum ReportCommand {
    /// Compare training runs in tables and curves
    Training(TrainingReportArgs),
    /// Print a stored comparison again, in any format
    Comparison(ComparisonReportArgs),
}

/// Arguments of `harness report training`.
#[derive(Clone, Debug, Args)]
pub struct TrainingReportArgs {
    /// Folders of training runs, or folders that contain them (as written by `harness train --matrix`)
    #[arg(required = true, value_name = "DIR")]
    pub folders: Vec<PathBuf>,
    /// Write the table (Markdown, CSV, LaTeX, JSON) and the curves (SVG, PNG) to this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Run to compare speeds with [default: the same training on the fewest ranks, else the first run]
    #[arg(long, value_name = "NAME")]
    pub baseline: Option<String>,
}

/// Arguments of `harness report comparison`.
#[derive(Clone, Debug, Args)]
pub struct ComparisonReportArgs {
    /// Folder written by `harness compare --out`, or the id of a stored comparison [default: list stored comparisons]
    pub report: Option<String>,
    /// Output format
    #[arg(long, value_name = "FORMAT", default_value = "md")]
    pub format: Format,
    /// Write all formats and plots to this folder instead
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}
