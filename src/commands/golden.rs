//! `harness golden`.

use std::{fmt::Write as _, path::Path};

use harness_metrics::comparison::counted;
use harness_reports::Report;
use harness_store::{Golden, Metrics, golden};
use serde_json::json;

use super::{App, Failure};
use crate::cli::{GoldenArgs, GoldenCommand};

/// Runs `harness golden`.
///
/// # Errors
/// If a file is missing or wrong; with exit code 3 if a metric regressed.
pub(super) fn golden(app: &App, args: &GoldenArgs) -> Result<(), Failure> {
    match &args.command {
        GoldenCommand::Accept(files) => {
            let former = if files.golden.is_file() { Some(Golden::read(&files.golden)?) } else { None };
            let found = metrics(&files.report)?;
            Golden::accept(former.as_ref(), &found, files.tolerance).write(&files.golden)?;
            let count: usize = found.values().map(|task| task.len()).sum();
            app.output(&json!({ "golden": files.golden, "metrics": count }), || {
                format!("{}: {} accepted\n", files.golden.display(), counted(count, "metric"))
            })
        }
        GoldenCommand::Check(files) => {
            if !files.golden.exists() {
                return Err(Failure::usage(format!(
                    "{}: there are no golden metrics yet; `harness golden accept REPORT` creates them",
                    files.golden.display()
                )));
            }
            let expected = Golden::read(&files.golden)?;
            let regressions = golden::check(&expected, &metrics(&files.report)?);
            app.output(&json!({ "regressions": regressions }), || {
                if regressions.is_empty() {
                    return format!("all metrics equal {}\n", files.golden.display());
                }
                regressions.iter().fold(String::new(), |mut text, regression| {
                    let _ = writeln!(text, "{regression}");
                    text
                })
            })?;
            if regressions.is_empty() {
                return Ok(());
            }
            let differ = if regressions.len() == 1 { "differs" } else { "differ" };
            let (metrics, file) = (counted(regressions.len(), "metric"), files.golden.display());
            Err(Failure::condition(format!("{metrics} {differ} from {file}")))
        }
    }
}

/// The values of a comparison by task, metric and model.
fn metrics(report: &Path) -> Result<Metrics, Failure> {
    let path = if report.is_dir() { report.join("report.json") } else { report.to_owned() };
    let text = harness_core::read_text(&path).map_err(|e| {
        Failure::usage(format!("cannot read {}: {e}; `harness compare --out DIR` writes it", path.display()))
    })?;
    let report: Report = serde_json::from_str(&text).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
    let comparison = report.comparison;
    let mut metrics = Metrics::new();
    for row in &comparison.rows {
        let values = metrics.entry(row.task.clone()).or_default().entry(row.key.to_string()).or_default();
        for (model, cell) in comparison.models.iter().zip(&row.cells) {
            values.extend(cell.value.map(|value| (model.clone(), value)));
        }
    }
    Ok(metrics)
}
