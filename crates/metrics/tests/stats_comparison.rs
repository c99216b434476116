//! The comparison of models from their scores.

use harness_core::{Digest, DocId, Finish, MetricKey, Output, Request, Response, SampleScore, Sampling, Seed, Usage};
use harness_metrics::{
    Statistic,
    comparison::{
        Alignment, Caveat, Column, Comparison, ComparisonError, IntervalMethod, ModelFacts, Scale, Settings, Table,
        TaskFacts, TestMethod, Verdict,
    },
    stats::{Correction, Interval, McNemar, Range},
};

fn doc(i: usize) -> DocId {
    DocId(Digest::of(format!("document {i}")))
}

fn key() -> MetricKey {
    MetricKey::new("acc", "none")
}

fn column(model: &str, values: &[f64]) -> Column {
    let scores = values
        .iter()
        .enumerate()
        .map(|(i, &x)| SampleScore { doc: doc(i), key: key(), stats: vec![x, 1.0], parsed: true })
        .collect();
    Column::new(model, scores)
}

fn table(task: &str, columns: Vec<Column>) -> Table {
    Table::new(task, key(), columns)
}

fn bernoulli(n: usize, p: f64, seed: u64) -> Vec<f64> {
    let mut rng = Seed(seed).stream("scores", 0);
    (0..n).map(|_| f64::from(u8::from(rng.uniform() < p))).collect()
}

fn settings() -> Settings {
    Settings { resamples: 1_000, ..Settings::default() }
}

#[test]
fn a_clear_winner_and_a_clear_loser() {
    let base = bernoulli(600, 0.5, 1);
    let (good, bad) = (bernoulli(600, 0.8, 2), bernoulli(600, 0.2, 3));
    let tables = [table("t", vec![column("base", &base), column("good", &good), column("bad", &bad)])];
    let comparison = Comparison::compute(&tables, &[], &settings()).unwrap();
    let row = &comparison.rows[0];
    assert_eq!(row.n, Some(600));
    let verdicts: Vec<Verdict> = row.contrasts.iter().map(|c| c.verdict).collect();
    assert_eq!(verdicts, [Verdict::Better, Verdict::Worse]);
    assert!(comparison.any_worse());
    let contrast = &row.contrasts[0];
    assert_eq!(contrast.test, Some(TestMethod::McnemarExact));
    assert_eq!(contrast.p, Some(McNemar::count(&base, &good).unwrap().exact()));
    assert_eq!(row.cells[0].method, IntervalMethod::Bca);
    assert!(row.cells[0].interval.unwrap().contains(row.cells[0].value.unwrap()));
    let raw: Vec<f64> = row.contrasts.iter().filter_map(|c| c.p).collect();
    let corrected: Vec<f64> = row.contrasts.iter().filter_map(|c| c.p_corrected).collect();
    assert_eq!(corrected, Correction::Holm.adjust(&raw));
    assert_eq!((comparison.families[0].tests, comparison.families[0].decided), (2, 2));
    // The same scores where lower is better turn the verdicts round.
    let mut tables = tables;
    tables[0].higher_is_better = false;
    let comparison = Comparison::compute(&tables, &[], &settings()).unwrap();
    assert_eq!(comparison.rows[0].contrasts[0].verdict, Verdict::Worse);
}

#[test]
fn deterministic_and_readable_back() {
    let make = || {
        let tables = [
            table("a", vec![column("base", &bernoulli(150, 0.5, 1)), column("r8", &bernoulli(150, 0.6, 2))]),
            table("b", vec![column("base", &bernoulli(9, 0.5, 3)), column("r8", &bernoulli(9, 0.5, 4))]),
        ];
        Comparison::compute(&tables, &[], &settings()).unwrap()
    };
    let comparison = make();
    let text = serde_json::to_string(&comparison).unwrap();
    assert_eq!(serde_json::to_string(&make()).unwrap(), text);
    assert_eq!(serde_json::from_str::<Comparison>(&text).unwrap(), comparison);
}

#[test]
fn small_and_empty_tables_do_not_panic() {
    for n in [0, 1, 2, 3, 5, 6] {
        for values in [vec![0.0; n], vec![1.0; n], vec![0.25; n], (0..n).map(|i| i as f64 / 7.0).collect()] {
            for other in [values.clone(), values.iter().map(|x| 1.0 - x).collect::<Vec<_>>()] {
                let tables = [table("t", vec![column("base", &values), column("r8", &other)])];
                let comparison = Comparison::compute(&tables, &[], &settings()).unwrap();
                let row = &comparison.rows[0];
                assert_eq!((row.n, row.cells[0].value.is_some()), (Some(n), n > 0));
                assert_eq!(row.contrasts[0].p.is_some(), n > 0);
                let text = serde_json::to_string(&comparison).unwrap();
                assert_eq!(serde_json::from_str::<Comparison>(&text).unwrap(), comparison);
                if n == 0 {
                    assert!(matches!(&comparison.caveats[..], [Caveat::NoDocuments { .. }]));
                }
                if (1..6).contains(&n) {
                    assert!(matches!(&comparison.caveats[..], [Caveat::TooFewDocuments { .. }]));
                    assert_eq!(row.contrasts[0].verdict, Verdict::Undecided);
                }
            }
        }
    }
}

#[test]
fn all_ties_in_binary_scores_keep_an_interval() {
    let scores = vec![1.0; 40];
    let tables = [table("t", vec![column("base", &scores), column("r8", &scores)])];
    let comparison = Comparison::compute(&tables, &[], &settings()).unwrap();
    let row = &comparison.rows[0];
    assert_eq!(row.cells[0].method, IntervalMethod::Wilson);
    assert!(row.cells[0].interval.unwrap().low < 0.95 && row.cells[0].interval.unwrap().high == 1.0);
    let contrast = &row.contrasts[0];
    assert_eq!(
        (contrast.method, contrast.p, contrast.verdict),
        (IntervalMethod::BonettPrice, Some(1.0), Verdict::Undecided)
    );
    assert!(contrast.interval.unwrap().half_width() > 0.01);
    assert_eq!(contrast.equivalent, Some(false));
}

#[test]
fn misaligned_documents_are_named_or_left_out() {
    let mut short = column("r8", &[1.0, 0.0, 1.0]);
    short.scores.remove(1);
    let base = column("base", &[1.0, 0.0, 0.0]);
    let tables = [table("t", vec![base, short])];
    let error = Comparison::compute(&tables, &[], &settings()).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, ComparisonError::Misaligned { .. }));
    assert!(message.contains("`r8` lacks 1 document") && message.contains(&doc(1).0.short()), "{message}");
    let shared = Settings { alignment: Alignment::Intersect, ..settings() };
    let comparison = Comparison::compute(&tables, &[], &shared).unwrap();
    assert_eq!(comparison.rows[0].n, Some(2));
    let Caveat::PartialOverlap { rows } = &comparison.caveats[0] else { panic!("{:?}", comparison.caveats) };
    assert_eq!((rows[0].used, &rows[0].dropped[..]), (2, &[("base".to_owned(), 1)][..]));
    assert!(comparison.caveats[0].to_string().contains("1 of `base` left out"));
}

#[test]
fn order_of_scores_does_not_matter_within_the_candidates() {
    let (a, b) = (bernoulli(200, 0.5, 1), bernoulli(200, 0.6, 2));
    let mut turned = column("r8", &b);
    turned.scores.reverse();
    let one = Comparison::compute(&[table("t", vec![column("base", &a), column("r8", &b)])], &[], &settings()).unwrap();
    let two = Comparison::compute(&[table("t", vec![column("base", &a), turned])], &[], &settings()).unwrap();
    assert_eq!(one, two);
}

#[test]
fn bad_scores_and_settings_are_errors() {
    let with = |edit: fn(&mut Table)| {
        let mut table = table("t", vec![column("base", &[1.0, 0.0]), column("r8", &[1.0, 0.0])]);
        edit(&mut table);
        Comparison::compute(&[table], &[], &settings()).unwrap_err()
    };
    let error = with(|table| table.columns[1].scores[1].stats[0] = f64::NAN);
    let message = error.to_string();
    assert!(matches!(error, ComparisonError::NotFinite { .. }));
    assert!(message.contains("`r8`") && message.contains("`t`") && message.contains(&doc(1).0.short()), "{message}");
    let error = with(|table| table.columns[0].scores[0].stats[1] = f64::INFINITY);
    assert!(matches!(error, ComparisonError::NotFinite { .. }), "{error}");
    let error = with(|table| table.columns[0].scores[0].stats.push(1.0));
    assert!(matches!(error, ComparisonError::Width { .. }), "{error}");
    let error = with(|table| table.columns[1].scores[1].doc = table.columns[1].scores[0].doc);
    assert!(matches!(error, ComparisonError::DuplicateDocument { .. }), "{error}");
    let error = with(|table| table.columns[1].scores[1].key.metric = "f1".into());
    assert!(matches!(error, ComparisonError::OtherMetric { .. }), "{error}");
    let error = with(|table| table.columns[1].model = "base".into());
    assert!(matches!(error, ComparisonError::DuplicateModel(_)), "{error}");
    let error = with(|table| drop(table.clusters.insert(table.columns[0].scores[0].doc, "c".into())));
    assert!(matches!(error, ComparisonError::NoCluster { .. }), "{error}");
    assert!(matches!(Comparison::compute(&[], &[], &settings()), Err(ComparisonError::Nothing { .. })));
    let good = [table("t", vec![column("base", &[1.0])])];
    for bad in [
        Settings { confidence: 1.0, ..settings() },
        Settings { alpha: f64::NAN, ..settings() },
        Settings { margin: 0.0, ..settings() },
        Settings { resamples: 3, ..settings() },
    ] {
        let error = Comparison::compute(&good, &[], &bad).unwrap_err();
        assert!(matches!(error, ComparisonError::Setting { .. }), "{error}");
    }
    let unknown = [ModelFacts { model: "r9".into(), ..ModelFacts::default() }];
    let error = Comparison::compute(&good, &unknown, &settings()).unwrap_err();
    assert!(matches!(error, ComparisonError::UnknownFacts { .. }), "{error}");
    let twice = [good[0].clone(), good[0].clone()];
    let error = Comparison::compute(&twice, &[], &settings()).unwrap_err();
    assert!(matches!(error, ComparisonError::DuplicateTable { .. }), "{error}");
}

#[test]
fn one_model_alone_has_values_and_no_contrasts() {
    let comparison = Comparison::compute(&[table("t", vec![column("base", &bernoulli(50, 0.5, 1))])], &[], &settings());
    let comparison = comparison.unwrap();
    assert!(comparison.rows[0].contrasts.is_empty() && comparison.families.is_empty());
    assert!(comparison.candidates().is_empty() && comparison.base() == Some("base"));
}

#[test]
fn clusters_widen_intervals_and_change_the_test() {
    // Twenty passages with ten equal answers each hold twenty, not two hundred, independent answers.
    let spread = |seed| bernoulli(20, 0.5, seed).iter().flat_map(|&x| [x; 10]).collect::<Vec<f64>>();
    let mut clustered = table("t", vec![column("base", &spread(1)), column("r8", &spread(2))]);
    let independent = Comparison::compute(&[clustered.clone()], &[], &settings()).unwrap();
    clustered.clusters = (0..200).map(|i| (doc(i), format!("passage {}", i / 10))).collect();
    let comparison = Comparison::compute(&[clustered], &[], &settings()).unwrap();
    let (row, plain) = (&comparison.rows[0], &independent.rows[0]);
    assert_eq!((row.n, row.clusters, plain.clusters), (Some(200), Some(20), None));
    assert!(row.cells[0].interval.unwrap().half_width() > 2.0 * plain.cells[0].interval.unwrap().half_width());
    assert_ne!(row.contrasts[0].test, Some(TestMethod::McnemarExact));
    assert!(row.contrasts[0].p > plain.contrasts[0].p);
}

#[test]
fn families_keep_subjects_from_diluting_the_group() {
    let columns = || vec![column("base", &bernoulli(100, 0.5, 1)), column("r8", &bernoulli(100, 0.7, 2))];
    let member = |task: &str, group: &str, depth| Table { group: Some(group.into()), depth, ..table(task, columns()) };
    let mut tables = vec![
        Table { pooled: true, ..table("mmlu", columns()) },
        Table { pooled: true, ..member("mmlu_stem", "mmlu", 1) },
        member("mmlu_algebra", "mmlu_stem", 2),
        table("arc_easy", columns()),
    ];
    let mut other = table("arc_easy", columns());
    other.primary = false;
    other.key = MetricKey::new("acc_norm", "none");
    for column in &mut other.columns {
        column.scores.iter_mut().for_each(|score| score.key = other.key.clone());
    }
    tables.push(other);
    let comparison = Comparison::compute(&tables, &[], &settings()).unwrap();
    let families: Vec<(&str, usize)> = comparison.families.iter().map(|f| (f.name.as_str(), f.tests)).collect();
    assert_eq!(families, [("main results", 2), ("within mmlu", 2), ("other metrics", 1)]);
    assert!(comparison.row("arc_easy", &MetricKey::new("acc_norm", "none")).is_some());
}

#[test]
fn perplexity_is_compared_by_permutation_with_a_relative_margin() {
    let mut rng = Seed(9).stream("scores", 0);
    let base: Vec<Vec<f64>> = (0..120).map(|_| vec![-30.0 - 10.0 * rng.uniform(), 12.0]).collect();
    let better: Vec<Vec<f64>> = base.iter().map(|v| vec![v[0] * 0.9, v[1]]).collect();
    let column = |model: &str, vectors: &[Vec<f64>]| {
        let score = |(i, stats): (usize, &Vec<f64>)| SampleScore {
            doc: doc(i),
            key: key(),
            stats: stats.clone(),
            parsed: true,
        };
        Column::new(model, vectors.iter().enumerate().map(score).collect())
    };
    let mut table = table("wikitext", vec![column("base", &base), column("r8", &better)]);
    (table.statistic, table.higher_is_better, table.scale) = (Statistic::Perplexity, false, Scale::Raw);
    let comparison = Comparison::compute(&[table], &[], &settings()).unwrap();
    let row = &comparison.rows[0];
    let contrast = &row.contrasts[0];
    assert_eq!((contrast.test, contrast.verdict), (Some(TestMethod::PermutationSampled), Verdict::Better));
    assert!(contrast.interval.unwrap().high < 0.0 && contrast.difference.unwrap() < 0.0);
    assert_eq!(row.margin, row.cells[0].value.map(|value| value * 0.01));
}

#[test]
fn resamples_too_few_for_the_correction_are_reported() {
    let graded = |seed: u64| -> Vec<f64> {
        let mut rng = Seed(seed).stream("scores", 0);
        (0..60).map(|_| rng.uniform()).collect()
    };
    let columns = || (0..7).map(|j| column(&format!("m{j}"), &graded(j))).collect::<Vec<_>>();
    let tables = [table("a", columns()), table("b", columns())];
    let with = |resamples| Comparison::compute(&tables, &[], &Settings { resamples, ..settings() }).unwrap().caveats;
    let few = with(100);
    let found = few.iter().find(|caveat| matches!(caveat, Caveat::TooFewResamples { .. })).expect("a caveat");
    assert!(found.to_string().contains("240 would be enough: main results (12 tests)"), "{found}");
    assert!(!with(240).iter().any(|caveat| matches!(caveat, Caveat::TooFewResamples { .. })));
}

#[test]
fn facts_become_caveats_with_figures_and_advice() {
    let mut table = table("t", ["base", "r8", "again", "noop"].map(|m| column(m, &bernoulli(200, 0.5, 1))).to_vec());
    table.columns[1].scores[0].parsed = false;
    table.columns[1].scores[7].parsed = false;
    let facts = |model: &str, identity: &str, outputs: &str, noop| ModelFacts {
        model: model.into(),
        identity: Some(Digest::of(identity)),
        base: Some("base".into()),
        adapter_is_noop: noop,
        tasks: [(
            "t".to_owned(),
            TaskFacts {
                outputs: Some(Digest::of(outputs)),
                requests: 200,
                truncated: usize::from(model == "r8") * 3,
                cut_by_limit: usize::from(model == "r8") * 5,
                cut_in_thinking: usize::from(model == "r8") * 2,
                thinking_scored: usize::from(model == "base") * 4,
                examples_from_test: 1,
                shared_examples: vec![3, 17],
                boundary_shifted: usize::from(model == "r8"),
                first_unscored: usize::from(model == "r8") * 200,
                ..TaskFacts::default()
            },
        )]
        .into(),
        ..ModelFacts::default()
    };
    let facts = [
        facts("base", "1", "x", false),
        facts("r8", "2", "y", false),
        facts("again", "2", "y", false),
        facts("noop", "3", "x", true),
    ];
    let comparison = Comparison::compute(&[table], &facts, &settings()).unwrap();
    let text: Vec<String> = comparison.caveats.iter().map(Caveat::to_string).collect();
    let has = |part: &str| assert!(text.iter().any(|line| line.contains(part)), "{part}: {text:#?}");
    has("The adapter of `noop` changes nothing: it answers as `base` does.");
    has("`r8` and `again` are the same model.");
    has("`base` and `noop` gave identical outputs on 1 of 1 task: t (200 requests).");
    has("No answer could be extracted: t acc,none `r8` 2 of 200 answers (1.0 %).");
    has("Contexts were cut to the model's length: t `r8` 3 of 200 requests (1.5 %).");
    has("Answers were cut by the limit on tokens: t `r8` 5 of 200 requests (2.5 %).");
    has("The thinking never ended, so there is no answer: t `r8` 2 of 200 requests (1.0 %).");
    has("no think_end_token is set: their thinking was scored");
    has("Few-shot examples come from the evaluated split: t (1 document).");
    has("own question and answer among the examples: t documents 3, 17.");
    has("The token boundary before the answer moved: t `r8` 1 of 200 requests (0.5 %).");
    has("The server gave no log-probability for the first token: t `r8` 200 of 200 texts (100.0 %).");
    has("Too few documents in 1 of 1 row");
    assert!(comparison.caveats.iter().all(|caveat| !caveat.advice().is_empty()));
    let back: Vec<Caveat> = serde_json::from_str(&serde_json::to_string(&comparison.caveats).unwrap()).unwrap();
    assert_eq!(back, comparison.caveats);
}

#[test]
fn texts_are_counted_by_where_they_end() {
    let sampling = |end: Option<&str>| Sampling { think_end: end.map(str::to_owned), ..Sampling::default() };
    let count = |end: Option<&str>, text: &str, finish: Finish| {
        let request = Request::Generate { prompt: "Q".into(), stop: vec![], sampling: sampling(end) };
        let output = Output::Text {
            text: text.into(),
            token_ids: vec![],
            token_logprobs: vec![],
            finish,
            top_logprobs: vec![],
            reasoning: String::new(),
        };
        let mut facts = TaskFacts::default();
        facts.count(&request, &Response { output, usage: Usage::default() });
        [facts.requests, facts.cut_by_limit, facts.cut_in_thinking, facts.thinking_scored]
    };
    let mark = Some("</think>");
    assert_eq!(count(None, "18", Finish::Stop), [1, 0, 0, 0]);
    assert_eq!(count(None, "18", Finish::Length), [1, 1, 0, 0]);
    assert_eq!(count(None, "<think>18", Finish::Length), [1, 1, 0, 1]);
    assert_eq!(count(None, "so</think>18", Finish::Stop), [1, 0, 0, 1]);
    assert_eq!(count(mark, "<think>18", Finish::Length), [1, 0, 1, 0]);
    assert_eq!(count(mark, "<think>18", Finish::EndOfSequence), [1, 0, 1, 0]);
    assert_eq!(count(mark, "<think>so</think>18", Finish::Length), [1, 1, 0, 0]);
}

#[test]
fn intervals_end_where_the_metric_ends() {
    let columns = || vec![column("base", &[0.5, 0.5]), column("r8", &[0.5, 1.0])];
    let row = |table: Table| Comparison::compute(&[table], &[], &settings()).unwrap().rows.remove(0);
    // Win rates of one half and one: Student's t with one degree of freedom reaches ± 3.2 about 0.75.
    let found = row(table("t", columns()));
    assert_eq!((found.range, found.cells[1].method), (Range::between(0.0, 1.0), IntervalMethod::StudentT));
    assert_eq!(found.cells[1].interval, Some(Interval { low: 0.0, high: 1.0 }));
    assert_eq!(found.contrasts[0].interval, Some(Interval { low: -1.0, high: 1.0 }));
    // Marks from 1 to 5, and the same numbers where nothing says what they can be.
    let marks = Table { scale: Scale::Raw, range: Some(Range::between(0.5, 5.0)), ..table("t", columns()) };
    let interval = row(marks).cells[1].interval.unwrap();
    assert!(interval.low == 0.5 && (interval.high - (0.75 + 0.25 * 12.706_204_736)).abs() < 1e-6, "{interval:?}");
    let raw = row(Table { scale: Scale::Raw, ..table("t", columns()) });
    assert!(raw.range == Range::UNBOUNDED && raw.cells[1].interval.unwrap().low < -2.0, "{raw:?}");
    // A fraction by name that is none, and a perplexity, which has only a lower bound.
    let odd = row(table("t", vec![column("base", &[0.5, 0.5]), column("r8", &[0.5, 1.5])]));
    assert!(odd.range == Range::UNBOUNDED && odd.cells[1].interval.unwrap().high > 2.0, "{odd:?}");
    let scores = |model: &str| {
        let mut column = column(model, &[-1.0, -30.0]);
        column.scores.iter_mut().for_each(|score| score.stats[1] = 10.0);
        column
    };
    let table = Table { statistic: Statistic::Perplexity, scale: Scale::Raw, ..table("t", vec![scores("base")]) };
    let interval = row(table).cells[0].interval.unwrap();
    assert!(interval.low == 1.0 && interval.high > 20.0, "{interval:?}");
}
