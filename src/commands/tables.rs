//! From scored documents to the tables of a comparison.

use std::collections::{BTreeMap, BTreeSet};

use harness_core::{MetricKey, SampleScore};
use harness_metrics::{
    Statistic,
    comparison::{Column, Scale, Table},
};
use harness_tasks::{Aggregate, Group, Member, MetricSpec, Task as _};

use super::{evaluate::Evaluated, suite::Suite};

/// One table a task and metric; groups come before their members, pooled over their documents.
pub(super) fn tables(suite: &Suite, models: &[Evaluated]) -> Vec<Table> {
    let index: BTreeMap<&str, usize> = suite.tasks.iter().enumerate().map(|(i, task)| (task.id(), i)).collect();
    let builder = Builder { suite, models, index };
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
    models: &'a [Evaluated],
    index: BTreeMap<&'a str, usize>,
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
            tables.push(Table {
                task: definition.id().to_owned(),
                alias: Some(definition.alias().to_owned()),
                group: group.map(str::to_owned),
                depth,
                pooled: false,
                key: spec.key.clone(),
                statistic: spec.statistic.clone(),
                higher_is_better: spec.higher_is_better,
                scale: scale(spec),
                primary: spec.primary,
                columns: self.columns(&[(task, None)], &spec.key),
                clusters: BTreeMap::new(),
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
                    let documents = self.models.first().map_or(1, |model| model.scored[leaf].len().max(1));
                    let equally = !aggregate.weight_by_size && spec.statistic == Statistic::Mean;
                    (leaf, equally.then(|| 1.0 / documents as f64))
                })
                .collect();
            tables.push(Table {
                task: group.name.clone(),
                alias: Some(group.alias.clone()),
                group: above.map(str::to_owned),
                depth,
                pooled: true,
                key: spec.key.clone(),
                statistic: spec.statistic.clone(),
                higher_is_better: spec.higher_is_better,
                scale: scale(spec),
                primary: spec.primary,
                columns: self.columns(&parts, &spec.key),
                clusters: BTreeMap::new(),
            });
        }
    }

    fn columns(&self, parts: &[(usize, Option<f64>)], key: &MetricKey) -> Vec<Column> {
        let of = |model: &Evaluated| -> Vec<SampleScore> {
            parts
                .iter()
                .flat_map(|&(task, weight)| {
                    model.scores(task).filter(|score| score.key == *key).map(move |score| {
                        let mut score = score.clone();
                        if let Some(weight) = weight {
                            score.stats.iter_mut().for_each(|x| *x *= weight);
                        }
                        score
                    })
                })
                .collect()
        };
        self.models.iter().map(|model| Column { model: model.name.clone(), scores: of(model) }).collect()
    }
}

/// What a metric's values are in.
fn scale(spec: &MetricSpec) -> Scale {
    match &spec.statistic {
        Statistic::Perplexity | Statistic::BitsPerByte => Scale::Raw,
        Statistic::Mean if matches!(spec.key.metric.as_str(), "perplexity" | "brier_score") => Scale::Raw,
        Statistic::Bleu(_) | Statistic::Chrf(_) | Statistic::Ter => Scale::Points,
        _ => Scale::Fraction,
    }
}
