//! From scored documents to the tables of a comparison.

use std::collections::{BTreeMap, BTreeSet};

use harness_core::{DocId, MetricKey, SampleScore};
use harness_metrics::comparison::{CLUSTERED_GROUP, Column, ModelFacts, Table};
use harness_tasks::{Aggregate, Group, Member, MetricSpec, Task as _};
use serde_json::Value;

use crate::{evaluate::Evaluated, import::ImportRecord, suite::Suite};

/// The scores of one model: its own answers, or results of another tool.
#[derive(Clone, Copy)]
pub enum Scores<'a> {
    /// Answers of this program.
    Evaluated(&'a Evaluated),
    /// Imported results.
    Imported(&'a ImportRecord),
}

impl Scores<'_> {
    /// The name in reports.
    pub fn name(&self) -> &str {
        match self {
            Self::Evaluated(model) => &model.name,
            Self::Imported(record) => &record.name,
        }
    }

    /// What is known of the answers.
    pub fn facts(&self) -> ModelFacts {
        match self {
            Self::Evaluated(model) => model.facts.clone(),
            Self::Imported(record) => record.facts(),
        }
    }
}

/// Largest changes of a metric when documents were scored again, by task and metric.
pub type Noise = BTreeMap<(String, String), f64>;

/// One table a task and metric; groups come before their members, pooled over their documents. Metrics that a model has
/// no scores of are left out.
pub fn tables(suite: &Suite, models: &[Scores<'_>], noise: &Noise) -> Vec<Table> {
    let index: BTreeMap<&str, usize> = suite.tasks.iter().enumerate().map(|(i, task)| (task.id(), i)).collect();
    let builder = Builder { suite, models, index, noise };
    let mut tables = vec![];
    let mut shown = BTreeSet::new();
    for group in &suite.groups {
        builder.group(group, None, 0, &mut tables, &mut shown);
    }
    for (i, task) in suite.tasks.iter().enumerate() {
        if shown.insert(task.id().to_owned()) {
            builder.task(i, None, 0, &mut tables);
        }
    }
    tables
}

struct Builder<'a> {
    suite: &'a Suite,
    models: &'a [Scores<'a>],
    index: BTreeMap<&'a str, usize>,
    noise: &'a Noise,
}

impl Builder<'_> {
    fn group(
        &self,
        group: &Group,
        above: Option<&str>,
        depth: usize,
        tables: &mut Vec<Table>,
        shown: &mut BTreeSet<String>,
    ) {
        for aggregate in &group.aggregates {
            self.pool(group, aggregate, above, depth, tables);
        }
        for member in &group.members {
            match member {
                Member::Group(inner) => self.group(inner, Some(&group.name), depth + 1, tables, shown),
                Member::Task(name) => {
                    if let Some(&task) = self.index.get(name.as_str())
                        && shown.insert(name.clone())
                    {
                        self.task(task, Some(&group.name), depth + 1, tables);
                    }
                }
            }
        }
    }

    fn task(&self, task: usize, group: Option<&str>, depth: usize, tables: &mut Vec<Table>) {
        let definition = &self.suite.tasks[task];
        for spec in definition.metrics() {
            let Some(columns) = self.columns(definition.id(), &[(task, None)], &spec.key) else { continue };
            tables.push(Table {
                alias: Some(definition.alias().to_owned()),
                group: group.map(str::to_owned),
                depth,
                clusters: self.clusters(&[(task, None)], false),
                noise: self.noise.get(&(definition.id().to_owned(), spec.key.to_string())).copied(),
                ..of_metric(definition.id(), spec, columns)
            });
        }
    }

    /// The documents of all leaf tasks together: a micro average; equally weighted tasks get their documents weighted.
    fn pool(&self, group: &Group, aggregate: &Aggregate, above: Option<&str>, depth: usize, tables: &mut Vec<Table>) {
        let leaves: Vec<usize> = group.leaves().iter().filter_map(|name| self.index.get(name).copied()).collect();
        let mut specs: Vec<&MetricSpec> = vec![];
        for &leaf in &leaves {
            for spec in self.suite.tasks[leaf].metrics() {
                let wanted = spec.key.metric == aggregate.metric
                    && (aggregate.filters.is_empty() || aggregate.filters.contains(&spec.key.filter));
                if wanted && !specs.iter().any(|known| known.key == spec.key) {
                    specs.push(spec);
                }
            }
        }
        for spec in specs {
            let parts: Vec<(usize, Option<f64>)> = leaves
                .iter()
                .map(|&leaf| {
                    let documents = self.documents(leaf).max(1);
                    let equally = !aggregate.weight_by_size && spec.statistic.is_mean();
                    (leaf, equally.then(|| 1.0 / documents as f64))
                })
                .collect();
            let Some(columns) = self.columns(&group.name, &parts, &spec.key) else { continue };
            let noise = self.pooled_noise(&parts, &spec.key);
            tables.push(Table {
                alias: Some(group.alias.clone()),
                group: above.map(str::to_owned),
                depth,
                pooled: true,
                clusters: self.clusters(&parts, parts.len() >= CLUSTERED_GROUP),
                noise,
                ..of_metric(&group.name, spec, columns)
            });
        }
    }

    /// The noise of a mean over tasks, whose changes are taken as independent: the root of the sum of squares of each
    /// task's, times its share. `None` where it was measured for none.
    fn pooled_noise(&self, parts: &[(usize, Option<f64>)], key: &MetricKey) -> Option<f64> {
        let weight = |&(leaf, weight): &(usize, Option<f64>)| weight.unwrap_or(1.0) * self.documents(leaf) as f64;
        let total: f64 = parts.iter().map(weight).sum();
        let squares = parts.iter().filter_map(|part| {
            let noise = self.noise.get(&(self.suite.tasks[part.0].id().to_owned(), key.to_string()))?;
            Some((noise * weight(part) / total).powi(2))
        });
        squares.reduce(|a, b| a + b).map(f64::sqrt)
    }

    /// Number of documents of a task, by the first model that answered it here.
    fn documents(&self, task: usize) -> usize {
        let own = self.models.iter().find_map(|model| match model {
            Scores::Evaluated(model) => Some(model.scored[task].len()),
            Scores::Imported(_) => None,
        });
        own.unwrap_or_else(|| self.suite.tasks[task].documents().len())
    }

    /// The columns of all models for a task or group; `None` where imported results lack the metric.
    fn columns(&self, id: &str, parts: &[(usize, Option<f64>)], key: &MetricKey) -> Option<Vec<Column>> {
        self.models.iter().map(|model| self.column(model, id, parts, key)).collect()
    }

    fn column(&self, model: &Scores<'_>, id: &str, parts: &[(usize, Option<f64>)], key: &MetricKey) -> Option<Column> {
        // A mean of a task or group; that of a group is not made from means of its tasks.
        if let Scores::Imported(record) = model
            && let Some(metric) = record.task(id).and_then(|task| task.metrics.iter().find(|metric| metric.key == *key))
            && metric.aggregate.is_some()
        {
            return Some(metric.column(&record.name));
        }
        let mut column = Column::new(model.name(), vec![]);
        for &(task, weight) in parts {
            let mut scores: Vec<SampleScore> = match model {
                Scores::Evaluated(model) => model.scores(task).filter(|score| score.key == *key).cloned().collect(),
                Scores::Imported(record) => {
                    let imported = record.task(self.suite.tasks[task].id())?;
                    let metric = imported.metrics.iter().find(|metric| metric.key == *key)?;
                    if metric.aggregate.is_some() {
                        return None;
                    }
                    column.repeated |= metric.repeated;
                    metric.column(&record.name).scores
                }
            };
            if let Some(weight) = weight {
                scores.iter_mut().for_each(|score| score.stats.iter_mut().for_each(|x| *x *= weight));
            }
            column.scores.extend(scores);
        }
        Some(column)
    }

    /// Clusters of documents: the tasks of a group, the column that the definition names under `metadata.cluster`, or what an
    /// import says.
    fn clusters(&self, parts: &[(usize, Option<f64>)], by_task: bool) -> BTreeMap<DocId, String> {
        let mut clusters = BTreeMap::new();
        let mut named = false;
        for &(task, _) in parts {
            let definition = &self.suite.tasks[task];
            let column = definition.definition()["metadata"]["cluster"].as_str();
            named |= column.is_some();
            for document in definition.documents() {
                let own = column.and_then(|column| document.fields.get(column)).map(|value| match value {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                });
                let label = match own {
                    _ if by_task => definition.id().to_owned(),
                    Some(label) => format!("{} {label}", definition.id()),
                    None => format!("{} {}", definition.id(), document.id.0.short()),
                };
                clusters.insert(document.id, label);
            }
            for record in self.models.iter().filter_map(|model| match model {
                Scores::Imported(record) if !by_task => record.task(definition.id()),
                _ => None,
            }) {
                named |= !record.clusters.is_empty();
                clusters.extend(record.clusters.iter().map(|(doc, label)| (*doc, label.clone())));
            }
        }
        if by_task || named { clusters } else { BTreeMap::new() }
    }
}

/// A table with what a task says of its metric.
fn of_metric(task: &str, spec: &MetricSpec, columns: Vec<Column>) -> Table {
    Table {
        statistic: spec.statistic.clone(),
        higher_is_better: spec.higher_is_better,
        scale: spec.scale,
        primary: spec.primary,
        ..Table::new(task, spec.key.clone(), columns)
    }
}
