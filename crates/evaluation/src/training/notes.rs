//! What is to be known of a run, in sentences.

use harness_metrics::comparison::{counted, thousands};
use harness_training::{data::RowCounts, trainer::TrainingSummary};

/// What is to be known of the rows of a data set, one reason a line: those left out as unusable, and what looks wrong with
/// those used.
pub fn row_lines(rows: &RowCounts) -> Vec<String> {
    let count = |rows: &usize| counted(*rows, "row");
    let left_out = rows.unusable.iter().map(|(reason, rows)| format!("{} left out: {reason}", count(rows)));
    let remarks = rows.remarks.iter().map(|(remark, rows)| format!("{}: {remark}", count(rows)));
    left_out.chain(remarks).collect()
}

/// What a run did, in a line.
pub(super) fn ending(summary: &TrainingSummary) -> String {
    let best = match &summary.best {
        Some(best) => format!("best validation loss {:.4} after step {}", best.eval_loss, best.step),
        None => "no validation".to_owned(),
    };
    let mut text = format!(
        "{}, {} tokens, {:.0} tokens/s, {best}",
        counted(summary.steps as usize, "update"),
        thousands(summary.tokens),
        summary.tokens_per_second
    );
    if summary.skipped > 0 {
        text += &format!(", {} skipped", counted(summary.skipped as usize, "update"));
    }
    if summary.spikes > 0 {
        text += &format!(", {} of the loss", counted(summary.spikes as usize, "spike"));
    }
    if summary.stopped_early {
        text += &format!(
            ", stopped early of {} because the validation loss did not improve",
            thousands(summary.total_steps)
        );
    }
    text
}
