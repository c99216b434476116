//! A comparison with everything a report can show, for any number of models.
#![allow(dead_code, reason = "each test file uses a part")]

use harness_core::{Digest, DocId, MetricKey, SampleScore, Seed};
use harness_metrics::{
    Statistic,
    comparison::{Column, Comparison, ModelFacts, Scale, Settings, Table, TaskFacts},
};
use harness_reports::Meta;

/// A comparison of `models` (base first); quality rises and falls with the position of the model.
pub(crate) fn comparison(models: &[&str]) -> Comparison {
    let tables = [
        table("mmlu", models, 400, 0.45, |t| (t.pooled, t.alias) = (true, Some("MMLU".into()))),
        table("mmlu_stem", models, 150, 0.40, |t| {
            (t.pooled, t.group, t.depth, t.alias) = (true, Some("mmlu".into()), 1, Some("STEM & co".into()));
        }),
        table("mmlu_abstract_algebra", models, 30, 0.35, |t| (t.group, t.depth) = (Some("mmlu_stem".into()), 2)),
        table("arc_easy", models, 250, 0.55, |_| {}),
        table("arc_easy", models, 250, 0.50, |t| (t.primary, t.key) = (false, MetricKey::new("acc_norm", "none"))),
        table("gsm8k", models, 24, 0.30, |t| t.key = MetricKey::new("exact_match", "strict-match")),
        table("wikitext", models, 60, 0.5, |t| {
            (t.statistic, t.scale, t.higher_is_better) = (Statistic::Perplexity, Scale::Raw, false);
            t.key = MetricKey::new("word_perplexity", "none");
        }),
    ];
    let facts: Vec<ModelFacts> = models
        .iter()
        .enumerate()
        .map(|(i, model)| ModelFacts {
            model: (*model).into(),
            identity: Some(Digest::of(model)),
            base: (i > 0).then(|| models[0].into()),
            adapter_is_noop: i == 2,
            tasks: [(
                "gsm8k".to_owned(),
                TaskFacts {
                    outputs: Some(Digest::of(if i == 2 { models[0] } else { *model })),
                    requests: 24,
                    cut_by_limit: usize::from(i == 1) * 6,
                    ..TaskFacts::default()
                },
            )]
            .into(),
            ..ModelFacts::default()
        })
        .collect();
    let settings = Settings { resamples: 500, ..Settings::default() };
    Comparison::compute(&tables, &facts, &settings).expect("a valid comparison")
}

/// A manifest with a hash.
pub(crate) fn meta() -> Meta {
    Meta {
        title: String::new(),
        manifest: vec![
            ("harness".into(), "0.1.0".into()),
            ("base".into(), Digest::of("base").to_string()),
            ("command".into(), "harness compare base r8 --tasks a|b".into()),
        ],
    }
}

fn table(task: &str, models: &[&str], n: usize, level: f64, edit: impl FnOnce(&mut Table)) -> Table {
    let mut table = Table::new(task, MetricKey::new("acc", "none"), Vec::new());
    edit(&mut table);
    let seed = task.bytes().fold(7, |seed: u64, byte| seed * 31 + u64::from(byte));
    let quality = [0.0, 0.22, 0.0, -0.25, 0.1, 0.02, -0.04, 0.15, 0.05, -0.1];
    table.columns = models
        .iter()
        .enumerate()
        .map(|(j, model)| {
            let score = |i: usize| {
                let mut rng = Seed(seed).stream("document", i as u64);
                let difficulty = rng.uniform();
                let shift = quality[j % quality.len()];
                let right = difficulty < level + shift;
                let words = 20.0 + (10.0 * difficulty).floor();
                let perplexity = table.statistic == Statistic::Perplexity;
                let stats = match perplexity {
                    true => vec![-words * (3.0 + difficulty - 0.2 * shift), words],
                    false => vec![f64::from(u8::from(right)), 1.0],
                };
                let parsed = right || table.key.filter == "none" || !i.is_multiple_of(3);
                SampleScore { doc: DocId(Digest::of(format!("{task} {i}"))), key: table.key.clone(), stats, parsed }
            };
            Column::new(*model, (0..n).map(score).collect())
        })
        .collect();
    table
}

/// Three models, one with characters that need escaping.
pub(crate) const THREE: [&str; 3] = ["base", "r8_50%|x", "noop"];
/// Ten models.
pub(crate) const TEN: [&str; 10] = ["base", "r8", "r16", "r32", "r64", "full", "qlora", "dpo", "merge", "old"];
