//! From tables to rows, families and verdicts.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Cell, Comparison, ComparisonError, Contrast, Family, ModelFacts, Row, SCHEMA_VERSION, Settings, Table, Verdict,
    alignment::Aligned, checks, inference::Inference,
};

/// Name of the family of tasks and groups asked for by name.
const MAIN_FAMILY: &str = "main results";
/// Name of the family of metrics that are not a task's main one.
const OTHER_FAMILY: &str = "other metrics";

impl Comparison {
    /// Compares the models of the tables; the first column of each is the base.
    ///
    /// p-values are corrected within families: primary metrics of the tasks and groups at depth 0 (`main results`), of
    /// the members of one such group (`within GROUP`), and all other metrics (`other metrics`). Differences at depth 0
    /// are thus not diluted by the many subjects of a group.
    ///
    /// # Errors
    /// If a setting is out of range, tables disagree about the models, models were not scored on the same documents
    /// (unless the settings ask for the shared ones), or a score is not finite.
    pub fn compute(tables: &[Table], facts: &[ModelFacts], settings: &Settings) -> Result<Self, ComparisonError> {
        settings.validate()?;
        let models = models(tables)?;
        if let Some(unknown) = facts.iter().find(|facts| !models.contains(&facts.model)) {
            let (found, expected) = (unknown.model.clone(), models.join(", "));
            return Err(ComparisonError::UnknownFacts { found, expected });
        }
        let mut rows = Vec::with_capacity(tables.len());
        let mut caveats = Vec::new();
        let mut dropped = Vec::new();
        for table in tables {
            let aligned = Aligned::new(table, settings.alignment)?;
            dropped.extend(checks::dropped(table, &aligned));
            rows.push(row(table, &aligned, tables, settings));
        }
        let families = decide(&mut rows, settings);
        caveats.extend(checks::models(&models, facts));
        caveats.extend(checks::partial_overlap(dropped));
        caveats.extend(checks::rows(&rows, settings));
        caveats.extend(checks::resamples(&rows, &families, settings));
        caveats.extend(checks::answers(&rows, &models, facts));
        Ok(Self { schema: SCHEMA_VERSION, models, settings: settings.clone(), families, rows, caveats })
    }
}

/// The models of the first table, after checking that all tables have the same.
fn models(tables: &[Table]) -> Result<Vec<String>, ComparisonError> {
    let names = |table: &Table| table.columns.iter().map(|column| column.model.clone()).collect::<Vec<_>>();
    let first = tables.first().ok_or_else(|| ComparisonError::Nothing { what: "no task was scored".into() })?;
    let models = names(first);
    if models.is_empty() {
        return Err(ComparisonError::Nothing { what: format!("task `{}` has no model", first.task) });
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = models.iter().find(|model| !seen.insert(*model)) {
        return Err(ComparisonError::DuplicateModel(twice.clone()));
    }
    let mut keys = BTreeSet::new();
    for table in tables {
        if names(table) != models {
            let (found, expected) = (names(table).join(", "), models.join(", "));
            return Err(ComparisonError::Models { at: table.place(), found, expected });
        }
        if !keys.insert((&table.task, &table.key)) {
            return Err(ComparisonError::DuplicateTable { at: table.place() });
        }
    }
    Ok(models)
}

fn row(table: &Table, aligned: &Aligned, tables: &[Table], settings: &Settings) -> Row {
    let inference = Inference::new(&aligned.columns, aligned.clusters.as_deref(), settings);
    let cells = table
        .columns
        .iter()
        .enumerate()
        .map(|(j, column)| {
            let (interval, method) = inference.cell(j);
            let unparsed = aligned.unparsed[j];
            Cell { model: column.model.clone(), value: inference.value(j), interval, method, unparsed }
        })
        .collect();
    let contrasts = table
        .columns
        .iter()
        .enumerate()
        .skip(1)
        .map(|(j, column)| {
            let found = inference.contrast(j, table.scale);
            Contrast {
                model: column.model.clone(),
                difference: inference.value(j).zip(inference.value(0)).map(|(candidate, base)| candidate - base),
                interval: found.interval,
                method: found.method,
                test: found.test,
                p: found.p,
                p_corrected: None,
                verdict: Verdict::Undecided,
                equivalent: found.equivalent,
                detectable: found.detectable,
            }
        })
        .collect();
    Row {
        task: table.task.clone(),
        label: table.alias.clone().unwrap_or_else(|| table.task.clone()),
        group: table.group.clone(),
        depth: table.depth,
        pooled: table.pooled,
        key: table.key.clone(),
        higher_is_better: table.higher_is_better,
        scale: table.scale,
        primary: table.primary,
        n: aligned.columns.units(),
        clusters: aligned.clusters.as_ref().map(|_| inference.units()),
        family: family(table, tables),
        margin: table.scale.margin(settings.margin, inference.value(0)),
        cells,
        contrasts,
    }
}

/// The family a table's p-values belong to.
fn family(table: &Table, tables: &[Table]) -> String {
    if !table.primary {
        return OTHER_FAMILY.into();
    }
    if table.depth == 0 {
        return MAIN_FAMILY.into();
    }
    let mut top = table.group.as_deref().unwrap_or(&table.task);
    // Bounded, so that groups that contain each other end somewhere.
    for _ in 0..tables.len() {
        match tables.iter().find(|other| other.task == top).and_then(|other| other.group.as_deref()) {
            Some(above) => top = above,
            None => break,
        }
    }
    format!("within {top}")
}

/// Corrects p-values family by family and sets the verdicts.
fn decide(rows: &mut [Row], settings: &Settings) -> Vec<Family> {
    let mut order: Vec<String> = Vec::new();
    let mut members: BTreeMap<String, Vec<(usize, usize)>> = BTreeMap::new();
    for (i, row) in rows.iter().enumerate() {
        for (j, contrast) in row.contrasts.iter().enumerate() {
            if contrast.p.is_some() {
                if !order.contains(&row.family) {
                    order.push(row.family.clone());
                }
                members.entry(row.family.clone()).or_default().push((i, j));
            }
        }
    }
    let mut families = Vec::new();
    for name in order {
        let members = &members[&name];
        let raw: Vec<f64> = members.iter().filter_map(|&(i, j)| rows[i].contrasts[j].p).collect();
        let mut decided = 0;
        for (&(i, j), corrected) in members.iter().zip(settings.correction.adjust(&raw)) {
            let higher_is_better = rows[i].higher_is_better;
            let contrast = &mut rows[i].contrasts[j];
            contrast.p_corrected = Some(corrected);
            contrast.verdict = match contrast.difference {
                Some(difference) if corrected <= settings.alpha && difference != 0.0 => {
                    if (difference > 0.0) == higher_is_better { Verdict::Better } else { Verdict::Worse }
                }
                _ => Verdict::Undecided,
            };
            decided += usize::from(contrast.verdict != Verdict::Undecided);
        }
        families.push(Family { name, tests: members.len(), decided });
    }
    families
}
