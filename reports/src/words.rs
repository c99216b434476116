//! Verdicts and methods in sentences.

use harness_metrics::{
    comparison::{Comparison, Contrast, IntervalMethod, Row, Scale, TestMethod, Verdict},
    stats::Correction,
};

use crate::number::{Spread, Style, count};

/// How many tasks a sentence names.
const NAMED: usize = 8;

/// A verdict in a table cell.
pub(crate) fn verdict(contrast: &Contrast) -> String {
    match (contrast.verdict, contrast.equivalent) {
        (Verdict::Better | Verdict::Worse, Some(true)) => format!("{}, within margin", contrast.verdict),
        (verdict, _) => verdict.to_string(),
    }
}

/// One sentence a candidate over the main results.
pub(crate) fn summary(comparison: &Comparison) -> Vec<(String, String)> {
    let main: Vec<&Row> = comparison.rows.iter().filter(|row| row.primary && row.depth == 0).collect();
    let base = comparison.base().unwrap_or_default();
    let sentence = |model: &String| {
        let of = |verdict: Verdict| {
            let found = |row: &&&Row| row.with_base().any(|c| &c.model == model && c.verdict == verdict);
            main.iter().filter(found).map(|row| row.label.as_str()).collect::<Vec<_>>()
        };
        let part = |verdict: Verdict| {
            let labels = of(verdict);
            let more = if labels.len() > NAMED { format!(" and {} more", labels.len() - NAMED) } else { String::new() };
            let named = labels.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
            (!labels.is_empty()).then(|| format!("{verdict} on {named}{more}"))
        };
        let parts: Vec<String> = [Verdict::Better, Verdict::Worse, Verdict::Equivalent, Verdict::Undecided]
            .into_iter()
            .filter_map(part)
            .collect();
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
        let ends =
            |row: &Row| row.cells.iter().any(|cell| matches!(Style::of(row).spread(row, cell), Some(Spread::Ends(_))));
        let cut = if comparison.rows.iter().any(ends) {
            "; if that would leave the metric's range, both ends are given instead"
        } else {
            ""
        };
        format!(
            "Intervals: {percent:.0} %, by {}; ± is half the width{cut}. Documents are resampled jointly for all models.",
            intervals.iter().map(|method| method.label()).collect::<Vec<_>>().join(", ")
        )
    }];
    let clustered: Vec<String> = comparison
        .rows
        .iter()
        .filter_map(|row| Some(format!("{} ({})", row.label, count(row.clusters?))))
        .collect::<Vec<_>>();
    if !clustered.is_empty() {
        let more = clustered.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        lines.push(format!(
            "Clusters of dependent documents are resampled and swapped whole: {}{more}.",
            clustered[..clustered.len().min(NAMED)].join(", ")
        ));
    }
    let tests = used(comparison.rows.iter().flat_map(|row| row.contrasts.iter().filter_map(|c| c.test)));
    if !tests.is_empty() {
        let families: Vec<String> =
            comparison.families.iter().map(|family| format!("{} ({})", family.name, count(family.tests))).collect();
        let correction = match settings.correction {
            Correction::None => "p is not corrected for the number of tests".to_owned(),
            correction => format!("p is corrected within families by {}", correction.label()),
        };
        lines.push(format!(
            "Tests: two-sided{}: {}; {correction}: {}.",
            if tests.contains(&TestMethod::UnpairedZ) { "" } else { ", paired by document" },
            tests.iter().map(|test| test.label()).collect::<Vec<_>>().join(", "),
            families.join(", ")
        ));
        lines.push(format!(
            "Verdicts: better or worse where corrected p ≤ {0}; equivalent where two one-sided tests, corrected alike, \
             show that the difference lies within the margin of {1}; otherwise undecided, which does not mean that \
             there is no difference.",
            settings.alpha,
            margin(comparison)
        ));
        lines.push(
            "Detectable: the smallest true difference that these documents would have shown with 80 % power after the \
             correction. To decide: about how many documents a decision needs if the observed difference is the true \
             one."
                .to_owned(),
        );
    }
    lines.extend(noise(comparison));
    lines.push(format!("Resamples: {}; seed {}.", count(settings.resamples), settings.seed));
    lines
}

/// What was found of numerical noise.
fn noise(comparison: &Comparison) -> Option<String> {
    let measured: Vec<&Row> = comparison.rows.iter().filter(|row| row.noise.is_some()).collect();
    if measured.is_empty() {
        return None;
    }
    let how =
        "some documents were scored again in other batches, in another order and, on the CPU, with activations in bf16";
    let loud: Vec<String> = measured
        .iter()
        .filter_map(|row| row.noise.filter(|&noise| noise > 0.0).map(|noise| (row, noise)))
        .map(|(row, noise)| format!("{} {} {}", row.label, row.key, Style::of(row).precise(noise)))
        .collect();
    if loud.is_empty() {
        return Some(format!("Numerical noise: {how}; no value changed."));
    }
    let more = loud.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more rows") } else { String::new() };
    Some(format!(
        "Numerical noise: {how}; largest changes: {}{more}. A smaller difference is not a verdict.",
        loud[..loud.len().min(NAMED)].join(", ")
    ))
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
