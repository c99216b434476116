//! A comparison of the size of MMLU: 14,042 documents in 57 tasks, their groups and the whole, for three models with
//! 10,000 resamples.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use harness_core::{Digest, DocId, MetricKey, SampleScore, Seed};
use harness_metrics::comparison::{Column, Comparison, Settings, Table};

const DOCUMENTS: usize = 14_042;
const TASKS: usize = 57;

fn table(task: &str, documents: std::ops::Range<usize>, primary: bool, graded: bool, scores: &[Vec<f64>]) -> Table {
    let key = MetricKey::new(if primary { "acc" } else { "acc_norm" }, "none");
    let score = |j: usize, i: usize| {
        let value = if graded { scores[j][i] } else { f64::from(u8::from(scores[j][i] > 0.5)) };
        SampleScore { doc: DocId(Digest::of(i.to_le_bytes())), key: key.clone(), stats: vec![value, 1.0], parsed: true }
    };
    let columns = (0..3).map(|j| Column::new(format!("model {j}"), documents.clone().map(|i| score(j, i)).collect()));
    Table { primary, ..Table::new(task, key.clone(), columns.collect()) }
}

fn tables(graded: bool) -> Vec<Table> {
    let scores: Vec<Vec<f64>> = (0..3)
        .map(|j| {
            let mut rng = Seed(j).stream("scores", 0);
            (0..DOCUMENTS).map(|_| rng.uniform()).collect()
        })
        .collect();
    let mut tables = Vec::new();
    for primary in [true, false] {
        // The whole, four groups, and the tasks: every document three times.
        tables.push(table("mmlu", 0..DOCUMENTS, primary, graded, &scores));
        for parts in [4, TASKS] {
            for part in 0..parts {
                let range = part * DOCUMENTS / parts..(part + 1) * DOCUMENTS / parts;
                tables.push(table(&format!("part {part} of {parts}"), range, primary, graded, &scores));
            }
        }
    }
    tables
}

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("comparison of 14,042 documents, 3 models, 2 metrics, 10,000 resamples");
    group.sample_size(10).measurement_time(Duration::from_secs(20));
    for (name, graded) in [("right or wrong", false), ("graded", true)] {
        let tables = tables(graded);
        group.bench_function(name, |b| b.iter(|| Comparison::compute(&tables, &[], &Settings::default()).unwrap()));
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
