//! Curves of runs in common charts.

use std::path::Path;

use harness_reports::{ReportError, Series, line_chart};
use harness_training::telemetry::MetricLine;

use super::run_record::RunRecord;
use crate::commands::Failure;

/// Draws loss, validation loss, perplexity, learning rate and speed over updates, and speed and memory over ranks where
/// runs have different numbers of them, each as SVG and PNG. Charts without a point are left out.
///
/// # Errors
/// If a file cannot be written.
pub(super) fn draw(runs: &[RunRecord], out: &Path) -> Result<(), Failure> {
    type Value = fn(&MetricLine) -> Option<f64>;
    let over_updates: [(&str, Value); 5] = [
        ("loss", |line| line.loss),
        ("validation loss", |line| line.eval_loss),
        ("validation perplexity", |line| line.eval_perplexity),
        ("learning rate", |line| line.learning_rate),
        ("tokens per second", |line| line.tokens_per_second),
    ];
    for (what, value) in over_updates {
        let series = runs.iter().map(|run| Series {
            name: run.name.clone(),
            points: run.lines.iter().filter_map(|line| Some((line.step as f64, value(line)?))).collect(),
        });
        chart(out, what, "update", &series.collect::<Vec<_>>())?;
    }
    let mut ranks: Vec<usize> = runs.iter().map(|run| run.summary.world_size).collect();
    ranks.sort_unstable();
    ranks.dedup();
    if ranks.len() < 2 {
        return Ok(());
    }
    type Total = fn(&RunRecord) -> f64;
    let over_ranks: [(&str, Total); 2] = [
        ("speed by ranks", |run| run.summary.tokens_per_second),
        ("memory of a rank, MiB", |run| run.summary.memory_bytes as f64 / f64::from(1 << 20)),
    ];
    for (what, value) in over_ranks {
        let mut series: Vec<Series> = vec![];
        for run in runs {
            let name = run.sharding.clone().unwrap_or_else(|| "one rank".to_owned());
            let point = (run.summary.world_size as f64, value(run));
            match series.iter_mut().find(|series| series.name == name) {
                Some(series) => series.points.push(point),
                None => series.push(Series { name, points: vec![point] }),
            }
        }
        series.iter_mut().for_each(|series| series.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
        chart(out, what, "ranks", &series)?;
    }
    Ok(())
}

fn chart(out: &Path, what: &str, x: &str, series: &[Series]) -> Result<(), Failure> {
    for extension in ["svg", "png"] {
        let name = what.split(',').next().unwrap_or(what).replace(' ', "_");
        match line_chart(&out.join(format!("{name}.{extension}")), what, x, what, series) {
            Ok(()) | Err(ReportError::Empty { .. }) => {}
            Err(error) => return Err(Failure::work(error.to_string())),
        }
    }
    Ok(())
}
