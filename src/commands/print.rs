//! What several commands print.

use harness_metrics::comparison::Comparison;
use harness_reports::{Meta, markdown};

use super::{App, Failure};

/// Groups deeper than this are printed only when asked for.
const PRINTED_DEPTH: usize = 1;

/// Prints a comparison: as Markdown, or as one JSON object.
///
/// # Errors
/// If nobody reads it.
pub(super) fn comparison(app: &App, comparison: &Comparison, all_rows: bool) -> Result<(), Failure> {
    app.output(comparison, || {
        let mut shown = comparison.clone();
        shown.rows.retain(|row| all_rows || row.depth <= PRINTED_DEPTH);
        markdown(&shown, &Meta::default())
    })
}
