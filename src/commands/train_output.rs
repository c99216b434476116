//! What a run tells and draws: its plan, its end, its curves.

use std::path::Path;

use harness_metrics::comparison::thousands;
use harness_reports::{ReportError, Series, line_chart};
use harness_training::{
    data::RowCounts,
    telemetry::{MetricLine, read_lines},
    trainer::{Estimate, TrainingSummary},
};

use super::Failure;

/// Curves of a run beside its metrics: loss, perplexity and learning rate as SVG and PNG.
///
/// # Errors
/// If a file cannot be read or written.
pub(super) fn plots(folder: &Path, name: &str) -> Result<(), Failure> {
    let lines = read_lines(&folder.join("metrics.jsonl"))?;
    let series = |name: &str, value: fn(&MetricLine) -> Option<f64>| {
        let points = lines.iter().filter_map(|line| Some((line.step as f64, value(line)?))).collect();
        Series { name: name.to_owned(), points }
    };
    let charts = [
        ("loss", vec![series("training", |line| line.loss), series("validation", |line| line.eval_loss)]),
        ("perplexity", vec![series("validation", |line| line.eval_perplexity)]),
        ("learning rate", vec![series("learning rate", |line| line.learning_rate)]),
    ];
    for (what, series) in charts {
        for extension in ["svg", "png"] {
            let path = folder.join(format!("{}.{extension}", what.replace(' ', "_")));
            match line_chart(&path, &format!("{name}: {what}"), "update", what, &series) {
                Ok(()) | Err(ReportError::Empty { .. }) => {}
                Err(error) => return Err(Failure::work(error.to_string())),
            }
        }
    }
    Ok(())
}

/// A count with its noun.
pub(super) fn counted(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", thousands(n), if n == 1 { "" } else { "s" })
}

/// What is to be known of the rows of a data set, one reason a line: those left out as unusable, and what looks wrong with
/// those used.
pub(super) fn row_lines(rows: &RowCounts) -> Vec<String> {
    let count = |rows: &usize| counted(*rows as u64, "row");
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
        counted(summary.steps, "update"),
        thousands(summary.tokens),
        summary.tokens_per_second
    );
    if summary.skipped > 0 {
        text += &format!(", {} left out", counted(summary.skipped, "update"));
    }
    if summary.spikes > 0 {
        text += &format!(", {} of the loss", counted(summary.spikes, "spike"));
    }
    if summary.stopped_early {
        text += &format!(", stopped early of {}, as the validation loss got no better", thousands(summary.total_steps));
    }
    text
}

/// What a run would take, over a number of ranks.
pub(super) fn describe(name: &str, estimate: &Estimate, ranks: usize) -> String {
    let each = if ranks > 1 { format!(" on each of {ranks} ranks") } else { String::new() };
    format!(
        "{name}\n  updates               {} ({} warm-up, {:.2} epochs)\n  tokens                {}\n  \
         trainable parameters  {} of {}\n  memory                {} MiB{each}, measured on one update\n  \
         speed                 {:.0} tokens/s, measured on one update\n  \
         time                  {}, evaluation not counted\n",
        thousands(estimate.steps),
        thousands(estimate.warmup_steps),
        estimate.epochs,
        thousands(estimate.tokens),
        thousands(estimate.trainable_parameters as u64),
        thousands(estimate.parameters as u64),
        thousands(estimate.memory_bytes as u64 >> 20),
        estimate.tokens_per_second,
        duration(estimate.seconds)
    )
}

/// Seconds, with hours and minutes where there are many.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    let (hours, minutes) = (whole / 3600, whole / 60 % 60);
    match whole {
        0..120 => format!("{whole} s"),
        120..3600 => format!("{minutes} min {} s", whole % 60),
        _ => format!("{} h {minutes} min", thousands(hours)),
    }
}
