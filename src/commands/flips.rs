//! `harness compare --flips`.

use harness_evaluation::flips::RowFlips;

use super::{App, Failure};

/// Prints the flips, at most `most` documents a row and candidate.
///
/// # Errors
/// If nobody reads.
pub(super) fn print(app: &App, flips: &[RowFlips], most: usize) -> Result<(), Failure> {
    app.output(&serde_json::json!({ "flips": flips }), || {
        let mut text = String::new();
        for row in flips {
            text.push_str(&format!(
                "\n{} {}: {} against {}: {} won, {} lost of {}",
                row.task, row.metric, row.candidate, row.base, row.won, row.lost, row.n
            ));
            if let (Some(right), Some(wrong)) = (row.both_right, row.both_wrong) {
                text.push_str(&format!(" ({right} right in both, {wrong} wrong in both)"));
            }
            text.push('\n');
            for flip in row.documents.iter().take(most) {
                let margin = flip.margin.map_or(String::new(), |margin| format!(" margin {margin:+.3}"));
                let [before, after] = flip.scores;
                text.push_str(&format!("  {} {before:.3} -> {after:.3}{margin}  {}\n", flip.document, flip.text));
            }
            if row.documents.len() > most {
                text.push_str(&format!("  and {} more\n", row.documents.len() - most));
            }
        }
        text
    })
}
