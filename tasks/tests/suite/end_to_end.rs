//! A whole evaluation with a deterministic fake model against lm-eval's results.

use std::collections::BTreeMap;

use harness_core::{Request, Response};
use harness_metrics::lm_eval::mean_stderr;
use harness_tasks::{
    Aggregate, BuildOptions, DeclarativeTask, Limit, MemoryData, Prepared, Scored, Task, lm_eval_files::TaskOutcome,
};
use harness_test_support::{close, vectors_dir};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::common::{arguments, generation, likelihood, rolling, rows, task};

fn hash(parts: &[&str]) -> u64 {
    let digest = Sha256::digest(parts.join("\0").as_bytes());
    u64::from_be_bytes(digest[..8].try_into().unwrap())
}

/// The fake model of the vectors.
fn answer(request: &Request) -> Response {
    let texts = arguments(request);
    match request {
        Request::LogLikelihood { .. } => {
            let h = hash(&["ll", &texts[0], &texts[1]]);
            likelihood(-((h % 100_000) as f64) / 10_000.0, h.is_multiple_of(7))
        }
        Request::RollingLogLikelihood { text } => {
            rolling(-3.0 * text.split_whitespace().count() as f64 - (hash(&["rl", text]) % 1000) as f64 / 1000.0)
        }
        Request::Generate { prompt, .. } => {
            let texts = ["#### 4", "I think it is 4.", "The answer is 5", "#### 1,234 dollars", "nothing"];
            generation(texts[(hash(&["g", prompt]) % 5) as usize])
        }
    }
}

/// Values with standard errors of one task, by metric and filter.
type Results = BTreeMap<String, (f64, Option<f64>)>;

/// A task that the fake model answered.
pub(crate) struct Evaluated {
    pub(crate) task: DeclarativeTask,
    pub(crate) prepared: Prepared,
    pub(crate) responses: Vec<Vec<Response>>,
    pub(crate) scored: Vec<Scored>,
}

impl Evaluated {
    pub(crate) fn new(task: DeclarativeTask, options: &BuildOptions) -> Self {
        let prepared = task.build(options, None).unwrap();
        let responses: Vec<Vec<Response>> =
            prepared.documents.iter().map(|item| item.requests.iter().map(answer).collect()).collect();
        let scored = prepared.documents.iter().zip(&responses).map(|(item, r)| task.score(item, r).unwrap()).collect();
        Self { task, prepared, responses, scored }
    }

    pub(crate) fn outcome(&self) -> TaskOutcome<'_> {
        TaskOutcome { task: &self.task, prepared: &self.prepared, responses: &self.responses, scored: &self.scored }
    }
}

/// A task of the vectors, answered.
pub(crate) fn toy(name: &str, inputs: &Value, limit: Option<usize>) -> Evaluated {
    let docs = rows(&inputs["docs"][name]);
    let data = MemoryData::default().with("train", docs[..8].to_vec()).with("test", docs);
    let options = BuildOptions { limit: limit.map(Limit::Count), ..BuildOptions::default() };
    Evaluated::new(task(&inputs["task_configs"][name], data), &options)
}

fn evaluate(name: &str, inputs: &Value, limit: Option<usize>) -> (Results, usize) {
    let Evaluated { task, scored, .. } = toy(name, inputs, limit);
    let results = task.metrics().iter().enumerate().map(|(i, spec)| {
        let stats = || scored.iter().map(|scored| scored.scores[i].stats.as_slice());
        assert!(scored.iter().all(|scored| scored.scores[i].key == spec.key));
        let values: Vec<f64> = stats().map(|s| s[0] / s[1]).collect();
        let mean = matches!(spec.statistic, harness_metrics::Statistic::Mean);
        let stderr = if mean { mean_stderr(&values) } else { None };
        (spec.key.to_string(), (spec.statistic.value(&spec.statistic.sum(stats())), stderr))
    });
    (results.collect(), scored.len())
}

fn check(found: f64, expected: &Value, what: &str) {
    assert!(close(found, expected.as_f64().unwrap(), 1e-12), "{what}: {found} instead of {expected}");
}

#[test]
fn results_equal_lm_evals() {
    let Some(folder) = vectors_dir().map(|folder| folder.join("e2e")).filter(|folder| folder.is_dir()) else {
        return;
    };
    let read =
        |path: std::path::PathBuf| -> Value { serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap() };
    let inputs = read(folder.join("inputs.json"));
    for (run, limit) in [("full", None), ("limit10", Some(10))] {
        let results =
            std::fs::read_dir(folder.join(run).join("fake__model")).unwrap().flatten().map(|entry| entry.path());
        let mut results =
            results.filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("results")));
        let expected = read(results.next().unwrap());
        let mut all: BTreeMap<String, (Results, usize)> = BTreeMap::new();
        for name in inputs["task_configs"].as_object().unwrap().keys() {
            let (results, n) = evaluate(name, &inputs, limit);
            let logged = &expected["results"][name];
            assert_eq!(logged["sample_len"].as_u64(), Some(n as u64));
            for (key, (value, stderr)) in &results {
                check(*value, &logged[key], &format!("{run} {name} {key}"));
                let (metric, filter) = key.split_once(',').unwrap();
                let logged = &logged[&format!("{metric}_stderr,{filter}")];
                match stderr {
                    Some(stderr) => check(*stderr, logged, &format!("{run} {name} {key} stderr")),
                    None => assert_eq!(logged, "N/A"),
                }
            }
            all.insert(name.clone(), (results, n));
        }
        for (group, leaves) in [("toy_sub", &["toy_b", "toy_c"][..]), ("toy_group", &["toy_a", "toy_b", "toy_c"][..])] {
            for entry in inputs["groups"][group]["aggregate_metric_list"].as_array().unwrap() {
                let metric = entry["metric"].as_str().unwrap();
                let weight_by_size = entry["weight_by_size"].as_bool().unwrap();
                let aggregate = Aggregate { metric: metric.into(), filters: Vec::new(), weight_by_size };
                let key = format!("{metric},none");
                let of = |leaf: &&str| all[*leaf].0[&key];
                let sizes: Vec<usize> = leaves.iter().map(|leaf| all[*leaf].1).collect();
                let values: Vec<f64> = leaves.iter().map(|leaf| of(leaf).0).collect();
                let stderrs: Vec<Option<f64>> = leaves.iter().map(|leaf| of(leaf).1).collect();
                let logged = &expected["results"][group];
                check(aggregate.value(&values, &sizes), &logged[&key], &format!("{run} {group} {key}"));
                let stderr = aggregate.stderr(&stderrs, &sizes).unwrap();
                check(stderr, &logged[&format!("{metric}_stderr,none")], &format!("{run} {group} {key} stderr"));
            }
        }
    }
}
