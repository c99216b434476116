//! From tables to rows, families and verdicts.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Cell, Column, Comparison, ComparisonError, Contrast, Family, IntervalMethod, ModelFacts, Pairs, Ranked, Row,
    SCHEMA_VERSION, Settings, Table, Verdict,
    alignment::Aligned,
    audit, checks, imports,
    inference::{Finding, Inference, POWER},
    unpaired::{Estimate, unpaired},
};
use crate::stats::{Correction, PairedPower, compatible_groups};

/// Power by number of units, and the number there is.
type Power = Option<(PairedPower, f64)>;

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
        Self::compute_watched(tables, facts, settings, &mut || true)
    }

    /// The same; `next` is called before each row of the result, and says whether to go on.
    ///
    /// # Errors
    /// As [`Comparison::compute`], and [`ComparisonError::Stopped`].
    pub fn compute_watched(
        tables: &[Table],
        facts: &[ModelFacts],
        settings: &Settings,
        next: &mut dyn FnMut() -> bool,
    ) -> Result<Self, ComparisonError> {
        settings.validate()?;
        let models = models(tables)?;
        if let Some(unknown) = facts.iter().find(|facts| !models.contains(&facts.model)) {
            let (found, expected) = (unknown.model.clone(), models.join(", "));
            return Err(ComparisonError::UnknownFacts { found, expected });
        }
        let mut rows = Vec::with_capacity(tables.len());
        let mut caveats = Vec::new();
        let (mut dropped, mut powers, mut same_scores, mut seen) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for table in tables {
            if !next() {
                return Err(ComparisonError::Stopped);
            }
            let aligned = Aligned::new(table, settings.alignment)?;
            dropped.extend(checks::dropped(table, &aligned));
            let (row, power) = row(table, &aligned, tables, settings);
            same_scores.extend(audit::same_scores(table, &aligned, facts));
            seen.extend(audit::seen(table, &aligned, &row, facts));
            rows.push(row);
            powers.push(power);
        }
        let families = decide(&mut rows, &powers, settings);
        caveats.extend(checks::models(&models, facts));
        caveats.extend(imports::models(&models, facts, &rows));
        caveats.extend(audit::models(&models, facts));
        caveats.extend(audit::same_scores_caveat(same_scores));
        caveats.extend(audit::seen_caveat(seen));
        caveats.extend(audit::rows(&rows, facts));
        caveats.extend(imports::unpaired(tables, facts));
        caveats.extend(imports::incomplete(&models, facts, &rows));
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

/// A row without verdicts, and the power of its contrasts with the number of units they have.
fn row(table: &Table, aligned: &Aligned, tables: &[Table], settings: &Settings) -> (Row, Vec<Power>) {
    let range = table.range();
    let inference = Inference::new(&aligned.columns, aligned.clusters.as_deref(), table.scale, settings);
    let position = |column: usize| aligned.with_scores.iter().position(|&j| j == column);
    let value = |column: usize| match position(column) {
        Some(j) => inference.value(j),
        None => table.columns[column].aggregate.map(|known| known.value).filter(|value| value.is_finite()),
    };
    let estimate = |column: usize| -> Option<Estimate> {
        let (standard_error, n) = match (position(column), table.columns[column].aggregate) {
            (Some(j), _) => (inference.standard_error(j), Some(aligned.columns.units())),
            (None, Some(known)) => (known.standard_error.filter(|error| error.is_finite()), known.n),
            (None, None) => (None, None),
        };
        Some(Estimate { value: value(column)?, standard_error, n })
    };
    let cell = |(j, column): (usize, &Column)| {
        let (interval, method, unparsed) = match position(j) {
            Some(at) => {
                let (interval, method) = inference.cell(at);
                (interval, method, aligned.unparsed[at])
            }
            None => match estimate(j).and_then(|estimate| estimate.interval(settings.confidence)) {
                Some(interval) => (Some(interval), IntervalMethod::Normal, 0),
                None => (None, IntervalMethod::None, 0),
            },
        };
        let interval = interval.map(|interval| range.cut(interval));
        Cell { model: column.model.clone(), value: value(j), interval, method, unparsed }
    };
    let contrast = |a: usize, b: usize| {
        let found = match (position(a), position(b)) {
            (Some(a), Some(b)) => inference.contrast(a, b, table.scale),
            _ => match estimate(a).zip(estimate(b)) {
                Some((one, other)) => unpaired(one, other, table.scale.margin(settings.margin, value(a)), settings),
                None => Finding::default(),
            },
        };
        let contrast = Contrast {
            model: table.columns[b].model.clone(),
            against: table.columns[a].model.clone(),
            difference: value(b).zip(value(a)).map(|(candidate, base)| candidate - base),
            interval: found.interval.map(|interval| range.of_differences().cut(interval)),
            method: found.method.unwrap_or(IntervalMethod::None),
            test: found.test,
            p: found.p,
            p_corrected: None,
            verdict: Verdict::Undecided,
            equivalence_p: found.equivalence_p.filter(|p| !p.is_nan()),
            equivalence_p_corrected: None,
            equivalent: None,
            detectable: None,
            needed: None,
            flips: found.flips,
        };
        (contrast, found.power)
    };
    let last = if settings.pairs == Pairs::All { table.columns.len() } else { table.columns.len().min(1) };
    let pairs = (0..last).flat_map(|a| (a + 1..table.columns.len()).map(move |b| (a, b)));
    let (contrasts, powers) = pairs.map(|(a, b)| contrast(a, b)).unzip();
    let known = table.columns.iter().filter_map(|column| column.aggregate.and_then(|known| known.n)).min();
    let row = Row {
        task: table.task.clone(),
        label: table.alias.clone().unwrap_or_else(|| table.task.clone()),
        group: table.group.clone(),
        depth: table.depth,
        pooled: table.pooled,
        key: table.key.clone(),
        higher_is_better: table.higher_is_better,
        scale: table.scale,
        primary: table.primary,
        n: if aligned.with_scores.is_empty() { known } else { Some(aligned.columns.units()) },
        clusters: aligned.clusters.as_ref().map(|_| inference.units()),
        family: family(table, tables),
        margin: table.scale.margin(settings.margin, value(0)),
        cells: table.columns.iter().enumerate().map(cell).collect(),
        contrasts,
        noise: table.noise,
        range,
        judged: table.judged,
        ranking: Vec::new(),
    };
    (row, powers)
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

/// Corrects p-values family by family and sets the verdicts, with what would have been needed for others.
fn decide(rows: &mut [Row], powers: &[Vec<Power>], settings: &Settings) -> Vec<Family> {
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
        // A test of equivalence that cannot be made counts as one that shows nothing.
        let equivalence: Vec<f64> =
            members.iter().map(|&(i, j)| rows[i].contrasts[j].equivalence_p.unwrap_or(1.0)).collect();
        let corrected = settings.correction.adjust(&raw).into_iter().zip(settings.correction.adjust(&equivalence));
        // What one difference alone would have to reach whatever the others do.
        let level = if settings.correction == Correction::None { 1.0 } else { members.len() as f64 };
        let level = settings.alpha / level;
        let mut decided = 0;
        for (&(i, j), (p, equivalence)) in members.iter().zip(corrected) {
            let (higher_is_better, margin, noise) = (rows[i].higher_is_better, rows[i].margin, rows[i].noise);
            let documents = rows[i].n.unwrap_or_default() as f64;
            let contrast = &mut rows[i].contrasts[j];
            contrast.p_corrected = Some(p);
            contrast.equivalence_p_corrected = contrast.equivalence_p.map(|_| equivalence);
            contrast.equivalent = contrast.equivalence_p_corrected.map(|p| p <= settings.alpha);
            let above_noise = |difference: f64| noise.is_none_or(|noise| difference.abs() > noise);
            contrast.verdict = match contrast.difference {
                Some(difference) if p <= settings.alpha && difference != 0.0 && above_noise(difference) => {
                    if (difference > 0.0) == higher_is_better {
                        Verdict::Better
                    } else {
                        Verdict::Worse
                    }
                }
                _ if contrast.equivalent == Some(true) => Verdict::Equivalent,
                _ => Verdict::Undecided,
            };
            if let Some((power, units)) = powers[i][j] {
                contrast.detectable = power.detectable(units, level, POWER);
                if contrast.verdict == Verdict::Undecided {
                    let needed = contrast.difference.and_then(|difference| {
                        let differs = power.needed(difference, level, POWER);
                        let same = margin.and_then(|m| power.needed_for_equivalence(difference, m, level, POWER));
                        differs.into_iter().chain(same).min()
                    });
                    contrast.needed = needed.map(|needed| (needed as f64 * documents / units).ceil() as u64);
                }
            }
            decided += usize::from(contrast.verdict != Verdict::Undecided);
        }
        families.push(Family { name, tests: members.len(), decided });
    }
    if settings.pairs == Pairs::All {
        rows.iter_mut().for_each(rank);
    }
    families
}

/// Orders the models of a row and groups those that are not told apart.
fn rank(row: &mut Row) {
    let mut order: Vec<(usize, f64)> =
        row.cells.iter().enumerate().filter_map(|(j, cell)| Some((j, cell.value?))).collect();
    order.sort_by(|a, b| if row.higher_is_better { b.1.total_cmp(&a.1) } else { a.1.total_cmp(&b.1) });
    let name = |place: usize| row.cells[order[place].0].model.as_str();
    let decided = |one: usize, other: usize| {
        let (one, other) = (name(one), name(other));
        row.contrasts.iter().any(|contrast| {
            let pair = (contrast.model.as_str(), contrast.against.as_str());
            (pair == (one, other) || pair == (other, one))
                && matches!(contrast.verdict, Verdict::Better | Verdict::Worse)
        })
    };
    let groups = compatible_groups(order.len(), decided);
    row.ranking = (0..order.len())
        .map(|place| Ranked {
            model: name(place).to_owned(),
            groups: (0..groups.len()).filter(|&group| groups[group].contains(&place)).collect(),
        })
        .collect();
}
