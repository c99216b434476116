//! `harness import`.

use std::collections::BTreeMap;

use harness_evaluation::import::{ImportOptions, ImportRecord, Imported, ImportedMetric, ImportedTask};
use harness_metrics::comparison::counted;
use serde_json::{Value, json};

use super::{App, Failure};
use crate::cli::ImportArgs;

/// How many rows without a verdict are named.
const SHOWN: usize = 8;

/// Runs `harness import`.
///
/// # Errors
/// If the file is wrong, or the name is taken.
pub(super) fn import(app: &App, args: &ImportArgs) -> Result<(), Failure> {
    let options = ImportOptions {
        map: args.map.clone(),
        task: args.task.clone(),
        model: args.model.clone(),
        lower_is_better: args.lower_is_better.clone(),
        facts: args.facts.clone(),
        force: args.force,
        ..ImportOptions::new(args.format.into(), &args.path, &args.name)
    };
    let Imported { record, file, missing, unread, caveats } =
        app.phase(format!("import {}", args.name), || harness_evaluation::import(app, &options))?;
    let tasks: BTreeMap<&str, Value> = record
        .tasks
        .iter()
        .map(|task| {
            let metrics: Vec<String> = task.metrics.iter().map(|metric| metric.key.to_string()).collect();
            let aggregate = task.metrics.iter().any(|metric| metric.aggregate.is_some());
            let documents = task.metrics.iter().map(ImportedMetric::n).max().flatten();
            (
                task.id.as_str(),
                json!({"documents": documents, "metrics": metrics, "aggregate": aggregate, "group": task.group}),
            )
        })
        .collect();
    let object = json!({
        "name": record.name, "file": file, "tasks": tasks, "missing_scores": missing,
        "unread": unread.iter().map(|(row, why)| json!({"row": row, "reason": why})).collect::<Vec<_>>(),
        "caveats": caveats.iter().map(|caveat| json!({"caveat": caveat, "text": caveat.to_string()})).collect::<Vec<_>>(),
    });
    app.output(&object, || {
        let mut text = format!("{}: imported as {}\n", args.path.display(), record.name);
        for task in &record.tasks {
            text.push_str(&format!("  {}{}\n", "  ".repeat(depth(&record, task)), line(task)));
        }
        if missing > 0 {
            text.push_str(&format!("  {missing} scores are empty or no finite numbers: they count as missing\n"));
        }
        for (row, why) in unread.iter().take(SHOWN) {
            text.push_str(&format!("  row {row}: {why}\n"));
        }
        if unread.len() > SHOWN {
            text.push_str(&format!("  and {} more rows without a verdict\n", unread.len() - SHOWN));
        }
        caveats.iter().for_each(|caveat| text.push_str(&format!("- {caveat}\n  {}\n", caveat.advice())));
        text
    })
}

/// A task in a line.
fn line(task: &ImportedTask) -> String {
    let metrics: Vec<String> = task.metrics.iter().map(|metric| metric.key.to_string()).collect();
    let alone = task.metrics.iter().any(|metric| metric.aggregate.is_some());
    let what = match task.metrics.iter().filter_map(ImportedMetric::n).max() {
        Some(n) if alone => format!("means only, over {}; compared unpaired", counted(n, "document")),
        Some(n) => counted(n, "document"),
        None => "means only, over an unknown number of documents; compared unpaired".to_owned(),
    };
    format!("{}: {what}; {}", task.id, metrics.join(", "))
}

/// Number of groups above a task.
fn depth(record: &ImportRecord, task: &ImportedTask) -> usize {
    let (mut depth, mut at) = (0, task);
    while let Some(above) =
        at.group.as_deref().and_then(|group| record.task(group)).filter(|_| depth < record.tasks.len())
    {
        (depth, at) = (depth + 1, above);
    }
    depth
}
