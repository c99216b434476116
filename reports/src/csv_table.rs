//! CSV: one line a task, metric and model; further ones for pairs without the base where all pairs are compared.

use harness_metrics::comparison::Comparison;

use crate::{ReportError, document::contrast, escape::csv_escape as text};

/// The header of [`csv`].
const HEADER: [&str; 36] = [
    "task",
    "label",
    "group",
    "depth",
    "pooled",
    "metric",
    "filter",
    "higher_is_better",
    "scale",
    "primary",
    "n",
    "clusters",
    "family",
    "model",
    "value",
    "low",
    "high",
    "interval_method",
    "unparsed",
    "difference",
    "difference_low",
    "difference_high",
    "difference_method",
    "test",
    "p",
    "p_corrected",
    "verdict",
    "equivalent",
    "against",
    "equivalence_p",
    "equivalence_p_corrected",
    "detectable",
    "needed",
    "won",
    "lost",
    "noise",
];

/// The comparison as CSV in UTF-8 with a header; numbers in full precision and in the metric's own unit, empty where
/// there is none. Texts that a spreadsheet would run begin with an apostrophe, [`csv_escape`](crate::csv_escape).
///
/// # Errors
/// If the table cannot be serialised.
pub fn csv(comparison: &Comparison) -> Result<String, ReportError> {
    let failed = |error: &dyn std::fmt::Display| ReportError::Serialise(error.to_string());
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(HEADER).map_err(|e| failed(&e))?;
    for row in &comparison.rows {
        let with_base = row.cells.iter().map(|cell| (cell, contrast(row, &cell.model)));
        let base = row.cells.first().map(|cell| cell.model.as_str()).unwrap_or_default();
        let others = row.contrasts.iter().filter(|contrast| !contrast.against.is_empty() && contrast.against != base);
        let others = others.filter_map(|contrast| {
            let cell = row.cells.iter().find(|cell| cell.model == contrast.model)?;
            Some((cell, Some(contrast)))
        });
        for (cell, contrast) in with_base.chain(others) {
            let difference = contrast.and_then(|contrast| contrast.interval);
            writer
                .write_record([
                    text(&row.task),
                    text(&row.label),
                    row.group.as_deref().map(text).unwrap_or_default(),
                    row.depth.to_string(),
                    row.pooled.to_string(),
                    text(&row.key.metric),
                    text(&row.key.filter),
                    row.higher_is_better.to_string(),
                    name(&row.scale),
                    row.primary.to_string(),
                    row.n.map(|n| n.to_string()).unwrap_or_default(),
                    row.clusters.map(|n| n.to_string()).unwrap_or_default(),
                    text(&row.family),
                    text(&cell.model),
                    number(cell.value),
                    number(cell.interval.map(|interval| interval.low)),
                    number(cell.interval.map(|interval| interval.high)),
                    name(&cell.method),
                    cell.unparsed.to_string(),
                    number(contrast.and_then(|contrast| contrast.difference)),
                    number(difference.map(|interval| interval.low)),
                    number(difference.map(|interval| interval.high)),
                    contrast.map(|contrast| name(&contrast.method)).unwrap_or_default(),
                    contrast.and_then(|contrast| contrast.test).map(|test| name(&test)).unwrap_or_default(),
                    number(contrast.and_then(|contrast| contrast.p)),
                    number(contrast.and_then(|contrast| contrast.p_corrected)),
                    contrast.map(|contrast| contrast.verdict.to_string()).unwrap_or_default(),
                    contrast.and_then(|contrast| contrast.equivalent).map(|e| e.to_string()).unwrap_or_default(),
                    contrast.map(|contrast| text(&contrast.against)).unwrap_or_default(),
                    number(contrast.and_then(|contrast| contrast.equivalence_p)),
                    number(contrast.and_then(|contrast| contrast.equivalence_p_corrected)),
                    number(contrast.and_then(|contrast| contrast.detectable)),
                    contrast.and_then(|contrast| contrast.needed).map(|n| n.to_string()).unwrap_or_default(),
                    contrast.and_then(|contrast| contrast.flips).map(|f| f.won.to_string()).unwrap_or_default(),
                    contrast.and_then(|contrast| contrast.flips).map(|f| f.lost.to_string()).unwrap_or_default(),
                    number(row.noise),
                ])
                .map_err(|e| failed(&e))?;
        }
    }
    let bytes = writer.into_inner().map_err(|e| failed(&e))?;
    String::from_utf8(bytes).map_err(|e| failed(&e))
}

/// The shortest decimal that reads back as the same number.
fn number(value: Option<f64>) -> String {
    value.map(|value| format!("{value:?}")).unwrap_or_default()
}

/// A unit variant's name as it is serialised.
fn name(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
