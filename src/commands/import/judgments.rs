//! Verdicts of judges: alpaca_eval's annotations and FastChat's judgments.

use std::collections::{BTreeMap, BTreeSet};

use harness_core::{DocId, MetricKey};
use harness_metrics::Statistic;
use serde_json::{Map, Value};

use super::{
    super::Failure,
    record::{ImportedMetric, ImportedTask},
    rows::{document, text},
};

/// A task with the number of records without a verdict.
pub(super) type Judged = (ImportedTask, usize);

/// Win shares against the baseline by instruction, from `annotations.json`: preference 1 is the baseline's win, 2 the
/// model's, 1.5 and 0 a draw.
///
/// # Errors
/// If a record is not alpaca_eval's, or the file holds several models and none was chosen.
pub(super) fn alpaca_eval(rows: &[Map<String, Value>], model: Option<&str>) -> Result<Judged, Failure> {
    let chosen = choose(rows, &["generator_2"], model)?;
    let mut task = Scores::new("alpaca_eval", "win_rate");
    let mut missing = 0;
    for (i, row) in rows.iter().enumerate() {
        let field = |name: &str| {
            row.get(name).and_then(text).ok_or_else(|| Failure::usage(format!("record {}: no {name}", i + 1)))
        };
        if field("generator_2")? != chosen {
            continue;
        }
        let preference = match row.get("preference") {
            None | Some(Value::Null) => None,
            Some(value) => Some(value.as_f64().filter(|p| *p == 0.0 || (1.0..=2.0).contains(p)).ok_or_else(|| {
                Failure::usage(format!("record {}: found the preference {value}, expected 1 to 2, or 0", i + 1))
            })?),
        };
        let share = preference.map(|p| if p == 0.0 { 0.5 } else { p - 1.0 });
        missing += usize::from(share.is_none());
        task.add(i + 1, &field("instruction")?, None, share)?;
    }
    Ok((task.finish(), missing))
}

/// Ratings by question and turn (clusters are questions), or shares of won games where both orders of a pair were
/// judged, from a file of `model_judgment`.
///
/// # Errors
/// If a line is not FastChat's, or the file holds several models and none was chosen.
pub(super) fn fastchat(rows: &[Map<String, Value>], model: Option<&str>) -> Result<Judged, Failure> {
    let pairs = rows.iter().any(|row| row.contains_key("g1_winner"));
    let names: &[&str] = if pairs { &["model_1", "model_2"] } else { &["model"] };
    let chosen = choose(rows, names, model)?;
    let mut task = if pairs { Scores::new("mt_bench_pairs", "win_rate") } else { Scores::new("mt_bench", "score") };
    let mut missing = 0;
    for (i, row) in rows.iter().enumerate() {
        let field = |name: &str| {
            row.get(name).and_then(text).ok_or_else(|| Failure::usage(format!("line {}: no {name}", i + 1)))
        };
        let (question, turn) = (field("question_id")?, field("turn")?);
        let score = if pairs {
            let models = [field("model_1")?, field("model_2")?];
            let Some(own) = models.iter().position(|name| *name == chosen) else { continue };
            let mut shares = vec![];
            for game in ["g1_winner", "g2_winner"] {
                shares.push(match field(game)?.as_str() {
                    "tie" => Some(0.5),
                    "error" => None,
                    winner => Some(f64::from(u8::from(winner == ["model_1", "model_2"][own]))),
                });
            }
            let known: Option<Vec<f64>> = shares.into_iter().collect();
            (format!("{question} turn {turn} against {}", models[1 - own]), known.map(|s| (s[0] + s[1]) / 2.0))
        } else {
            if field("model")? != chosen {
                continue;
            }
            let score = row.get("score").and_then(Value::as_f64).filter(|score| score.is_finite());
            let score = score.ok_or_else(|| Failure::usage(format!("line {}: no score", i + 1)))?;
            (format!("{question} turn {turn}"), (score >= 0.0).then_some(score))
        };
        missing += usize::from(score.1.is_none());
        task.add(i + 1, &score.0, Some(&question), score.1)?;
    }
    Ok((task.finish(), missing))
}

/// The model that is meant: the one asked for, or the only one.
fn choose(rows: &[Map<String, Value>], names: &[&str], model: Option<&str>) -> Result<String, Failure> {
    let found: BTreeSet<String> =
        rows.iter().flat_map(|row| names.iter().filter_map(|name| row.get(*name).and_then(text))).collect();
    let list = found.iter().cloned().collect::<Vec<_>>().join(", ");
    match model {
        Some(model) if found.contains(model) => Ok(model.to_owned()),
        Some(model) => Err(Failure::usage(format!("--model {model}: the file has judgments of {list}"))),
        None if found.len() == 1 => Ok(list),
        None if found.is_empty() => Err(Failure::usage(format!("no record names a model ({})", names.join(", ")))),
        None => Err(Failure::usage(format!("the file has judgments of {list}; choose one with --model"))),
    }
}

struct Scores {
    task: ImportedTask,
    metric: ImportedMetric,
    seen: BTreeMap<DocId, usize>,
}

impl Scores {
    fn new(task: &str, metric: &str) -> Self {
        let metric = ImportedMetric {
            key: MetricKey::new(metric, "none"),
            statistic: Statistic::Mean,
            higher_is_better: true,
            primary: true,
            scores: vec![],
            repeated: false,
            aggregate: None,
        };
        Self { task: ImportedTask { id: task.to_owned(), ..ImportedTask::default() }, metric, seen: BTreeMap::new() }
    }

    fn add(&mut self, number: usize, label: &str, cluster: Option<&str>, score: Option<f64>) -> Result<(), Failure> {
        let doc = document(&self.task.id, label);
        if let Some(first) = self.seen.insert(doc, number) {
            return Err(Failure::usage(format!("record {number}: {label:?} was judged in record {first} already")));
        }
        self.task.labels.insert(doc, label.to_owned());
        if let Some(cluster) = cluster {
            self.task.clusters.insert(doc, cluster.to_owned());
        }
        self.metric.scores.extend(score.map(|score| (doc, vec![score, 1.0])));
        Ok(())
    }

    fn finish(mut self) -> ImportedTask {
        self.task.metrics.push(self.metric);
        self.task
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows(value: &Value) -> Vec<Map<String, Value>> {
        value.as_array().unwrap().iter().map(|row| row.as_object().unwrap().clone()).collect()
    }

    fn values(task: &ImportedTask) -> Vec<f64> {
        task.metrics[0].scores.iter().map(|(_, stats)| stats[0]).collect()
    }

    #[test]
    fn preferences_become_win_shares() {
        let record = |instruction: &str, preference: Value| json!({"instruction": instruction, "generator_1": "b", "generator_2": "m", "preference": preference});
        let all = json!([
            record("x", json!(1)),
            record("y", json!(2.0)),
            record("z", json!(1.5)),
            record("d", json!(0)),
            record("n", Value::Null)
        ]);
        let (task, missing) = alpaca_eval(&rows(&all), None).unwrap_or_else(|e| panic!("{}", e.message()));
        assert_eq!((values(&task), missing, task.labels.len()), (vec![0.0, 1.0, 0.5, 0.5], 1, 5));
        let wrong = alpaca_eval(&rows(&json!([record("x", json!(7))])), None).err().unwrap();
        assert!(wrong.message().contains("record 1") && wrong.message().contains("1 to 2"), "{}", wrong.message());
    }

    #[test]
    fn ratings_cluster_by_question() {
        let line = |question: u32, turn: u32, model: &str, score: f64| json!({"question_id": question, "turn": turn, "model": model, "score": score});
        let all =
            json!([line(81, 1, "m", 8.0), line(81, 2, "m", 6.0), line(82, 1, "m", -1.0), line(81, 1, "other", 3.0)]);
        let error = fastchat(&rows(&all), None).err().unwrap();
        assert!(error.message().contains("m, other"), "{}", error.message());
        let (task, missing) = fastchat(&rows(&all), Some("m")).unwrap_or_else(|e| panic!("{}", e.message()));
        assert_eq!((values(&task), missing), (vec![8.0, 6.0], 1));
        let clusters: BTreeSet<&String> = task.clusters.values().collect();
        assert_eq!(clusters.len(), 2);
    }

    #[test]
    fn both_games_of_a_pair_make_one_share() {
        let line = |question: u32, first: &str, second: &str| json!({"question_id": question, "turn": 1, "model_1": "base", "model_2": "m", "g1_winner": first, "g2_winner": second});
        let all = json!([line(81, "model_2", "model_2"), line(82, "tie", "model_1"), line(83, "error", "model_2")]);
        let (task, missing) = fastchat(&rows(&all), Some("m")).unwrap_or_else(|e| panic!("{}", e.message()));
        assert_eq!((values(&task), missing), (vec![1.0, 0.25], 1));
    }
}
