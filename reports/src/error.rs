//! Why a report cannot be made.

use std::path::PathBuf;

/// Why a report cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A file cannot be written.
    #[error("{}: cannot be written: {source}; check that the folder exists, is writable and has space left", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A plot cannot be drawn.
    #[error("{}: cannot be drawn: {reason}", .path.display())]
    Plot {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A plot's file name has an unknown extension.
    #[error("{}: plots are written as .svg or .png; name the file so", .path.display())]
    Extension {
        /// The file.
        path: PathBuf,
    },
    /// There is nothing to plot.
    #[error("{}: there is nothing to plot: {what}", .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
    /// A format's name is unknown.
    #[error("`{found}` is not a report format; choose from md, latex, csv, json, svg, png")]
    Format {
        /// What was asked for.
        found: String,
    },
    /// A table cannot be serialised.
    #[error("the report cannot be serialised: {0}")]
    Serialise(String),
}
