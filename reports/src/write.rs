//! Reports as files.

use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use harness_metrics::comparison::Comparison;

use crate::{Meta, ReportError, csv, file::write, forest_plot, html, json, latex_document, markdown};

/// A form of report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// `report.md`.
    Markdown,
    /// `report.html`, a page with the plot inside.
    Html,
    /// `report.tex`, a document that compiles alone.
    Latex,
    /// `report.csv`.
    Csv,
    /// `report.json`.
    Json,
    /// `comparison.svg`, the plot of differences; not written where there is no difference to plot.
    Svg,
    /// `comparison.png`, likewise.
    Png,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 7] = [Self::Markdown, Self::Html, Self::Latex, Self::Csv, Self::Json, Self::Svg, Self::Png];

    /// The name of its file.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Markdown => "report.md",
            Self::Html => "report.html",
            Self::Latex => "report.tex",
            Self::Csv => "report.csv",
            Self::Json => "report.json",
            Self::Svg => "comparison.svg",
            Self::Png => "comparison.png",
        }
    }
}

impl FromStr for Format {
    type Err = ReportError;

    fn from_str(text: &str) -> Result<Self, ReportError> {
        match text {
            "md" | "markdown" => Ok(Self::Markdown),
            "html" => Ok(Self::Html),
            "tex" | "latex" => Ok(Self::Latex),
            "csv" => Ok(Self::Csv),
            "json" => Ok(Self::Json),
            "svg" => Ok(Self::Svg),
            "png" => Ok(Self::Png),
            other => Err(ReportError::Format { found: other.to_owned() }),
        }
    }
}

/// Writes the report in the given formats to a folder, which is made if it does not exist, and returns the files
/// written. Each file appears whole or not at all.
///
/// # Errors
/// [`ReportError::Write`] names the file that could not be written; files written before it stay.
pub fn write_all(
    dir: &Path,
    comparison: &Comparison,
    meta: &Meta,
    formats: &[Format],
) -> Result<Vec<PathBuf>, ReportError> {
    fs::create_dir_all(dir).map_err(|source| ReportError::Write { path: dir.to_owned(), source })?;
    let mut written = Vec::new();
    for format in formats {
        let path = dir.join(format.file_name());
        let text = match format {
            Format::Markdown => markdown(comparison, meta),
            Format::Html => html(comparison, meta)?,
            Format::Latex => latex_document(comparison, meta),
            Format::Csv => csv(comparison)?,
            Format::Json => json(comparison, meta)?,
            Format::Svg | Format::Png => {
                match forest_plot(&path, comparison) {
                    Ok(()) => written.push(path),
                    Err(ReportError::Empty { .. }) => {}
                    Err(error) => return Err(error),
                }
                continue;
            }
        };
        write(&path, text.as_bytes())?;
        written.push(path);
    }
    Ok(written)
}
