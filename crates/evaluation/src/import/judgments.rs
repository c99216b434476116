//! Verdicts of judges: alpaca_eval's annotations and FastChat's judgments.

use std::collections::{BTreeMap, BTreeSet};

use harness_core::{DocId, MetricKey};
use harness_judges::parser::{Marked, marked, ranking_parser};
use harness_metrics::stats::Range;
use serde_json::{Map, Value};

use super::{
    pairs::{self, Pair},
    record::{ImportedMetric, ImportedTask, Judged},
    rows::{RowOptions, UNNAMED, document},
    values::text,
};
use crate::EvaluationError;

/// What a file of verdicts became.
pub(super) struct Verdicts {
    /// The task.
    pub task: ImportedTask,
    /// The model as the file names it.
    pub model: Option<String>,
    /// Number of records without a verdict.
    pub missing: usize,
}

/// Win shares against the baseline by instruction, from `annotations.json`: preference 1 is the baseline's win, 2 the
/// model's, 1.5 and 0 a draw.
///
/// # Errors
/// If a record is not alpaca_eval's, or the file holds several models and none was chosen.
pub(super) fn alpaca_eval(rows: &[Map<String, Value>], options: &RowOptions<'_>) -> Result<Verdicts, EvaluationError> {
    let chosen = choose(rows, &["generator_2"], options.model)?;
    let mut task = Scores::new("alpaca_eval", "win_rate", [0.0, 1.0]);
    for (i, row) in rows.iter().enumerate() {
        let field = |name: &str| {
            row.get(name).and_then(text).ok_or_else(|| EvaluationError::usage(format!("record {}: no {name}", i + 1)))
        };
        if chosen.is_some() && Some(field("generator_2")?) != chosen {
            continue;
        }
        let preference = match row.get("preference") {
            None | Some(Value::Null) => None,
            Some(value) => Some(value.as_f64().filter(|p| *p == 0.0 || (1.0..=2.0).contains(p)).ok_or_else(|| {
                let hint = if value.is_string() {
                    "; for verdicts by name: harness import jsonl FILE --map id=instruction,win=preference:A=1,B=0,tie=0.5"
                } else {
                    ""
                };
                let place = i + 1;
                EvaluationError::usage(format!("record {place}: found the preference {value}, expected 1 to 2, or 0{hint}"))
            })?),
        };
        let share = preference.map(|p| if p == 0.0 { 0.5 } else { p - 1.0 });
        task.add(i + 1, &field("instruction")?, None, share)?;
        task.judge(row.get("annotator").and_then(text));
        let length = |name: &str| row.get(name).and_then(Value::as_str).map(|output| output.chars().count());
        let lengths = length("output_2").zip(length("output_1"));
        // The tool turns the order of about half of the pairs, and back in the preference.
        let named_first = row.get("raw_completion").and_then(names_first);
        let first = |share: f64| named_first.filter(|_| share != 0.5).map(|first| first == (share > 0.5));
        task.pairs.extend(share.map(|share| Pair { share, lengths, first: first(share) }));
    }
    Ok(task.finish(options.name, chosen))
}

/// Whether the judge's own answer names the output that it was shown first, in the forms of alpaca_eval's annotators:
/// `m` and `M` (as text or as the first token of log-probabilities), `Output (a)` and `Output (b)`, or ranks.
fn names_first(raw: &Value) -> Option<bool> {
    let token = raw.pointer("/logprobs/content/0/token").or_else(|| raw.pointer("/choices/0/text"));
    let answer = token.unwrap_or(raw).as_str()?.trim();
    match answer {
        "m" => return Some(true),
        "M" => return Some(false),
        _ => {}
    }
    match [answer.contains("Output (a)"), answer.contains("Output (b)")] {
        [true, false] => Some(true),
        [false, true] => Some(false),
        _ => ranking_parser(answer).map(|rank| rank == 1),
    }
}

/// Ratings by question and turn (clusters are questions), or shares of won games where both orders of a pair were
/// judged, from a file of `model_judgment`. Where a verdict was not taken out, it is read from the judge's text.
///
/// # Errors
/// If a line is not FastChat's, or the file holds several models and none was chosen.
pub(super) fn fastchat(rows: &[Map<String, Value>], options: &RowOptions<'_>) -> Result<Verdicts, EvaluationError> {
    let pairs = rows.iter().any(|row| row.contains_key("g1_winner") || row.contains_key("g1_judgment"));
    let names: &[&str] = if pairs { &["model_1", "model_2"] } else { &["model"] };
    let chosen = choose(rows, names, options.model)?;
    let mut task = if pairs {
        Scores::new("mt_bench_pairs", "win_rate", [0.0, 1.0])
    } else {
        Scores::new("mt_bench", "score", RATINGS)
    };
    let turns = rows.iter().any(|row| row.contains_key("turn"));
    for (i, row) in rows.iter().enumerate() {
        let field = |name: &str| {
            row.get(name).and_then(text).ok_or_else(|| EvaluationError::usage(format!("line {}: no {name}", i + 1)))
        };
        let question = field("question_id")?;
        let label = if turns { format!("{question} turn {}", field("turn")?) } else { question.clone() };
        let judge = row.get("judge").map(|judge| judge.get(0).unwrap_or(judge)).and_then(text);
        if !pairs {
            if chosen.is_some() && Some(field("model")?) != chosen {
                continue;
            }
            let score = rating(row).map_err(|message| EvaluationError::usage(format!("line {}: {message}", i + 1)))?;
            task.add(i + 1, &label, Some(&question), score)?;
            task.judge(judge);
            continue;
        }
        let models = [field("model_1")?, field("model_2")?];
        let Some(own) = models.iter().position(|name| Some(name) == chosen.as_ref()) else { continue };
        let mut shares = vec![];
        for game in [1, 2] {
            let winner =
                winner(row, game).map_err(|message| EvaluationError::usage(format!("line {}: {message}", i + 1)))?;
            shares.extend(
                winner.map(
                    |winner| {
                        if winner == 0.5 { 0.5 } else { f64::from(u8::from((winner == 1.0) == (own == 1))) }
                    },
                ),
            );
        }
        let both = (shares.len() == 2).then(|| (shares[0] + shares[1]) / 2.0);
        let label = format!("{label} against {}", models[1 - own]);
        task.add(i + 1, &label, Some(&question), both)?;
        task.judge(judge);
        if let [first, second] = shares[..] {
            // model_1 is shown first in the first game.
            task.games.push(if own == 1 { [first, second] } else { [1.0 - first, 1.0 - second] });
        }
    }
    Ok(task.finish(options.name, chosen))
}

/// MT-Bench's scale.
const RATINGS: [f64; 2] = [1.0, 10.0];

/// The rating of a line: its `score`, where -1 is none, else the one in the judge's text.
fn rating(row: &Map<String, Value>) -> Result<Option<f64>, String> {
    let [low, high] = RATINGS;
    let judgment = row.get("judgment").and_then(Value::as_str);
    let marked = judgment.map(marked);
    let told = match &marked {
        Some(Marked::One(verdict)) => verdict.parse::<f64>().ok(),
        _ => None,
    };
    let score = match row.get("score") {
        None | Some(Value::Null) if judgment.is_some() => {
            return Ok(told.filter(|score| (low..=high).contains(score)));
        }
        Some(value) => value.as_f64().filter(|score| score.is_finite()),
        None => None,
    };
    let score = score.ok_or("no score")?;
    if score == -1.0 {
        return Ok(None);
    }
    if !(low..=high).contains(&score) {
        return Err(format!("the score {score} is outside the scale of MT-Bench, {low} to {high}"));
    }
    match (told, judgment) {
        (Some(told), Some(text)) if told != score && text.contains("[[") => {
            Err(format!("the score is {score}, and the judgment says [[{told}]]"))
        }
        _ => Ok(Some(score)),
    }
}

/// Who won a game, 0 for model_1 and 1 for model_2: as the line says, else as the judge's text does. `None` where there is
/// no verdict.
fn winner(row: &Map<String, Value>, game: usize) -> Result<Option<f64>, String> {
    let name = format!("g{game}_winner");
    match row.get(&name).and_then(text).as_deref() {
        Some("model_1") => Ok(Some(0.0)),
        Some("model_2") => Ok(Some(1.0)),
        Some("tie") => Ok(Some(0.5)),
        Some("error") => Ok(None),
        Some(other) => Err(format!("found {other:?} in {name}, expected model_1, model_2, tie or error")),
        None => match row.get(&format!("g{game}_judgment")).and_then(Value::as_str) {
            None => Err(format!("no {name}")),
            // The second game shows the models in the other order.
            Some(judgment) => Ok(match (marked(judgment), game) {
                (Marked::One(verdict), _) if verdict == "C" => Some(0.5),
                (Marked::One(verdict), game) if verdict == "A" => Some(if game == 1 { 0.0 } else { 1.0 }),
                (Marked::One(verdict), game) if verdict == "B" => Some(if game == 1 { 1.0 } else { 0.0 }),
                _ => None,
            }),
        },
    }
}

/// The model that is meant: the one asked for, or the only one. `None` where no record names one: then there is one.
fn choose(rows: &[Map<String, Value>], names: &[&str], model: Option<&str>) -> Result<Option<String>, EvaluationError> {
    let found: BTreeSet<String> =
        rows.iter().flat_map(|row| names.iter().filter_map(|name| row.get(*name).and_then(text))).collect();
    let list = found.iter().cloned().collect::<Vec<_>>().join(", ");
    match model {
        Some(model) if found.contains(model) => Ok(Some(model.to_owned())),
        Some(model) => Err(EvaluationError::usage(format!("--model {model}: the file has judgments of {list}"))),
        None if found.len() == 1 => Ok(Some(list)),
        None if found.is_empty() && names.len() == 1 => Ok(None),
        None if found.is_empty() => {
            Err(EvaluationError::usage(format!("no record names a model ({})", names.join(", "))))
        }
        None => Err(EvaluationError::usage(format!("the file has judgments of {list}; choose one with --model"))),
    }
}

struct Scores {
    task: ImportedTask,
    metric: ImportedMetric,
    scale: [f64; 2],
    seen: BTreeMap<DocId, usize>,
    judges: BTreeSet<String>,
    /// Verdicts in one order each.
    pairs: Vec<Pair>,
    /// Wins of model_2 in both games.
    games: Vec<[f64; 2]>,
    missing: usize,
}

impl Scores {
    fn new(task: &str, metric: &str, scale: [f64; 2]) -> Self {
        let range = Some(Range::between(scale[0], scale[1]));
        Self {
            task: ImportedTask { id: task.to_owned(), ..ImportedTask::default() },
            metric: ImportedMetric { range, ..ImportedMetric::new(MetricKey::new(metric, "none")) },
            scale,
            seen: BTreeMap::new(),
            judges: BTreeSet::new(),
            pairs: vec![],
            games: vec![],
            missing: 0,
        }
    }

    fn add(
        &mut self,
        number: usize,
        label: &str,
        cluster: Option<&str>,
        score: Option<f64>,
    ) -> Result<(), EvaluationError> {
        let doc = document(&self.task.id, label);
        if let Some(first) = self.seen.insert(doc, number) {
            return Err(EvaluationError::usage(format!(
                "record {number}: {label:?} was already judged in record {first}"
            )));
        }
        self.task.labels.insert(doc, label.to_owned());
        if let Some(cluster) = cluster {
            self.task.clusters.insert(doc, cluster.to_owned());
        }
        self.missing += usize::from(score.is_none());
        self.metric.scores.extend(score.map(|score| (doc, vec![score, 1.0])));
        Ok(())
    }

    fn judge(&mut self, name: Option<String>) {
        self.judges.extend(name);
    }

    fn finish(mut self, name: &str, model: Option<String>) -> Verdicts {
        let mut findings = pairs::findings(name, &self.pairs);
        findings.extend(pairs::both_orders(&self.games));
        let scores: Vec<f64> = self.metric.scores.iter().map(|(_, stats)| stats[0]).collect();
        findings.extend(pairs::unread(&scores, self.missing, self.scale));
        let judges: Vec<String> = self.judges.into_iter().collect();
        let judge = if judges.is_empty() { UNNAMED.to_owned() } else { judges.join(", ") };
        self.task.judged = (!findings.is_empty()).then_some(Judged { judge, findings });
        self.task.metrics.push(self.metric);
        Verdicts { task: self.task, model, missing: self.missing }
    }
}

#[cfg(test)]
mod tests {
    use harness_metrics::comparison::JudgeFinding;
    use serde_json::json;

    use super::*;

    fn rows(value: &Value) -> Vec<Map<String, Value>> {
        value.as_array().unwrap().iter().map(|row| row.as_object().unwrap().clone()).collect()
    }

    type Reader = fn(&[Map<String, Value>], &RowOptions<'_>) -> Result<Verdicts, EvaluationError>;

    fn read(reader: Reader, all: &Value, model: Option<&str>) -> Result<(ImportedTask, usize), String> {
        let options = RowOptions { name: "own", task: None, model, lower_is_better: &[] };
        let verdicts = reader(&rows(all), &options).map_err(|error| error.message().to_owned())?;
        Ok((verdicts.task, verdicts.missing))
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
        let (task, missing) = read(alpaca_eval, &all, None).unwrap();
        assert_eq!((values(&task), missing, task.labels.len()), (vec![0.0, 1.0, 0.5, 0.5], 1, 5));
        let wrong = read(alpaca_eval, &json!([record("x", json!(7))]), None).unwrap_err();
        assert!(wrong.contains("record 1") && wrong.contains("1 to 2"), "{wrong}");
        let named = read(alpaca_eval, &json!([record("x", json!("A"))]), None).unwrap_err();
        assert!(named.contains("win=preference:A=1"), "{named}");
    }

    #[test]
    fn the_order_follows_from_the_judges_answer_and_the_preference() {
        let record = |i: usize, raw: Value, preference: f64| {
            json!({"instruction": format!("{i}"), "generator_2": "m", "output_1": "short", "output_2": "a longer one",
                "annotator": "gpt4", "preference": preference, "raw_completion": raw})
        };
        let of = |all: Vec<Value>| read(alpaca_eval, &Value::from(all), None).unwrap().0.judged.unwrap();
        // Named first and preferred: the model was shown first, every time.
        let token = json!({"logprobs": {"content": [{"token": "m"}]}});
        let judged = of((0..9).map(|i| record(i, token.clone(), 1.9)).collect());
        assert_eq!(judged.judge, "gpt4");
        assert!(matches!(&judged.findings[0], JudgeFinding::OnePosition { first: true, pairs: 9, .. }), "{judged:?}");
        assert!(matches!(&judged.findings[1], JudgeFinding::LongerWins { share: 1.0, .. }), "{judged:?}");
        // The first output is always named, whosoever it is.
        let judged = of((0..20).map(|i| record(i, json!("Output (a)"), 1.0 + (i % 2) as f64)).collect());
        assert!(matches!(&judged.findings[0], JudgeFinding::FirstWins { share: 1.0, decided: 20, .. }), "{judged:?}");
    }

    #[test]
    fn ratings_cluster_by_question() {
        let line = |question: u32, turn: u32, model: &str, score: f64| json!({"question_id": question, "turn": turn, "model": model, "score": score});
        let all =
            json!([line(81, 1, "m", 8.0), line(81, 2, "m", 6.0), line(82, 1, "m", -1.0), line(81, 1, "other", 3.0)]);
        let error = read(fastchat, &all, None).unwrap_err();
        assert!(error.contains("m, other"), "{error}");
        let (task, missing) = read(fastchat, &all, Some("m")).unwrap();
        assert_eq!((values(&task), missing), (vec![8.0, 6.0], 1));
        let clusters: BTreeSet<&String> = task.clusters.values().collect();
        assert_eq!(clusters.len(), 2);
    }

    #[test]
    fn both_games_of_a_pair_make_one_share() {
        let line = |question: u32, first: &str, second: &str| json!({"question_id": question, "turn": 1, "model_1": "base", "model_2": "m", "g1_winner": first, "g2_winner": second});
        let all = json!([line(81, "model_2", "model_2"), line(82, "tie", "model_1"), line(83, "error", "model_2")]);
        let (task, missing) = read(fastchat, &all, Some("m")).unwrap();
        assert_eq!((values(&task), missing), (vec![1.0, 0.25], 1));
        let wrong = read(fastchat, &json!([line(81, "model_3", "tie")]), Some("m")).unwrap_err();
        assert!(wrong.contains("line 1: found \"model_3\" in g1_winner"), "{wrong}");
    }

    #[test]
    fn verdicts_are_read_from_the_judges_text() {
        let line = |turn: u32, judgment: &str| json!({"question_id": 81, "turn": turn, "judgment": judgment});
        let all = json!([line(1, "Clear and short. Rating: [[7]]"), line(2, "I cannot say.")]);
        let (task, missing) = read(fastchat, &all, None).unwrap();
        assert_eq!((values(&task), missing), (vec![7.0], 1));
        let scored = |score: f64, judgment: &str| json!([{"question_id": 81, "turn": 1, "model": "m", "judgment": judgment, "score": score}]);
        let error = read(fastchat, &scored(8.0, "Rating: [[7]]"), None).unwrap_err();
        assert!(error.contains("the score is 8, and the judgment says [[7]]"), "{error}");
        let error = read(fastchat, &scored(11.0, "fine"), None).unwrap_err();
        assert!(error.contains("line 1: the score 11 is outside the scale of MT-Bench, 1 to 10"), "{error}");
        // A judge that always names the first assistant.
        let game = |question: u32| json!({"question_id": question, "turn": 1, "model_1": "base", "model_2": "m", "g1_judgment": "[[A]]", "g2_judgment": "Better: [[A]]"});
        let (task, _) = read(fastchat, &Value::from((81..91).map(game).collect::<Vec<_>>()), Some("m")).unwrap();
        assert_eq!(values(&task), [0.5; 10]);
        let findings = &task.judged.unwrap().findings;
        assert!(matches!(findings[..], [JudgeFinding::PositionBias { pairs: 10, .. }]), "{findings:?}");
    }
}
