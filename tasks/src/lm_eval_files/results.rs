//! Values and standard errors of tasks and groups as lm-eval computes them.

use std::collections::{BTreeMap, BTreeSet};

use harness_core::{MetricKey, Response};
use harness_metrics::{
    StandardError,
    lm_eval::{bootstrap_stderr_of_sums, mean_stderr},
};

use crate::{DeclarativeTask, Group, Prepared, Scored, Task as _};

/// A task with everything that was asked, answered and scored.
#[derive(Clone, Copy, Debug)]
pub struct TaskOutcome<'a> {
    /// The task.
    pub task: &'a DeclarativeTask,
    /// The requests.
    pub prepared: &'a Prepared,
    /// Responses by document, in the order of the requests.
    pub responses: &'a [Vec<Response>],
    /// Scores by document.
    pub scored: &'a [Scored],
}

/// Values of a task or group in lm-eval's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskResult {
    /// Metric, value, and standard error; `None` for lm-eval's `N/A`.
    pub values: Vec<(MetricKey, f64, Option<f64>)>,
    /// Number of documents.
    pub documents: usize,
    /// Of a group: number of documents by metric.
    pub counts: Vec<(MetricKey, usize)>,
}

/// The values of a task. Standard errors of means are closed forms; those of other values are lm-eval's bootstrap,
/// CPython's generator included (`bootstrap_iters` replicates, at most 100 for corpus scores of texts; 0 gives none).
pub fn aggregate_task(outcome: &TaskOutcome<'_>, bootstrap_iters: usize) -> TaskResult {
    let values = outcome.task.metrics().iter().enumerate().map(|(i, spec)| {
        let stats: Vec<&[f64]> = outcome
            .scored
            .iter()
            .map(|scored| scored.scores[i].stats.as_slice())
            .filter(|stats| stats.len() == spec.statistic.dim())
            .collect();
        let value = spec.statistic.value(&spec.statistic.sum(&stats));
        let stderr = match outcome.task.standard_error(i) {
            StandardError::OfMean if bootstrap_iters > 0 => {
                mean_stderr(&stats.iter().filter(|s| s[1] > 0.0).map(|s| s[0] / s[1]).collect::<Vec<_>>())
            }
            StandardError::Bootstrap { most } if bootstrap_iters > 0 && stats.len() > 1 => {
                let owned: Vec<Vec<f64>> = stats.iter().map(|stats| stats.to_vec()).collect();
                bootstrap_stderr_of_sums(&spec.statistic, &owned, bootstrap_iters.min(most))
            }
            StandardError::OfMean | StandardError::Bootstrap { .. } | StandardError::None => None,
        };
        (spec.key.clone(), value, stderr)
    });
    TaskResult { values: values.collect(), documents: outcome.scored.len(), counts: Vec::new() }
}

/// The values of a group from those of its leaf tasks; metrics that no leaf has are left out.
pub fn aggregate_group(group: &Group, tasks: &BTreeMap<String, TaskResult>) -> TaskResult {
    let leaves: Vec<&TaskResult> = group.leaves().into_iter().filter_map(|name| tasks.get(name)).collect();
    let mut result = TaskResult { documents: leaves.iter().map(|leaf| leaf.documents).sum(), ..TaskResult::default() };
    for aggregate in &group.aggregates {
        let filters: BTreeSet<&str> = if aggregate.filters.is_empty() {
            let keys = leaves.iter().flat_map(|leaf| leaf.values.iter().map(|(key, ..)| key));
            keys.filter(|key| key.metric == aggregate.metric).map(|key| key.filter.as_str()).collect()
        } else {
            aggregate.filters.iter().map(String::as_str).collect()
        };
        for filter in filters {
            let key = MetricKey::new(aggregate.metric.as_str(), filter);
            let found: Vec<(f64, Option<f64>, usize)> = leaves
                .iter()
                .filter_map(|leaf| {
                    let (_, value, stderr) = leaf.values.iter().find(|(other, ..)| *other == key)?;
                    Some((*value, *stderr, leaf.documents))
                })
                .collect();
            if found.is_empty() {
                continue;
            }
            let values: Vec<f64> = found.iter().map(|(value, ..)| *value).collect();
            let stderrs: Vec<Option<f64>> = found.iter().map(|(_, stderr, _)| *stderr).collect();
            let sizes: Vec<usize> = found.iter().map(|(.., size)| *size).collect();
            let stderr = aggregate.stderr(&stderrs, &sizes);
            result.values.push((key.clone(), aggregate.value(&values, &sizes), stderr));
            result.counts.push((key, sizes.iter().sum()));
        }
    }
    result
}
