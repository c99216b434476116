//! Clean comparisons: how often do audits raise an alarm where nothing is wrong?

use std::collections::BTreeMap;

use harness_core::{Digest, MetricKey, SampleScore, Seed, StreamRng};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::population::document;
use crate::comparison::{Caveat, Column, Comparison, ModelFacts, Settings, Table, TaskFacts};

/// Alarms on clean comparisons.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FalseAlarms {
    /// Comparisons simulated.
    pub runs: usize,
    /// Those with an alarm that is not of statistical kind.
    pub alarmed: usize,
    /// Alarms by kind.
    pub kinds: BTreeMap<String, usize>,
}

/// Simulates clean comparisons of three models on three tasks: right or wrong, right or wrong behind two filters, and
/// graded; half of them with outputs known, half as imported scores.
pub fn false_alarms(runs: usize, seed: Seed) -> FalseAlarms {
    let alarms: Vec<Vec<String>> = (0..runs as u64)
        .into_par_iter()
        .map(|run| {
            let mut rng = seed.stream("clean", run);
            let tables = tables(&mut rng);
            let facts = facts(&tables, run, run.is_multiple_of(2));
            let settings = Settings { resamples: 500, seed: run, ..Settings::default() };
            let caveats = Comparison::compute(&tables, &facts, &settings).map(|c| c.caveats).unwrap_or_default();
            caveats.iter().filter(|caveat| !caveat.is_statistical()).map(kind).collect()
        })
        .collect();
    let mut kinds = BTreeMap::new();
    alarms.iter().flatten().for_each(|kind| *kinds.entry(kind.clone()).or_insert(0) += 1);
    FalseAlarms { runs, alarmed: alarms.iter().filter(|alarms| !alarms.is_empty()).count(), kinds }
}

fn kind(caveat: &Caveat) -> String {
    let value = serde_json::to_value(caveat).unwrap_or_default();
    value["kind"].as_str().unwrap_or("unknown").to_owned()
}

const MODELS: [&str; 3] = ["base", "r8", "r32"];

fn tables(rng: &mut StreamRng) -> Vec<Table> {
    let n = 30 + rng.below(370) as usize;
    let level = 0.2 + 0.6 * rng.uniform();
    let quality: Vec<f64> = MODELS.iter().map(|_| 0.1 * rng.normal()).collect();
    let mut tables = Vec::new();
    for (task, filters) in
        [("choice", &["none"][..]), ("answer", &["strict-match", "flexible-extract"]), ("text", &["none"])]
    {
        let difficulty: Vec<f64> = (0..n).map(|_| rng.uniform()).collect();
        let graded = task == "text";
        let scores: Vec<Vec<f64>> = quality
            .iter()
            .map(|quality| {
                let mut score = |difficulty: &f64| {
                    let chance = level + quality + 0.8 * (difficulty - 0.5) + 0.15 * rng.normal();
                    if graded {
                        (chance + 0.1 * rng.normal()).clamp(0.0, 1.0)
                    } else {
                        f64::from(u8::from(chance > 0.5))
                    }
                };
                difficulty.iter().map(&mut score).collect()
            })
            .collect();
        for (f, filter) in filters.iter().enumerate() {
            let key = MetricKey::new(if graded { "rougeL" } else { "acc" }, *filter);
            let column = |j: usize, rng: &mut StreamRng| {
                let score = |i: usize, rng: &mut StreamRng| {
                    // A second filter extracts another answer now and then.
                    let other = f > 0 && rng.uniform() < 0.03;
                    let value = if other { 1.0 - scores[j][i] } else { scores[j][i] };
                    SampleScore { doc: document(i), key: key.clone(), stats: vec![value, 1.0], parsed: true }
                };
                Column::new(MODELS[j], (0..n).map(|i| score(i, rng)).collect())
            };
            let columns = (0..MODELS.len()).map(|j| column(j, rng)).collect();
            tables.push(Table { primary: f == 0, noise: Some(0.0), ..Table::new(task, key.clone(), columns) });
        }
    }
    tables
}

fn facts(tables: &[Table], run: u64, native: bool) -> Vec<ModelFacts> {
    let same = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let of = |(j, model): (usize, &&str)| {
        let mut tasks = BTreeMap::new();
        for table in tables.iter().filter(|_| native) {
            let hash = |i: usize| Digest::of(format!("{run} {model} {} {i}", table.task));
            let n = table.columns[0].scores.len();
            tasks.insert(
                table.task.clone(),
                TaskFacts {
                    outputs: Some(hash(n)),
                    requests: n,
                    repeats: 1,
                    documents: (0..n).map(|i| (document(i), hash(i))).collect(),
                    conditions: same(&[("prompts", "p"), ("num_fewshot", "5")]),
                    ..TaskFacts::default()
                },
            );
        }
        let recipe = match j {
            0 => BTreeMap::new(),
            _ => same(&[("lora.rank", &model[1..]), ("lora.alpha", ["", "16", "64"][j]), ("training.epochs", "2")]),
        };
        ModelFacts {
            model: (*model).to_owned(),
            identity: Some(Digest::of(format!("{run} {model}"))),
            base: (j > 0).then(|| "base".to_owned()),
            adapter_is_noop: false,
            conditions: same(&[("dtype", "f32")]),
            recipe,
            source: (!native).then(|| Digest::of(format!("file {run} {model}"))),
            tasks,
            ..ModelFacts::default()
        }
    };
    MODELS.iter().enumerate().map(of).collect()
}
