//! `harness report`: what training runs wrote, as tables and curves.

mod curves;
mod run_record;
pub(super) mod table;

use harness_core::visible_json;
use harness_store::{atomic_write, nearest};
use serde_json::json;

use super::{App, Failure, stored_report};
use crate::cli::{ReportArgs, ReportCommand, TrainingReportArgs};
use run_record::RunRecord;

/// Runs `harness report`.
///
/// # Errors
/// If a folder holds no run, or a file cannot be read or written.
pub(super) fn report(app: &App, args: &ReportArgs) -> Result<(), Failure> {
    match &args.command {
        ReportCommand::Training(args) => training(app, args),
        ReportCommand::Comparison(args) => stored_report::report(app, args),
    }
}

fn training(app: &App, args: &TrainingReportArgs) -> Result<(), Failure> {
    let mut runs = vec![];
    for folder in &args.folders {
        let found = RunRecord::find(folder)?;
        if found.is_empty() {
            return Err(Failure::usage(format!(
                "{}: contains no finished training run (training.json), and neither do its folders",
                folder.display()
            )));
        }
        runs.extend(found);
    }
    let baseline = match &args.baseline {
        None => None,
        Some(name) => Some(runs.iter().position(|run| run.name == *name).ok_or_else(|| {
            let known: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
            let near =
                nearest(name, known.iter().copied()).map(|n| format!("; did you mean {n:?}?")).unwrap_or_default();
            Failure::usage(format!("--baseline {name}: no such run; there are {}{near}", known.join(", ")))
        })?),
    };
    let table = table::Table::new(&runs, baseline);
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out).map_err(|e| Failure::work(format!("cannot create {}: {e}", out.display())))?;
        let text = serde_json::to_string_pretty(&runs).map_err(|e| Failure::work(e.to_string()))?;
        for (name, content) in [
            ("training.md", table.markdown()),
            ("training.csv", table.csv()),
            ("training.tex", table.latex()),
            ("training.json", visible_json(&text).into_owned() + "\n"),
        ] {
            atomic_write(&out.join(name), content)?;
        }
        curves::draw(&runs, out)?;
    }
    app.output(&json!({ "runs": runs, "baseline": baseline.map(|at| &runs[at].name) }), || table.markdown())
}
