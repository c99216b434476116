//! The parts every rendering shares: sections, layouts, and which value is best.

use harness_metrics::comparison::{Comparison, Contrast, Row, Scale, Verdict};

use crate::number::documents;

/// Most models that stand side by side in one table.
pub(crate) const SIDE_BY_SIDE: usize = 4;

/// The rows of one family, in order.
pub(crate) struct Section<'a> {
    /// The family's name with a capital.
    pub(crate) title: String,
    /// Its rows.
    pub(crate) rows: Vec<&'a Row>,
}

/// The rows by family: the main results first, then in order of appearance.
pub(crate) fn sections(comparison: &Comparison) -> Vec<Section<'_>> {
    let mut names: Vec<&str> = Vec::new();
    for row in &comparison.rows {
        if !names.contains(&row.family.as_str()) {
            names.push(&row.family);
        }
    }
    let section = |name: &str| {
        let rows = comparison.rows.iter().filter(|row| row.family == name).collect();
        let mut letters = name.chars();
        let title = letters.next().map(|c| c.to_uppercase().chain(letters).collect()).unwrap_or_default();
        Section { title, rows }
    };
    names.into_iter().map(section).collect()
}

/// Whether models stand side by side; otherwise each has a line of its own.
pub(crate) fn side_by_side(comparison: &Comparison) -> bool {
    comparison.models.len() <= SIDE_BY_SIDE
}

/// The model whose value is to be set in bold: the best of the row, if it is a candidate that was found better.
pub(crate) fn bold(row: &Row) -> Option<&str> {
    let better = |a: f64, b: f64| if row.higher_is_better { a > b } else { a < b };
    let mut best: Option<(&str, f64)> = None;
    for cell in &row.cells {
        if let Some(value) = cell.value
            && best.is_none_or(|(_, so_far)| better(value, so_far))
        {
            best = Some((&cell.model, value));
        }
    }
    let (model, _) = best?;
    contrast(row, model).filter(|contrast| contrast.verdict == Verdict::Better).map(|_| model)
}

/// The contrast of a model with the base, unless it is the base.
pub(crate) fn contrast<'a>(row: &'a Row, model: &str) -> Option<&'a Contrast> {
    row.with_base().find(|contrast| contrast.model == model)
}

/// Whether every model is compared with every other.
pub(crate) fn all_pairs(comparison: &Comparison) -> bool {
    comparison.rows.iter().any(|row| !row.ranking.is_empty())
}

/// The letters of the groups of a ranking, e.g. `ab`; after z, numbers.
pub(crate) fn letters(groups: &[usize]) -> String {
    let letter = |&group: &usize| {
        u8::try_from(group).ok().filter(|&g| g < 26).map_or_else(|| group.to_string(), |g| ((b'a' + g) as char).into())
    };
    groups.iter().map(letter).collect()
}

/// The label of a row, indented by its depth with the given text.
pub(crate) fn label(row: &Row, top: usize, indent: &str) -> String {
    format!("{}{}", indent.repeat(row.depth.saturating_sub(top)), row.label)
}

/// The smallest depth in a section, from which labels are indented.
pub(crate) fn top(rows: &[&Row]) -> usize {
    rows.iter().map(|row| row.depth).min().unwrap_or_default()
}

/// What stands below a row's label where every model has a line: metric, filter if there is one, documents.
pub(crate) fn description(row: &Row, up: &str, down: &str) -> Vec<String> {
    let mut parts = vec![unfiltered(row, up, down)];
    if row.key.filter != "none" {
        parts.push(row.key.filter.clone());
    }
    parts.push(format!("n = {}", documents(row.n)));
    parts
}

/// The metric with its filter, unit and direction, e.g. `acc, % ↑`.
pub(crate) fn metric(row: &Row, up: &str, down: &str) -> String {
    match row.key.filter.as_str() {
        "none" => unfiltered(row, up, down),
        filter => unfiltered(row, up, down).replacen(&row.key.metric, &format!("{} {filter}", row.key.metric), 1),
    }
}

fn unfiltered(row: &Row, up: &str, down: &str) -> String {
    let unit = if row.scale == Scale::Fraction { ", %" } else { "" };
    format!("{}{unit} {}", row.key.metric, if row.higher_is_better { up } else { down })
}
