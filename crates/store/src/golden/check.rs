//! Golden metrics: the file, and the comparison with a run.

use std::{collections::BTreeMap, fmt, path::Path};

use serde::{Deserialize, Serialize};

use crate::{Result, StoreError, atomic_write};

/// Values by task, metric key (`metric,filter`) and model.
pub type Metrics = BTreeMap<String, BTreeMap<String, BTreeMap<String, f64>>>;

/// The content of `golden/metrics.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// Largest absolute difference that is no change, where a metric does not state its own.
    pub tolerance: f64,
    /// Expected values by task and metric key (`metric,filter`).
    pub tasks: BTreeMap<String, BTreeMap<String, GoldenMetric>>,
}

/// Expected values of one metric of one task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GoldenMetric {
    /// Largest absolute difference that is no change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// Value by model.
    #[serde(flatten)]
    pub values: BTreeMap<String, f64>,
}

/// One difference between expected and found metrics.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Regression {
    /// What differs.
    pub kind: RegressionKind,
    /// The task.
    pub task: String,
    /// The metric key, `metric,filter`.
    pub metric: String,
    /// The model.
    pub model: String,
    /// The golden value.
    pub expected: Option<f64>,
    /// The value of the run.
    pub found: Option<f64>,
    /// Largest absolute difference that would have been accepted.
    pub tolerance: f64,
}

/// How a run can differ from the golden metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RegressionKind {
    /// A golden value that the run lacks.
    Missing,
    /// A value outside the tolerance.
    Changed,
    /// A value of the run that no golden value stands for.
    New,
}

impl fmt::Display for Regression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { task, metric, model, tolerance, .. } = self;
        write!(f, "{task} {metric} {model}: ")?;
        match (self.expected, self.found) {
            (Some(expected), Some(found)) => {
                write!(f, "expected {expected} ± {tolerance}, found {found} (difference {:+e})", found - expected)
            }
            (Some(expected), None) => write!(f, "expected {expected} ± {tolerance}, found nothing"),
            (None, Some(found)) => write!(f, "found {found}, expected nothing: it is new"),
            (None, None) => write!(f, "nothing expected, nothing found"),
        }
    }
}

impl Golden {
    /// Golden metrics with the values of a run, keeping the tolerances of the former ones where these exist.
    pub fn accept(former: Option<&Self>, found: &Metrics, default_tolerance: f64) -> Self {
        let tolerance = former.map_or(default_tolerance, |golden| golden.tolerance);
        let own = |task: &str, metric: &str| former?.tasks.get(task)?.get(metric)?.tolerance;
        let tasks = found.iter().map(|(task, metrics)| {
            let metrics = metrics.iter().map(|(metric, values)| {
                (metric.clone(), GoldenMetric { tolerance: own(task, metric), values: values.clone() })
            });
            (task.clone(), metrics.collect())
        });
        Self { tolerance, tasks: tasks.collect() }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// If it cannot be read, is not of the documented form, or states a tolerance that is negative or no number.
    pub fn read(path: &Path) -> Result<Self> {
        const EXPECTED: &str =
            r#"{"tolerance": 1e-6, "tasks": {TASK: {"METRIC,FILTER": {MODEL: value, "tolerance": optional}}}}"#;
        let bytes = harness_core::read_file(path).map_err(StoreError::io("read", path))?;
        let golden: Self = serde_json::from_slice(&bytes).map_err(|error| {
            let place = format!("line {}, column {}", error.line(), error.column());
            let message = error.to_string();
            let message = message.rfind(" at line ").map_or(message.as_str(), |end| &message[..end]);
            StoreError::bad_row(path, place, message, EXPECTED)
        })?;
        golden.validate(path)?;
        Ok(golden)
    }

    /// Writes the file, whole or not at all, with sorted keys and one value a line.
    ///
    /// # Errors
    /// If a value is not finite, a model is called `tolerance`, or the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        self.validate(path)?;
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|error| StoreError::bad_file(path, error.to_string(), "values that JSON can hold"))?;
        text.push('\n');
        atomic_write(path, text)
    }

    fn validate(&self, path: &Path) -> Result<()> {
        let metrics = self.tasks.iter().flat_map(|(task, metrics)| metrics.iter().map(move |entry| (task, entry)));
        let mut tolerances = vec![("the default".to_owned(), self.tolerance)];
        for (task, (name, metric)) in metrics {
            tolerances.extend(metric.tolerance.map(|tolerance| (format!("{task} {name}"), tolerance)));
            for (model, value) in &metric.values {
                if model == "tolerance" {
                    let found = format!("a model called \"tolerance\" ({task} {name})");
                    return Err(StoreError::bad_file(path, found, "another name: this one states the tolerance"));
                }
                if !value.is_finite() {
                    let found = format!("the value {value} ({task} {name} {model})");
                    return Err(StoreError::bad_file(path, found, "finite values"));
                }
            }
        }
        match tolerances.into_iter().find(|(_, tolerance)| !(tolerance.is_finite() && *tolerance >= 0.0)) {
            Some((place, tolerance)) => Err(StoreError::bad_file(
                path,
                format!("the tolerance {tolerance} ({place})"),
                "a number of at least 0",
            )),
            None => Ok(()),
        }
    }
}

/// Compares a run with the golden metrics; the result is empty if all is as expected, else sorted by task, metric and
/// model. A found value that is not finite is always a change.
pub fn check(golden: &Golden, found: &Metrics) -> Vec<Regression> {
    let mut regressions = Vec::new();
    for (task, metrics) in &golden.tasks {
        for (metric, entry) in metrics {
            let tolerance = entry.tolerance.unwrap_or(golden.tolerance);
            for (model, &expected) in &entry.values {
                let value = value_of(found, task, metric, model);
                let kind = match value {
                    None => RegressionKind::Missing,
                    Some(value) if (value - expected).abs() <= tolerance => continue,
                    Some(_) => RegressionKind::Changed,
                };
                regressions.push(Regression {
                    kind,
                    task: task.clone(),
                    metric: metric.clone(),
                    model: model.clone(),
                    expected: Some(expected),
                    found: value,
                    tolerance,
                });
            }
        }
    }
    for (task, metrics) in found {
        for (metric, values) in metrics {
            let entry = golden.tasks.get(task).and_then(|metrics| metrics.get(metric));
            for (model, &value) in values {
                if entry.is_some_and(|entry| entry.values.contains_key(model)) {
                    continue;
                }
                regressions.push(Regression {
                    kind: RegressionKind::New,
                    task: task.clone(),
                    metric: metric.clone(),
                    model: model.clone(),
                    expected: None,
                    found: Some(value),
                    tolerance: entry.and_then(|entry| entry.tolerance).unwrap_or(golden.tolerance),
                });
            }
        }
    }
    regressions.sort_by(|a, b| (&a.task, &a.metric, &a.model).cmp(&(&b.task, &b.metric, &b.model)));
    regressions
}

fn value_of(found: &Metrics, task: &str, metric: &str, model: &str) -> Option<f64> {
    found.get(task)?.get(metric)?.get(model).copied()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn metrics(values: &[(&str, &str, &str, f64)]) -> Metrics {
        let mut metrics = Metrics::new();
        for &(task, metric, model, value) in values {
            let task = metrics.entry(task.to_owned()).or_default();
            task.entry(metric.to_owned()).or_default().insert(model.to_owned(), value);
        }
        metrics
    }

    #[test]
    fn names_what_is_missing_changed_and_new() {
        let run = metrics(&[
            ("arc", "acc,none", "base", 0.5),
            ("arc", "acc,none", "r8", 0.625),
            ("sum", "bleu,none", "base", 3.0),
        ]);
        let mut golden = Golden::accept(None, &run, 1e-6);
        golden.tasks.get_mut("sum").unwrap().get_mut("bleu,none").unwrap().tolerance = Some(0.1);
        assert_eq!(check(&golden, &run), []);

        let other = metrics(&[
            ("arc", "acc,none", "base", 0.5 + 1e-5),
            ("arc", "acc,none", "r32", 0.5),
            ("sum", "bleu,none", "base", 3.05),
        ]);
        let found = check(&golden, &other);
        let text: Vec<String> = found.iter().map(ToString::to_string).collect();
        let kinds: Vec<RegressionKind> = found.iter().map(|regression| regression.kind).collect();
        assert_eq!(kinds, [RegressionKind::Changed, RegressionKind::New, RegressionKind::Missing], "{text:?}");
        assert!(text[0].starts_with("arc acc,none base: expected 0.5 ± 0.000001, found 0.50001"), "{text:?}");
        assert_eq!(text[1], "arc acc,none r32: found 0.5, expected nothing: it is new");
        assert_eq!(text[2], "arc acc,none r8: expected 0.625 ± 0.000001, found nothing");

        let broken = metrics(&[("sum", "bleu,none", "base", f64::NAN)]);
        assert!(check(&golden, &broken).iter().any(|r| r.task == "sum" && r.kind == RegressionKind::Changed));
        let again = Golden::accept(Some(&golden), &other, 1.0);
        assert_eq!((again.tolerance, again.tasks["sum"]["bleu,none"].tolerance), (1e-6, Some(0.1)));
        assert_eq!(check(&again, &other), []);
    }

    #[test]
    fn file_reads_back_and_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.json");
        let mut golden = Golden::accept(None, &metrics(&[("arc", "acc,none", "base", 0.1 + 0.2)]), 1e-6);
        golden.tasks.get_mut("arc").unwrap().get_mut("acc,none").unwrap().tolerance = Some(0.5);
        golden.write(&path).unwrap();
        assert_eq!(Golden::read(&path).unwrap(), golden);

        let error = |text: &str| {
            fs::write(&path, text).unwrap();
            Golden::read(&path).unwrap_err().to_string()
        };
        let bad = error("{\"tolerance\": 1,\n \"tasks\": {\"a\": {\"m,none\": {\"base\": \"x\"}}}}");
        assert!(bad.contains("metrics.json, line 2") && bad.contains("METRIC,FILTER"), "{bad}");
        assert!(error(r#"{"tolerance": -1, "tasks": {}}"#).contains("tolerance -1"));
        assert!(error(r#"{"tolerance": 1, "taks": {}}"#).contains("taks"));
        let clash = Golden::accept(None, &metrics(&[("a", "m,none", "tolerance", 1.0)]), 0.0);
        assert!(clash.write(&path).unwrap_err().to_string().contains("another name"));
        let infinite = Golden::accept(None, &metrics(&[("a", "m,none", "base", f64::INFINITY)]), 0.0);
        assert!(infinite.write(&path).unwrap_err().to_string().contains("inf"));
    }
}
