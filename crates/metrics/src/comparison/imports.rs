//! Audits of results that other tools made: what their files say, and what they leave out.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Caveat, Cell, Incomplete, IntervalMethod, ModelFacts, NoiseFloor, Row, Scale, ZeroFilter, facts::ordered,
    table::Table,
};

/// Rows with equal means from which they are no accident: shares of a few hundred documents are equal now and then.
const EQUAL_ROWS: usize = 3;

/// Imports of the same files, of one model under two names, and with the same values everywhere.
pub(super) fn models(models: &[String], facts: &[ModelFacts], rows: &[Row]) -> Vec<Caveat> {
    let imported: Vec<&ModelFacts> = ordered(models, facts).into_iter().filter(|of| of.source.is_some()).collect();
    let mut caveats = Vec::new();
    for (i, a) in imported.iter().enumerate() {
        for b in &imported[i + 1..] {
            let models = [a.model.clone(), b.model.clone()];
            let shared: Vec<String> =
                a.files.iter().filter(|(hash, _)| b.files.contains_key(hash)).map(|(_, name)| name.clone()).collect();
            // One file can hold several models, of which each was taken once.
            let other_part = shared.len() == a.files.len().max(b.files.len());
            if a.source == b.source {
                caveats.push(Caveat::SameFile { models, files: vec![] });
            } else if same_means(rows, &models) {
                let compared = both(rows, &models).count();
                caveats.push(Caveat::SameMeans { models, rows: compared });
            } else if !shared.is_empty() && !other_part {
                caveats.push(Caveat::SameFile { models, files: shared });
            } else if let Some(told) = a.told.as_ref().filter(|told| b.told.as_ref() == Some(told) && same_way(a, b)) {
                let (told, largest) = (told.clone(), largest(rows, &models));
                caveats.push(Caveat::SameModelRuns { models, told, largest });
            }
        }
    }
    caveats
}

/// Whether two models were run in the same way, as far as both files tell.
fn same_way(a: &ModelFacts, b: &ModelFacts) -> bool {
    let same = |a: &BTreeMap<String, String>, b: &BTreeMap<String, String>| {
        a.iter().all(|(name, value)| b.get(name).is_none_or(|other| other == value))
    };
    let mut both = a.tasks.iter().filter_map(|(task, of)| Some((of, b.tasks.get(task)?)));
    same(&a.conditions, &b.conditions) && both.all(|(one, other)| same(&one.conditions, &other.conditions))
}

/// The rows with values of both models.
fn both<'a>(rows: &'a [Row], models: &'a [String; 2]) -> impl Iterator<Item = (&'a Row, [f64; 2])> {
    rows.iter().filter_map(move |row| {
        let value = |model: &String| row.cells.iter().find(|cell| &cell.model == model)?.value;
        Some((row, [value(&models[0])?, value(&models[1])?]))
    })
}

/// Whether the means of two models are the same everywhere, and not only where they could hardly be otherwise. Where
/// documents are known, equal scores say more.
fn same_means(rows: &[Row], models: &[String; 2]) -> bool {
    let all: Vec<(&Row, [f64; 2])> = both(rows, models).collect();
    let means = all.iter().all(|(row, _)| row.cells.iter().filter(|cell| models.contains(&cell.model)).all(is_mean));
    let telling = all.iter().filter(|(_, [one, _])| *one != 0.0 && *one != 1.0).count();
    means && telling >= EQUAL_ROWS && all.iter().all(|(_, [one, other])| one == other)
}

/// Whether only a mean is known: the intervals of documents are made in other ways.
fn is_mean(cell: &Cell) -> bool {
    matches!(cell.method, IntervalMethod::Normal | IntervalMethod::None)
}

/// The largest difference of two models in shares, points and other units each.
fn largest(rows: &[Row], models: &[String; 2]) -> Vec<NoiseFloor> {
    let mut largest: Vec<NoiseFloor> = Vec::new();
    for (row, [one, other]) in both(rows, models).filter(|(_, [one, other])| one != other) {
        let found = NoiseFloor {
            task: row.task.clone(),
            key: row.key.clone(),
            scale: row.scale,
            difference: (one - other).abs(),
        };
        // Numbers without a scale are not comparable with each other.
        let known = largest.iter_mut().find(|known| known.scale == row.scale && row.scale != Scale::Raw);
        match known {
            Some(known) if known.difference >= found.difference => {}
            Some(known) => *known = found,
            None => largest.push(found),
        }
    }
    largest
}

/// Imported values that are exactly 0 behind a filter: for all models, or beside another filter that gives more.
pub(super) fn zero_filters(rows: &[Row], facts: &[ModelFacts]) -> Vec<ZeroFilter> {
    let imported = |model: &str| facts.iter().any(|facts| facts.model == model && facts.source.is_some());
    let mut found = Vec::new();
    for row in rows.iter().filter(|row| !row.pooled && row.higher_is_better && row.key.filter != "none") {
        let siblings: Vec<&Row> = rows
            .iter()
            .filter(|o| o.task == row.task && o.key.metric == row.key.metric && o.key.filter != row.key.filter)
            .collect();
        let valued = row.cells.iter().filter(|cell| cell.value.is_some()).count();
        let zero = row.cells.iter().filter(|cell| cell.value == Some(0.0));
        let all = valued > 0 && zero.clone().count() == valued;
        let mut models = Vec::new();
        let mut beside: Option<(harness_core::MetricKey, f64)> = None;
        // Where documents are known, it is known too which answers were read.
        for cell in zero.filter(|cell| is_mean(cell)).filter(|cell| imported(&cell.model)) {
            let other = siblings
                .iter()
                .filter_map(|other| {
                    let value = other.cells.iter().find(|of| of.model == cell.model)?.value?;
                    (value > 0.0).then(|| (other.key.clone(), value))
                })
                .max_by(|a, b| a.1.total_cmp(&b.1));
            if all || other.is_some() {
                models.push(cell.model.clone());
            }
            if let Some(other) = other
                && beside.as_ref().is_none_or(|known| known.1 < other.1)
            {
                beside = Some(other);
            }
        }
        if !models.is_empty() {
            found.push(ZeroFilter { task: row.task.clone(), key: row.key.clone(), models, all, beside });
        }
    }
    found
}

/// Models of which only imported means are known somewhere.
pub(super) fn unpaired(tables: &[Table], facts: &[ModelFacts]) -> Option<Caveat> {
    let imported: BTreeSet<&String> =
        facts.iter().filter(|facts| facts.source.is_some()).map(|facts| &facts.model).collect();
    let columns = tables.iter().filter(|table| !table.judged).flat_map(|table| &table.columns);
    let means = columns.filter(|column| column.aggregate.is_some_and(|known| known.value.is_finite()));
    let models: BTreeSet<&String> =
        means.map(|column| &column.model).filter(|model| imported.contains(model)).collect();
    (!models.is_empty()).then(|| Caveat::Unpaired { models: models.into_iter().cloned().collect() })
}

/// Results over a part of a benchmark; a group speaks for its tasks.
pub(super) fn incomplete(models: &[String], facts: &[ModelFacts], rows: &[Row]) -> Option<Caveat> {
    let above: BTreeMap<&str, &str> =
        rows.iter().filter_map(|row| Some((row.task.as_str(), row.group.as_deref()?))).collect();
    let mut parts = Vec::new();
    for of in ordered(models, facts) {
        let partly = |task: &str| of.tasks.get(task).is_some_and(|of| of.coverage.is_some());
        let within_another = |task: &str| {
            let mut at = task;
            // Bounded, so that groups that contain each other end somewhere.
            (0..rows.len()).any(|_| match above.get(at) {
                Some(group) => {
                    at = *group;
                    partly(at)
                }
                None => false,
            })
        };
        for (task, facts) in of.tasks.iter().filter(|(task, _)| !within_another(task)) {
            if let Some(coverage) = &facts.coverage {
                parts.push(Incomplete { task: task.clone(), model: of.model.clone(), coverage: coverage.clone() });
            }
        }
    }
    (!parts.is_empty()).then_some(Caveat::IncompleteBenchmark { parts })
}
