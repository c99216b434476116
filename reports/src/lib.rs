//! Comparisons as Markdown, HTML, LaTeX, CSV, JSON and plots.
//!
//! Reports are pure functions of a [`harness_metrics::comparison::Comparison`] and of [`Meta`], which carries what the
//! caller knows besides: the title and the manifest. Nothing here computes a statistic.

mod csv_table;
mod document;
mod error;
mod escape;
mod file;
mod html;
mod json;
mod latex;
mod markdown;
mod meta;
mod number;
mod page;
mod plot;
mod words;
mod write;

pub use csv_table::csv;
pub use error::ReportError;
pub use escape::{csv_escape, html_escape, latex_escape, markdown_escape, markdown_prose};
pub use html::html;
pub use json::{Report, json};
pub use latex::{latex_document, latex_fragment};
pub use markdown::markdown;
pub use meta::Meta;
pub use plot::{RadarSeries, Series, forest_plot, line_chart, radar_chart};
pub use write::{Format, write_all};
