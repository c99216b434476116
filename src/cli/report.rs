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
    /// Tables and curves of training runs side by side
    Training(TrainingReportArgs),
    /// A stored comparison again, in any form
    Comparison(ComparisonReportArgs),
}

/// Arguments of `harness report training`.
#[derive(Clone, Debug, Args)]
pub struct TrainingReportArgs {
    /// Folders of runs, or folders that hold them (as `harness train --matrix` makes)
    #[arg(required = true, value_name = "DIR")]
    pub folders: Vec<PathBuf>,
    /// Write the table as Markdown, CSV, LaTeX and JSON, and the curves as SVG and PNG, into this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The run that speeds are compared with [default: for each the same training on the fewest ranks, else the first run]
    #[arg(long, value_name = "NAME")]
    pub baseline: Option<String>,
}

/// Arguments of `harness report comparison`.
#[derive(Clone, Debug, Args)]
pub struct ComparisonReportArgs {
    /// Folder that `harness compare --out` wrote, or the id of a stored comparison [default: list what is stored]
    pub report: Option<String>,
    /// Form in which it is printed
    #[arg(long, value_name = "FORMAT", default_value = "md")]
    pub format: Format,
    /// Write all forms and plots into this folder instead
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}
