//! `harness report comparison`: stored comparisons again, in any form.

use harness_evaluation::stored;
use harness_metrics::comparison::counted;
use harness_reports::{Format as ReportFormat, csv, html, json, latex_document, markdown, write_all};

use super::{App, Failure};
use crate::cli::{ComparisonReportArgs, Format};

/// Runs `harness report comparison`.
///
/// # Errors
/// If there is no such comparison, or nothing can be written.
pub(super) fn report(app: &App, args: &ComparisonReportArgs) -> Result<(), Failure> {
    let Some(name) = &args.report else {
        return list(app);
    };
    let (report, _) = stored::find(app, name)?;
    let failed = |error: harness_reports::ReportError| Failure::work(error.to_string());
    if let Some(folder) = &args.out {
        let files = write_all(folder, &report.comparison, &report.meta, &ReportFormat::ALL).map_err(failed)?;
        app.note(format!("wrote {} to {}", counted(files.len(), "file"), folder.display()));
        return Ok(());
    }
    if app.global.json {
        return app.output(&report.comparison, String::new);
    }
    app.print(match args.format {
        Format::Md => markdown(&report.comparison, &report.meta),
        Format::Html => html(&report.comparison, &report.meta).map_err(failed)?,
        Format::Latex => latex_document(&report.comparison, &report.meta),
        Format::Csv => csv(&report.comparison).map_err(failed)?,
        Format::Json => json(&report.comparison, &report.meta).map_err(failed)?,
    })
}

fn list(app: &App) -> Result<(), Failure> {
    let all = stored::list(&app.home);
    let entries: Vec<serde_json::Value> = all
        .iter()
        .map(|(id, stored)| {
            let comparison = &stored.report.comparison;
            let mut tasks: Vec<&str> = comparison.rows.iter().map(|row| row.task.as_str()).collect();
            tasks.dedup();
            serde_json::json!({"id": id, "models": comparison.models, "tasks": tasks, "seeds": stored.look.seeds})
        })
        .collect();
    app.output(&serde_json::json!({ "comparisons": entries }), || {
        if all.is_empty() {
            return "no comparison is stored yet; `harness compare` creates one\n".to_owned();
        }
        all.iter()
            .map(|(id, stored)| {
                let comparison = &stored.report.comparison;
                format!("{id}  {}  {}\n", comparison.models.join(" "), counted(comparison.rows.len(), "row"))
            })
            .collect()
    })
}
