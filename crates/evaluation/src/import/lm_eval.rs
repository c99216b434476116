//! Results of lm-evaluation-harness.

use std::collections::{BTreeMap, BTreeSet};

use harness_core::{Digest, DocId, Hasher, MetricKey};
use harness_metrics::{
    Metric, Statistic,
    comparison::{Aggregate, CLUSTERED_GROUP},
};
use harness_tasks::lm_eval_files::{SavedGroup, SavedMetric, SavedRun, SavedTask, read_runs};
use serde_json::Value;

use super::{
    ImportOptions, files,
    record::{ImportRecord, ImportedMetric, ImportedTask},
};
use crate::EvaluationError;

/// How far a group's value may lie from the mean of its documents to count as that mean.
const SAME: f64 = 1e-9;

/// Reads a folder or file of lm-eval; several runs of one model are taken together if their tasks differ. With the number
/// of values that are no finite numbers.
///
/// # Errors
/// If a file is wrong, the folder holds several models, or a task occurs twice.
pub(super) fn read(options: &ImportOptions) -> Result<(ImportRecord, usize), EvaluationError> {
    let mut runs: Vec<SavedRun> = read_runs(&options.path)?;
    let mut models: Vec<String> = runs.iter().map(|run| run.model.clone()).collect();
    models.sort();
    models.dedup();
    let list = models.join(", ");
    match &options.model {
        Some(model) => runs.retain(|run| run.model == *model),
        None if models.len() > 1 => {
            let place = options.path.display();
            return Err(EvaluationError::usage(format!("{place}: runs of {list}; choose one with --model")));
        }
        None => {}
    }
    if runs.is_empty() {
        let (place, model) = (options.path.display(), options.model.as_deref().unwrap_or_default());
        return Err(EvaluationError::usage(format!("{place}: no run of {model}; there are runs of {list}")));
    }
    let paths = runs.iter().flat_map(|run| {
        run.results.iter().chain(run.tasks.iter().filter_map(|task| task.samples_file.as_ref())).cloned()
    });
    let mut record = ImportRecord::new(&options.name, options.format.name(), files(&paths.collect::<Vec<_>>())?);
    record.model = runs.first().filter(|run| run.named).map(|run| run.model.clone());
    let mut missing = 0;
    for run in &runs {
        record.conditions.extend(run.conditions.clone());
        let mut own: BTreeMap<&str, ImportedTask> = BTreeMap::new();
        for task in &run.tasks {
            let (found, without) = imported(task);
            missing += without;
            own.extend(found.map(|found| (task.name.as_str(), found)));
        }
        for group in &run.groups {
            own.extend(grouped(run, group, &own).map(|found| (group.name.as_str(), found)));
        }
        for name in in_order(run) {
            let Some(mut task) = own.remove(name) else { continue };
            if record.task(name).is_some() {
                let place = options.path.display();
                return Err(EvaluationError::usage(format!(
                    "{place}: several runs hold the task {name}; give the results file of one of them"
                )));
            }
            task.group = run.above(name).map(|group| group.name.clone());
            record.tasks.push(task);
        }
    }
    Ok((record, missing))
}

/// Groups, each before its members, then the other tasks in the order of the file.
fn in_order(run: &SavedRun) -> Vec<&str> {
    let top = run.groups.iter().map(|group| group.name.as_str()).filter(|name| run.above(name).is_none());
    let mut open: Vec<&str> = top.chain(run.groups.iter().map(|group| group.name.as_str())).collect();
    open.extend(run.tasks.iter().map(|task| task.name.as_str()));
    open.reverse();
    let (mut order, mut seen) = (vec![], BTreeSet::new());
    while let Some(name) = open.pop() {
        if seen.insert(name) {
            order.push(name);
            let group = run.groups.iter().find(|group| group.name == name);
            open.extend(group.iter().flat_map(|group| group.members.iter().rev().map(String::as_str)));
        }
    }
    order
}

/// A task, and its logged documents without a value; `None` where the file has neither documents nor values.
fn imported(task: &SavedTask) -> (Option<ImportedTask>, usize) {
    let documents: BTreeMap<usize, DocId> = task.documents().into_iter().map(|(id, doc)| (id, doc.id)).collect();
    let mut found = ImportedTask {
        id: task.name.clone(),
        alias: Some(task.alias.clone()).filter(|alias| *alias != task.name),
        conditions: BTreeMap::from([("version".to_owned(), task.version.clone())]),
        labels: documents.iter().map(|(id, doc)| (*doc, format!("doc_id {id}"))).collect(),
        available: task.available,
        ..ImportedTask::default()
    };
    if let Some(examples) = task.num_fewshot {
        found.conditions.insert("examples".to_owned(), examples.to_string());
    }
    if task.samples.is_empty() {
        if let Some(hash) = &task.hash {
            found.conditions.insert("documents and prompts".to_owned(), hash.chars().take(12).collect());
        }
        found.metrics = means(&task.results, &task.higher_is_better, task.n);
        let without = task.results.len() - found.metrics.len();
        return ((!found.metrics.is_empty()).then_some(found), without);
    }
    let (prompts, outputs) = digests(task);
    found.conditions.insert("prompts".to_owned(), prompts.short());
    found.outputs = Some(outputs);
    let mut missing = 0;
    for (i, scores) in task.scores().into_iter().enumerate() {
        missing += scores.missing;
        let stats = scores.stats.into_iter().filter_map(|(id, stats)| Some((*documents.get(&id)?, stats)));
        found.metrics.push(ImportedMetric {
            statistic: scores.statistic,
            higher_is_better: scores.higher_is_better,
            primary: i == 0,
            scores: stats.collect(),
            unparsed: scores.unparsed.iter().filter_map(|id| documents.get(id).copied()).collect(),
            ..ImportedMetric::new(scores.key)
        });
    }
    (Some(found), missing)
}

/// Values without documents.
fn means(
    results: &BTreeMap<MetricKey, SavedMetric>,
    higher_is_better: &BTreeMap<String, bool>,
    n: Option<usize>,
) -> Vec<ImportedMetric> {
    let known = results.iter().filter(|(_, value)| value.value.is_finite()).enumerate();
    known
        .map(|(i, (key, value))| {
            let own = || Metric::is_higher_better(&key.metric);
            ImportedMetric {
                higher_is_better: higher_is_better.get(&key.metric).copied().unwrap_or_else(own),
                primary: i == 0,
                aggregate: Some(Aggregate { value: value.value, standard_error: value.stderr, n }),
                ..ImportedMetric::new(key.clone())
            }
        })
        .collect()
}

/// A group: over the documents of its tasks where all of those are there and give the file's value, weighted as that value
/// says; else the value itself. `None` where the file has none.
fn grouped(run: &SavedRun, group: &SavedGroup, own: &BTreeMap<&str, ImportedTask>) -> Option<ImportedTask> {
    let mut found = ImportedTask {
        id: group.name.clone(),
        alias: Some(group.alias.clone()).filter(|alias| *alias != group.name),
        is_group: true,
        metrics: means(&group.results, &group.higher_is_better, group.n),
        ..ImportedTask::default()
    };
    if !group.version.is_empty() {
        found.conditions.insert("version".to_owned(), group.version.clone());
    }
    let leaves = run.leaves(&group.name);
    found.available = leaves.iter().map(|task| task.available).sum::<Option<usize>>().filter(|_| !leaves.is_empty());
    for metric in &mut found.metrics {
        let parts: Option<Vec<(&str, &ImportedMetric)>> = leaves
            .iter()
            .map(|leaf| {
                let of_leaf = own.get(leaf.name.as_str())?.metrics.iter().find(|other| other.key == metric.key)?;
                let usable = of_leaf.statistic.is_mean() && !of_leaf.scores.is_empty();
                usable.then_some((leaf.name.as_str(), of_leaf))
            })
            .collect();
        let (Some(parts), Some(told)) = (parts.filter(|parts| !parts.is_empty()), metric.aggregate) else { continue };
        let pooled = |equally: bool| -> Vec<(DocId, Vec<f64>)> {
            let of_part = |(_, part): &(&str, &ImportedMetric)| {
                let weight = if equally { 1.0 / part.scores.len() as f64 } else { 1.0 };
                let scaled = |stats: &Vec<f64>| stats.iter().map(|x| x * weight).collect();
                part.scores.iter().map(|(doc, stats)| (*doc, scaled(stats))).collect::<Vec<_>>()
            };
            parts.iter().flat_map(of_part).collect()
        };
        let value = |scores: &[(DocId, Vec<f64>)]| {
            Statistic::Mean.value(&Statistic::Mean.sum(scores.iter().map(|(_, stats)| stats)))
        };
        let weighted = [false, true].into_iter().map(pooled).find(|scores| (value(scores) - told.value).abs() <= SAME);
        let Some(scores) = weighted else { continue };
        if parts.len() >= CLUSTERED_GROUP {
            let of_part = |&(name, part): &(&str, &ImportedMetric)| {
                part.scores.iter().map(|(doc, _)| (*doc, name.to_owned())).collect::<Vec<_>>()
            };
            found.clusters.extend(parts.iter().flat_map(of_part));
        }
        metric.unparsed = parts.iter().flat_map(|(_, part)| part.unparsed.iter().copied()).collect();
        metric.scores = scores;
        metric.aggregate = None;
    }
    (!found.metrics.is_empty()).then_some(found)
}

/// Hashes of what was asked, made as for models that are asked here, and of what was answered, in the order of the documents.
fn digests(task: &SavedTask) -> (Digest, Digest) {
    let (mut prompts, mut outputs) = (Hasher::new("prompts"), Hasher::new("lm-eval outputs"));
    let mut asked = BTreeSet::new();
    for sample in &task.samples {
        // A document has a sample for every filter.
        if asked.insert(sample.doc_id) {
            for text in sample.arguments.iter().flat_map(|request| request.iter().map_while(Value::as_str)) {
                prompts.part(text);
            }
        }
        outputs.part(sample.doc_id.to_string()).part(Value::from(sample.responses.clone()).to_string());
    }
    (prompts.finish(), outputs.finish())
}
