//! Verdicts and methods in sentences.

use harness_metrics::{
    comparison::{Comparison, Contrast, IntervalMethod, Row, Scale, Verdict},
    stats::Correction,
};

use crate::number::count;

/// How many tasks a sentence names.
const NAMED: usize = 8;

/// A verdict in a table cell.
pub(crate) fn verdict(contrast: &Contrast) -> String {
    match (contrast.verdict, contrast.equivalent) {
        (Verdict::Undecided, Some(true)) => "undecided, equivalent".into(),
        (verdict, _) => verdict.to_string(),
    }
}

/// One sentence a candidate over the main results.
pub(crate) fn summary(comparison: &Comparison) -> Vec<(String, String)> {
    let main: Vec<&Row> = comparison.rows.iter().filter(|row| row.primary && row.depth == 0).collect();
    let base = comparison.base().unwrap_or_default();
    let sentence = |model: &String| {
        let of = |verdict: Verdict| {
            let found = |row: &&&Row| row.contrasts.iter().any(|c| &c.model == model && c.verdict == verdict);
            main.iter().filter(found).map(|row| row.label.as_str()).collect::<Vec<_>>()
        };
        let part = |verdict: Verdict| {
            let labels = of(verdict);
            let more = if labels.len() > NAMED { format!(" and {} more", labels.len() - NAMED) } else { String::new() };
            let named = labels.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
            (!labels.is_empty()).then(|| format!("{verdict} on {named}{more}"))
        };
        let parts: Vec<String> =
            [Verdict::Better, Verdict::Worse, Verdict::Undecided].into_iter().filter_map(part).collect();
        let parts = if parts.is_empty() { "nothing to decide".into() } else { parts.join("; ") };
        (model.clone(), format!("against {base}: {parts}."))
    };
    comparison.candidates().iter().map(sentence).collect()
}

/// How the numbers were made, one statement a line.
pub(crate) fn methods(comparison: &Comparison) -> Vec<String> {
    let settings = &comparison.settings;
    let percent = settings.confidence * 100.0;
    let intervals: Vec<IntervalMethod> = used(
        comparison
            .rows
            .iter()
            .flat_map(|row| row.cells.iter().map(|c| c.method).chain(row.contrasts.iter().map(|c| c.method)))
            .filter(|method| *method != IntervalMethod::None),
    );
    let mut lines = vec![if intervals.is_empty() {
        format!("Intervals: {percent:.0} %; none could be estimated.")
    } else {
        format!(
            "Intervals: {percent:.0} %, by {}; ± is half the width. Documents are resampled jointly for all models.",
            intervals.iter().map(|method| method.label()).collect::<Vec<_>>().join(", ")
        )
    }];
    let tests = used(comparison.rows.iter().flat_map(|row| row.contrasts.iter().filter_map(|c| c.test)));
    if !tests.is_empty() {
        let families: Vec<String> =
            comparison.families.iter().map(|family| format!("{} ({})", family.name, count(family.tests))).collect();
        let correction = match settings.correction {
            Correction::None => "p is not corrected for the number of tests".to_owned(),
            correction => format!("p is corrected within families by {}", correction.label()),
        };
        lines.push(format!(
            "Tests: two-sided, paired by document: {}; {correction}: {}.",
            tests.iter().map(|test| test.label()).collect::<Vec<_>>().join(", "),
            families.join(", ")
        ));
        lines.push(format!(
            "Verdicts: better or worse where corrected p ≤ {}; undecided means that these documents do not show a difference, not \
             that there is none. Equivalent: the difference was shown to lie within the margin of {}.",
            settings.alpha,
            margin(comparison)
        ));
    }
    lines.push(format!("Resamples: {}; seed {}.", count(settings.resamples), settings.seed));
    lines
}

fn margin(comparison: &Comparison) -> String {
    let relative = comparison.rows.iter().any(|row| row.scale == Scale::Raw);
    let percent = comparison.settings.margin * 100.0;
    let points = format!("{percent} {}", if percent == 1.0 { "point" } else { "points" });
    if relative { format!("{points} ({percent} % of the base's value for metrics without a scale)") } else { points }
}

/// The distinct values in their order.
fn used<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    values.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}
