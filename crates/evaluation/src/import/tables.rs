//! Tables of imported results alone, and what of them is not compared.

use std::collections::{BTreeMap, BTreeSet};

use harness_core::MetricKey;
use harness_metrics::comparison::{Caveat, NotShared, Scale, Table};
use harness_store::nearest;
use harness_tasks::{Task as _, wildcard};

use super::record::{ImportRecord, ImportedTask};
use crate::{EvaluationError, suite::Suite};

/// One table a task and metric that all imports have, groups before their members; only those that are named, with what
/// lies in them, or all.
pub fn imported_tables(records: &[&ImportRecord], only: &[String]) -> Vec<Table> {
    let Some((first, others)) = records.split_first() else { return vec![] };
    let chosen = Chosen { records, only };
    let mut tables: Vec<Table> = vec![];
    for task in first.tasks.iter().filter(|task| chosen.holds(&task.id)) {
        for metric in &task.metrics {
            let of = |record: &&ImportRecord| {
                let same = record.task(&task.id)?.metrics.iter().find(|other| other.key == metric.key)?;
                Some((same.column(&record.name), same.scale()))
            };
            let Some(found) = others.iter().map(of).collect::<Option<Vec<_>>>() else { continue };
            let raw = metric.scale() == Scale::Raw || found.iter().any(|(_, scale)| *scale == Scale::Raw);
            let mut columns = vec![metric.column(&first.name)];
            columns.extend(found.into_iter().map(|(column, _)| column));
            let mut clusters = BTreeMap::new();
            let own = records.iter().filter_map(|record| record.task(&task.id)).flat_map(|task| &task.clusters);
            own.for_each(|(doc, cluster)| drop(clusters.insert(*doc, cluster.clone())));
            tables.push(Table {
                alias: Some(label(task)),
                statistic: metric.statistic.clone(),
                higher_is_better: metric.higher_is_better,
                scale: if raw { Scale::Raw } else { metric.scale() },
                primary: metric.primary,
                pooled: task.is_group,
                range: metric.range,
                clusters,
                ..Table::new(&task.id, metric.key.clone(), columns)
            });
        }
    }
    chosen.place(&mut tables);
    tables
}

/// The name in tables: the full one, with the tool's other name where that is not merely its end.
fn label(task: &ImportedTask) -> String {
    let same = |text: &str| -> String { text.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect() };
    match &task.alias {
        Some(alias) if !same(&task.id).ends_with(&same(alias)) => format!("{} ({alias})", task.id),
        _ => task.id.clone(),
    }
}

/// Which tasks are compared, and where they stand.
struct Chosen<'a> {
    records: &'a [&'a ImportRecord],
    only: &'a [String],
}

impl Chosen<'_> {
    fn named(&self, id: &str) -> bool {
        self.only.iter().any(|name| wildcard(name.trim(), id))
    }

    /// The group directly above, as the first import tells that knows one.
    fn above(&self, id: &str) -> Option<&str> {
        self.records.iter().find_map(|record| record.task(id)?.group.as_deref())
    }

    /// The groups above, nearest first.
    fn path<'a>(&'a self, id: &'a str) -> Vec<&'a str> {
        let mut path = vec![];
        let mut at = id;
        while let Some(group) = self.above(at).filter(|group| *group != id && !path.contains(group)) {
            path.push(group);
            at = group;
        }
        path
    }

    /// Whether a task is named, or a group that it lies in.
    fn holds(&self, id: &str) -> bool {
        self.only.is_empty() || self.named(id) || self.path(id).iter().any(|group| self.named(group))
    }

    /// Puts tables below the nearest group that has one.
    fn place(&self, tables: &mut [Table]) {
        let shown: BTreeSet<String> = tables.iter().map(|table| table.task.clone()).collect();
        for table in tables {
            let above: Vec<&str> = self.path(&table.task).into_iter().filter(|group| shown.contains(*group)).collect();
            table.group = above.first().map(|group| (*group).to_owned());
            table.depth = above.len();
        }
    }
}

/// Every name that was asked for stands for results of all imports.
///
/// # Errors
/// If none of them has a task of a name, or one of them lacks it.
pub fn require(records: &[&ImportRecord], only: &[String]) -> Result<(), EvaluationError> {
    for name in only.iter().map(|name| name.trim()) {
        let fits = |id: &str| wildcard(name, id);
        let of = |task: &ImportedTask| fits(&task.id) || task.group.as_deref().is_some_and(fits);
        let has = |record: &&&ImportRecord| record.tasks.iter().any(of);
        let without: Vec<&str> =
            records.iter().filter(|record| !has(record)).map(|record| record.name.as_str()).collect();
        if without.is_empty() {
            continue;
        }
        let known: BTreeSet<&str> =
            records.iter().flat_map(|record| record.tasks.iter().map(|task| task.id.as_str())).collect();
        if without.len() < records.len() {
            let without = without.join(", ");
            return Err(EvaluationError::usage(format!(
                "--tasks {name}: the imported results of {without} have no such task"
            )));
        }
        let near = nearest(name, known.iter().copied()).map(|near| format!("; did you mean {near:?}?"));
        let known: Vec<&str> = known.into_iter().collect();
        return Err(EvaluationError::usage(format!(
            "--tasks {name}: no imported results have such a task; there are {}{}",
            known.join(", "),
            near.unwrap_or_default()
        )));
    }
    Ok(())
}

/// Every task of a suite that names were given for has results in every import, its own or those of a group that holds it.
///
/// # Errors
/// If an import lacks a task.
pub fn require_of_suite(records: &[ImportRecord], suite: &Suite) -> Result<(), EvaluationError> {
    for record in records {
        let lacking = lacking(record, suite);
        if let Some(first) = lacking.first() {
            let near = nearest(first, record.tasks.iter().map(|task| task.id.as_str()));
            let near = near.map_or(String::new(), |near| format!("; did you mean {near:?}?"));
            let more = lacking.len() - 1;
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            return Err(EvaluationError::usage(format!(
                "--tasks: the imported results of {} have no {first}{more}{near}",
                record.name
            )));
        }
    }
    Ok(())
}

/// The tasks of a suite that an import has nothing of.
fn lacking<'a>(record: &ImportRecord, suite: &'a Suite) -> Vec<&'a str> {
    let has = |id: &str| record.task(id).is_some();
    let within = |id: &str| suite.groups.iter().any(|group| has(&group.name) && group.leaves().contains(&id));
    let ids = suite.tasks.iter().map(|task| task.id());
    ids.filter(|id| !has(id) && !within(id)).collect()
}

/// What some models have results of and others have not, of the tasks that were asked for. `own` are the models that were
/// asked here.
pub fn not_shared(
    tables: &[Table],
    suite: Option<&Suite>,
    (own, records): (&[&str], &[&ImportRecord]),
    only: &[String],
) -> Option<Caveat> {
    let mut rows: Vec<NotShared> = vec![];
    let Some(suite) = suite else {
        not_shared_imports(tables, records, only, &mut rows);
        return (!rows.is_empty()).then_some(Caveat::NotCompared { rows });
    };
    let lacking: Vec<Vec<&str>> = records.iter().map(|record| lacking(record, suite)).collect();
    for id in suite.tasks.iter().map(|task| task.id()) {
        if lacking.iter().any(|ids| ids.contains(&id)) {
            let have = records.iter().zip(&lacking).filter(|(_, ids)| !ids.contains(&id));
            let models = own.iter().copied().chain(have.map(|(record, _)| record.name.as_str()));
            rows.push(NotShared { task: id.to_owned(), key: None, models: models.map(str::to_owned).collect() });
        }
    }
    (!rows.is_empty()).then_some(Caveat::NotCompared { rows })
}

fn not_shared_imports(tables: &[Table], records: &[&ImportRecord], only: &[String], rows: &mut Vec<NotShared>) {
    let chosen = Chosen { records, only };
    let shown: BTreeSet<(&str, &MetricKey)> = tables.iter().map(|table| (table.task.as_str(), &table.key)).collect();
    let any = |id: &str| shown.iter().any(|(task, _)| *task == id);
    let having = |id: &str, key: Option<&MetricKey>| -> Vec<String> {
        let has = |task: &ImportedTask| key.is_none_or(|key| task.metrics.iter().any(|metric| metric.key == *key));
        records.iter().filter(|r| r.task(id).is_some_and(has)).map(|record| record.name.clone()).collect()
    };
    for task in records.iter().flat_map(|record| &record.tasks).filter(|task| chosen.holds(&task.id)) {
        // A group that is not shared says it for its tasks.
        let told = |group: &&str| chosen.holds(group) && !any(group) && !having(group, None).is_empty();
        if chosen.path(&task.id).iter().any(told) {
            continue;
        }
        let lost: Vec<Option<&MetricKey>> = if any(&task.id) {
            let keys = task.metrics.iter().map(|metric| &metric.key);
            keys.filter(|key| !shown.contains(&(task.id.as_str(), *key))).map(Some).collect()
        } else {
            vec![None]
        };
        for key in lost {
            if !rows.iter().any(|row| row.task == task.id && row.key.as_ref() == key) {
                rows.push(NotShared { task: task.id.clone(), key: key.cloned(), models: having(&task.id, key) });
            }
        }
    }
}
