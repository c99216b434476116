//! Plots of a run.

use std::path::Path;

use harness_reports::{ReportError, Series, line_chart};
use harness_training::telemetry::{MetricLine, read_lines};

use crate::EvaluationError;

/// Curves of a run beside its metrics: loss, perplexity and learning rate as SVG and PNG.
///
/// # Errors
/// If a file cannot be read or written.
pub fn write(folder: &Path, name: &str) -> Result<(), EvaluationError> {
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
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
