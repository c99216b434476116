//! Curves of runs in common charts.

use std::path::Path;

use harness_reports::{ReportError, Series, line_chart};
use harness_training::telemetry::MetricLine;

use super::run_record::RunRecord;
use harness_metrics::comparison::counted;

use crate::failure::Failure;

/// Bytes.
const MIB: f64 = (1 << 20) as f64;

/// Draws loss, validation loss, perplexity, learning rate, speed and peak memory over updates, and speed and memory over ranks where
/// runs have different numbers of them, each as SVG and PNG. Charts without a point are left out.
///
/// # Errors
/// If a file cannot be written.
pub(super) fn draw(runs: &[RunRecord], out: &Path) -> Result<(), Failure> {
    type Value = fn(&MetricLine) -> Option<f64>;
    /// Names of the runs that share a line, and its points.
    type Line<'a> = (Vec<&'a str>, Vec<(f64, f64)>);
    let over_updates: [(&str, Value); 6] = [
        ("loss", |line| line.loss),
        ("validation loss", |line| line.eval_loss),
        ("validation perplexity", |line| line.eval_perplexity),
        ("learning rate", |line| line.learning_rate),
        ("tokens per second", |line| line.tokens_per_second),
        ("peak memory", |line| Some(line.memory_bytes? as f64 / MIB)),
    ];
    for (what, value) in over_updates {
        let y = if what == "peak memory" { "MiB" } else { what };
        let mut all: Vec<Line> = vec![];
        for run in runs {
            let points: Vec<(f64, f64)> =
                run.lines.iter().filter_map(|line| Some((line.step as f64, value(line)?))).collect();
            // Lines that would hide each other are one: sharding changes no bit, and ranks none but the last ones.
            match all.iter_mut().find(|(_, line)| coincide(line, &points)) {
                Some((names, _)) => names.push(&run.name),
                None => all.push((vec![&run.name], points)),
            }
        }
        let all: Vec<Series> =
            all.into_iter().map(|(names, points)| Series { name: together(&names), points }).collect();
        chart(out, [what, what, "update", y], &all)?;
    }
    let mut ranks: Vec<usize> = runs.iter().map(|run| run.summary.world_size).collect();
    ranks.sort_unstable();
    ranks.dedup();
    if ranks.len() < 2 {
        return Ok(());
    }
    type Total = fn(&RunRecord) -> f64;
    let over_ranks: [([&str; 4], Total); 2] = [
        (["speed_by_ranks", "speed by ranks", "ranks", "tokens per second"], |run| run.summary.tokens_per_second),
        (["memory_by_ranks", "peak memory of a rank", "ranks", "MiB"], |run| run.summary.memory_bytes as f64 / MIB),
    ];
    for (texts, value) in over_ranks {
        chart(out, texts, &by_ranks(runs, value))?;
    }
    Ok(())
}

/// The names of runs that share a line, as long as a legend has room for them.
fn together(names: &[&str]) -> String {
    let all = names.join(" = ");
    match names {
        [first, others @ ..] if all.chars().count() > 48 && !others.is_empty() => {
            format!("{first} = {}", counted(others.len(), "other"))
        }
        _ => all,
    }
}

/// Whether two lines cannot be told apart: nowhere is one above the other by a thousandth of its height.
fn coincide(a: &[(f64, f64)], b: &[(f64, f64)]) -> bool {
    let (low, high) = a.iter().fold((f64::MAX, f64::MIN), |(low, high), (_, y)| (low.min(*y), high.max(*y)));
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() <= 1e-3 * (high - low))
}

/// A line for each training and sharding; a run of one rank, which shares nothing, begins all lines of its training.
fn by_ranks(runs: &[RunRecord], value: fn(&RunRecord) -> f64) -> Vec<Series> {
    let mut lines: Vec<(&str, Option<&str>, Series)> = vec![];
    for run in runs.iter().filter(|run| run.summary.world_size > 1) {
        let key = (run.run.as_str(), run.sharding.as_deref());
        if lines.iter().any(|(training, sharding, _)| (*training, *sharding) == key) {
            continue;
        }
        let several_bases = runs.iter().any(|other| other.recipe == run.recipe && other.base != run.base);
        let base = run.base.iter().filter(|_| several_bases).map(|base| format!(" {base}"));
        let name = base.chain(key.1.map(|sharding| format!(" {sharding}"))).fold(run.recipe.clone(), |a, b| a + &b);
        let of = runs.iter().filter(|other| other.run == run.run);
        let of = of.filter(|other| other.summary.world_size == 1 || other.sharding.as_deref() == key.1);
        let mut points: Vec<(f64, f64)> = of.map(|run| (run.summary.world_size as f64, value(run))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        lines.push((key.0, key.1, Series { name, points }));
    }
    lines.into_iter().map(|(_, _, series)| series).collect()
}

/// Draws into files of this name; then come title and labels of the axes.
fn chart(out: &Path, [file, title, x, y]: [&str; 4], series: &[Series]) -> Result<(), Failure> {
    for extension in ["svg", "png"] {
        let path = out.join(format!("{}.{extension}", file.replace(' ', "_")));
        match line_chart(&path, title, x, y, series) {
            Ok(()) | Err(ReportError::Empty { .. }) => {}
            Err(error) => return Err(Failure::work(error.to_string())),
        }
    }
    Ok(())
}
