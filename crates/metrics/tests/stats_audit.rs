//! Audits: each finds what it is for, and clean comparisons raise no alarm.

use std::collections::BTreeMap;

use harness_core::{Digest, DocId, Irregular, MetricKey, SampleScore, Seed};
use harness_metrics::{
    comparison::{
        Aggregate, Caveat, Column, Comparison, Coverage, ModelFacts, Overlap, Scale, Settings, Table, TaskFacts,
        Verdict,
    },
    simulation::false_alarms,
};

fn doc(i: usize) -> DocId {
    DocId(Digest::of(format!("document {i}")))
}

fn scored(model: &str, key: &MetricKey, values: &[f64]) -> Column {
    let score =
        |(i, &x): (usize, &f64)| SampleScore { doc: doc(i), key: key.clone(), stats: vec![x, 1.0], parsed: true };
    Column::new(model, values.iter().enumerate().map(score).collect())
}

fn table(filter: &str, columns: &[(&str, Vec<f64>)]) -> Table {
    let key = MetricKey::new("exact_match", filter);
    let columns = columns.iter().map(|(model, values)| scored(model, &key, values)).collect();
    Table { primary: filter == "none" || filter == "strict-match", ..Table::new("t", key, columns) }
}

fn binary(n: usize, p: f64, seed: u64) -> Vec<f64> {
    let mut rng = Seed(seed).stream("scores", 0);
    (0..n).map(|_| f64::from(u8::from(rng.uniform() < p))).collect()
}

fn audit(tables: &[Table], facts: &[ModelFacts]) -> Vec<Caveat> {
    let settings = Settings { resamples: 300, ..Settings::default() };
    let caveats = Comparison::compute(tables, facts, &settings).unwrap().caveats;
    assert!(caveats.iter().all(|caveat| !caveat.advice().is_empty()));
    let text = serde_json::to_string(&caveats).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Caveat>>(&text).unwrap(), caveats, "{text}");
    caveats
}

/// The sentence of the one caveat that a test looks for.
fn sentence(caveats: &[Caveat], wanted: fn(&Caveat) -> bool) -> String {
    let found: Vec<String> = caveats.iter().filter(|c| wanted(c)).map(Caveat::to_string).collect();
    assert_eq!(found.len(), 1, "{caveats:#?}");
    found[0].clone()
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn facts(model: &str) -> ModelFacts {
    ModelFacts { model: model.into(), ..ModelFacts::default() }
}

#[test]
fn equal_scores_of_two_imports_are_no_accident() {
    let scores = binary(160, 0.4, 1);
    let caveats = audit(&[table("none", &[("a", scores.clone()), ("b", scores.clone())])], &[]);
    let text = sentence(&caveats, |c| matches!(c, Caveat::SameScores { .. }));
    assert!(text.contains("exact_match,none on 160 of 160 documents"), "{text}");
    // One document changed in 160 is what two related models may do.
    let mut other = scores.clone();
    other[7] = 1.0 - other[7];
    let caveats = audit(&[table("none", &[("a", scores), ("b", other)])], &[]);
    assert!(!caveats.iter().any(|c| matches!(c, Caveat::SameScores { .. })));
    // Graded scores that agree on nearly all documents were copied.
    let mut rng = Seed(3).stream("graded", 0);
    let graded: Vec<f64> = (0..100).map(|_| rng.uniform()).collect();
    let mut copied = graded.clone();
    copied[0] = 0.123;
    let caveats = audit(&[table("none", &[("a", graded), ("b", copied)])], &[]);
    assert!(sentence(&caveats, |c| matches!(c, Caveat::SameScores { .. })).contains("on 99 of 100"));
}

#[test]
fn imports_of_one_file_are_named() {
    let of = |model: &str| ModelFacts { source: Some(Digest::of("file")), ..facts(model) };
    let tables = [table("none", &[("a", binary(60, 0.5, 1)), ("b", binary(60, 0.5, 2))])];
    let caveats = audit(&tables, &[of("a"), of("b")]);
    assert!(sentence(&caveats, |c| matches!(c, Caveat::SameFile { .. })).contains("`a` and `b`"));
}

/// A row of imported means.
fn means(task: &str, filter: &str, values: &[(&str, f64)]) -> Table {
    let known = |value: f64| Aggregate { value, standard_error: Some(0.01 * value), n: Some(500) };
    let column = |&(model, value): &(&str, f64)| Column { aggregate: Some(known(value)), ..Column::new(model, vec![]) };
    Table::new(task, MetricKey::new("exact_match", filter), values.iter().map(column).collect())
}

fn import(model: &str) -> ModelFacts {
    ModelFacts { source: Some(Digest::of(model)), ..facts(model) }
}

#[test]
fn imported_zeros_behind_a_filter() {
    let row = |filter: &str, a: f64, b: f64| means("gsm", filter, &[("a", a), ("b", b)]);
    let found = |tables: &[Table]| {
        let caveats = audit(tables, &[import("a"), import("b")]);
        caveats.iter().find(|c| matches!(c, Caveat::NothingParsed { .. })).map(Caveat::to_string)
    };
    let text = found(&[row("strict-match", 0.0, 0.0), row("flexible-extract", 0.05, 0.06)]).expect("a caveat");
    assert!(text.contains("nothing is extracted: gsm exact_match,strict-match for all models, `a`; `b`"), "{text}");
    assert!(text.contains("but up to 6.0 % after flexible-extract"), "{text}");
    let text = found(&[row("strict-match", 0.0, 0.4), row("flexible-extract", 0.05, 0.06)]).expect("a caveat");
    assert!(text.contains("strict-match `a`, but up to 5.0 %"), "{text}");
    assert!(found(&[row("strict-match", 0.0, 0.0)]).is_some(), "for all models");
    assert_eq!(found(&[row("strict-match", 0.0, 0.4)]), None, "one model alone may be wrong throughout");
    assert_eq!(found(&[row("none", 0.0, 0.0)]), None, "no filter");
}

#[test]
fn imports_of_one_model() {
    let rows = |b: f64| ["x", "y", "z"].map(|task| means(task, "none", &[("a", 0.3), ("b", b)]));
    let of = |tables: &[Table], facts: [ModelFacts; 2]| {
        let caveats = audit(tables, &facts);
        caveats.into_iter().filter(|c| !c.is_statistical()).map(|c| c.to_string()).collect::<Vec<_>>()
    };
    let same = of(&rows(0.3), [import("a"), import("b")]);
    assert!(same.len() == 1 && same[0].contains("same mean in every row (3 rows)"), "{same:?}");
    let named = |model: &str| ModelFacts { told: Some("lab/m".into()), ..import(model) };
    let runs = of(&rows(0.32), [named("a"), named("b")]);
    assert!(runs.len() == 1 && runs[0].contains("noise floor, up to 2.0 percentage points"), "{runs:?}");
    // Run in another way it is no noise.
    let other = ModelFacts { conditions: map(&[("examples", "5")]), ..named("b") };
    let asked = ModelFacts { conditions: map(&[("examples", "0")]), ..named("a") };
    assert!(of(&rows(0.32), [asked, other]).iter().all(|text| !text.contains("noise floor")));
    assert!(of(&rows(0.32), [import("a"), import("b")]).is_empty());
}

#[test]
fn a_part_of_a_benchmark_is_named_by_its_group() {
    let part = |found, of| TaskFacts {
        coverage: Some(Coverage { found, of, unit: "document".into(), missing: vec![] }),
        ..TaskFacts::default()
    };
    let tasks = [("all".to_owned(), part(30, 40)), ("one".to_owned(), part(10, 20))].into();
    let mut tables = ["all", "one"].map(|task| means(task, "none", &[("a", 0.3)]));
    let found = |tables: &[Table]| {
        let facts = ModelFacts { tasks: BTreeMap::clone(&tasks), ..import("a") };
        sentence(&audit(tables, &[facts]), |c| matches!(c, Caveat::IncompleteBenchmark { .. }))
    };
    assert!(found(&tables).contains("all `a` has 30 of 40 documents; one `a` has 10 of 20 documents"));
    (tables[1].group, tables[1].depth) = (Some("all".into()), 1);
    assert!(!found(&tables).contains("one"));
}

#[test]
fn outputs_equal_to_the_last_bit_on_some_documents() {
    let of = |model: &str, own: usize| {
        let documents =
            (0..50).map(|i| (doc(i), Digest::of(if i < own { format!("{model} {i}") } else { format!("{i}") })));
        let task = TaskFacts { documents: documents.collect(), requests: 50, ..TaskFacts::default() };
        ModelFacts { tasks: [("t".to_owned(), task)].into(), ..facts(model) }
    };
    let tables = [table("none", &[("a", binary(50, 0.5, 1)), ("b", binary(50, 0.5, 2))])];
    let text = sentence(&audit(&tables, &[of("a", 40), of("b", 40)]), |c| matches!(c, Caveat::SharedOutputs { .. }));
    assert!(text.contains("t on 10 of 50 documents"), "{text}");
    assert!(!audit(&tables, &[of("a", 49), of("b", 48)]).iter().any(|c| matches!(c, Caveat::SharedOutputs { .. })));
}

#[test]
fn conditions_that_differ_are_spelled_out() {
    let of = |model: &str, dtype: &str, prompts: &str| {
        let task = TaskFacts { conditions: map(&[("prompts", prompts), ("examples", "5")]), ..TaskFacts::default() };
        ModelFacts { conditions: map(&[("dtype", dtype)]), tasks: [("t".to_owned(), task)].into(), ..facts(model) }
    };
    let tables = [table("none", &[("a", binary(60, 0.5, 1)), ("b", binary(60, 0.5, 2))])];
    let caveats = audit(&tables, &[of("a", "f32", "x"), of("b", "bf16", "y")]);
    let text = sentence(&caveats, |c| matches!(c, Caveat::DifferentConditions { .. }));
    assert!(text.contains("dtype: `a` f32, `b` bf16") && text.contains("prompts of t: `a` x, `b` y"), "{text}");
    assert!(!text.contains("examples"), "{text}");
    assert!(!audit(&tables, &[of("a", "f32", "x"), of("b", "f32", "x")]).iter().any(|c| !c.is_statistical()));
}

#[test]
fn answers_drawn_at_random_need_repeats() {
    let of = |repeats| {
        let task = TaskFacts { sampled: 60, requests: 60, repeats, ..TaskFacts::default() };
        ModelFacts { tasks: [("t".to_owned(), task)].into(), ..facts("a") }
    };
    let tables = [table("none", &[("a", binary(60, 0.5, 1))])];
    let text = sentence(&audit(&tables, &[of(1)]), |c| matches!(c, Caveat::SampledOnce { .. }));
    assert!(text.contains("t `a` 60 of 60 requests"), "{text}");
    assert!(!audit(&tables, &[of(5)]).iter().any(|c| matches!(c, Caveat::SampledOnce { .. })));
}

#[test]
fn zero_because_nothing_was_parsed() {
    let flexible: Vec<f64> = (0..100).map(|i| f64::from(u8::from(i % 20 == 0))).collect();
    let mut strict = table("strict-match", &[("a", vec![0.0; 100]), ("b", binary(100, 0.5, 1))]);
    strict.columns[0].scores.iter_mut().for_each(|score| score.parsed = false);
    let tables = [strict, table("flexible-extract", &[("a", flexible), ("b", binary(100, 0.5, 1))])];
    let text = sentence(&audit(&tables, &[]), |c| matches!(c, Caveat::NothingParsed { .. }));
    assert!(text.contains("exact_match,strict-match `a` 100 of 100"), "{text}");
}

#[test]
fn answers_that_are_none_are_no_wrong_answers() {
    let mut tables = [table("none", &[("a", vec![0.0; 40]), ("b", binary(40, 0.5, 1))])];
    tables[0].columns[0].scores.iter_mut().for_each(|score| score.parsed = false);
    let of = |irregular: &[(Irregular, usize)]| {
        let irregular = irregular.iter().copied().collect();
        let task = TaskFacts { requests: 40, irregular, ..TaskFacts::default() };
        ModelFacts { tasks: [("t".to_owned(), task)].into(), ..facts("a") }
    };
    let format = |c: &Caveat| matches!(c, Caveat::NothingParsed { .. } | Caveat::UnparsedAnswers { .. });
    let all = audit(&tables, &[of(&[(Irregular::Refused, 30), (Irregular::Filtered, 10)])]);
    let text = sentence(&all, |c| matches!(c, Caveat::IrregularAnswers { .. }));
    assert_eq!(
        text,
        "Some answers are not usable: t `a` 10 of 40 withheld by the server's filter; t `a` 30 of 40 refused by the \
         model."
    );
    assert!(!all.iter().any(format), "the format is not to blame");
    assert!(audit(&tables, &[of(&[(Irregular::Refused, 30)])]).iter().any(format), "ten were answered");
    assert!(audit(&tables, &[of(&[(Irregular::UnknownEnd, 40)])]).iter().any(format), "these are texts");
    // A judge's verdicts that could not be read are neither wrong answers nor imported means.
    tables[0].judged = true;
    tables[0].columns[0].aggregate = Some(Aggregate { value: f64::NAN, standard_error: None, n: None });
    tables[0].columns[0].scores.clear();
    let judged = audit(&tables, &[]);
    assert!(!judged.iter().any(|c| format(c) || matches!(c, Caveat::Unpaired { .. })), "{judged:?}");
}

#[test]
fn verdicts_that_turn_with_the_filter() {
    let base = binary(200, 0.5, 1);
    let tables = [
        table("strict-match", &[("a", base.clone()), ("b", binary(200, 0.9, 2))]),
        table("flexible-extract", &[("a", base), ("b", binary(200, 0.4, 3))]),
    ];
    let text = sentence(&audit(&tables, &[]), |c| matches!(c, Caveat::FilterConflicts { .. }));
    assert!(text.contains("t `b` exact_match,strict-match") && text.contains("(better)"), "{text}");
}

#[test]
fn candidates_that_differ_in_more_than_their_names_say() {
    let of = |model: &str, pairs: &[(&str, &str)]| ModelFacts { recipe: map(pairs), ..facts(model) };
    let tables =
        [table("none", &[("base", binary(60, 0.5, 1)), ("r8", binary(60, 0.5, 2)), ("r32", binary(60, 0.5, 3))])];
    let rank = |model: &str, rank: &str, alpha: &str, rate: &str| {
        of(model, &[("lora.rank", rank), ("lora.alpha", alpha), ("training.learning_rate", rate)])
    };
    let confounded = |facts: &[ModelFacts]| {
        let caveats = audit(&tables, facts);
        caveats.iter().find(|c| matches!(c, Caveat::ConfoundedCandidates { .. })).map(Caveat::to_string)
    };
    let text = confounded(&[rank("r8", "8", "16", "0.002"), rank("r32", "32", "64", "0.001")]).expect("a caveat");
    assert!(text.contains("beyond what their names say in training.learning_rate (0.002, 0.001)"), "{text}");
    assert!(!text.contains("lora.alpha"), "{text}");
    assert_eq!(confounded(&[rank("r8", "8", "16", "0.001"), rank("r32", "32", "64", "0.001")]), None);
    // Names that say nothing: one difference is an experiment, two are not.
    assert_eq!(confounded(&[of("r8", &[("x", "1"), ("y", "1")]), of("r32", &[("x", "2"), ("y", "1")])]), None);
    assert!(confounded(&[of("r8", &[("x", "1"), ("y", "1")]), of("r32", &[("x", "2"), ("y", "2")])]).is_some());
}

#[test]
fn documents_that_were_trained_on_are_taken_out_of_the_difference() {
    // The candidate is right on the fifty documents it has seen, and no better elsewhere.
    let base = binary(200, 0.4, 1);
    let candidate: Vec<f64> = base.iter().enumerate().map(|(i, &x)| if i < 50 { 1.0 } else { x }).collect();
    let seen = (0..50).map(|i| (doc(i), if i < 20 { Overlap::Exact } else { Overlap::Ngram })).collect();
    let task = TaskFacts { seen, ..TaskFacts::default() };
    let of = ModelFacts { tasks: [("t".to_owned(), task)].into(), ..facts("r8") };
    let caveats = audit(&[table("none", &[("base", base), ("r8", candidate)])], &[of]);
    let Some(Caveat::TrainedOnTest { rows }) = caveats.iter().find(|c| matches!(c, Caveat::TrainedOnTest { .. }))
    else {
        panic!("{caveats:#?}")
    };
    assert_eq!((rows[0].exact, rows[0].ngram, rows[0].of, rows[0].clean), (20, 30, 200, Some(0.0)));
    assert!(rows[0].difference.unwrap() > 0.1);
    assert!(caveats.iter().any(|c| c.to_string().contains("50 of 200 (20 whole, 30 by 13 consecutive words)")));
}

#[test]
fn a_difference_below_the_noise_is_no_verdict() {
    let mut rng = Seed(1).stream("noise", 0);
    let base: Vec<f64> = (0..400).map(|_| rng.uniform()).collect();
    let better: Vec<f64> = base.iter().map(|x| x + 0.001).collect();
    let mut loud = table("none", &[("a", base), ("b", better)]);
    loud.scale = Scale::Raw;
    let verdict = |table: &Table| {
        let settings = Settings { resamples: 300, ..Settings::default() };
        let comparison = Comparison::compute(std::slice::from_ref(table), &[], &settings).unwrap();
        (comparison.rows[0].contrasts[0].verdict, comparison.caveats)
    };
    assert_eq!(verdict(&loud).0, Verdict::Better);
    loud.noise = Some(0.002);
    let (found, caveats) = verdict(&loud);
    assert_ne!(found, Verdict::Better);
    assert!(caveats.iter().any(|c| matches!(c, Caveat::BelowNoise { .. })), "{caveats:#?}");
}

#[test]
fn clean_comparisons_raise_no_alarm() {
    let alarms = false_alarms(1_000, Seed(7));
    assert!(alarms.alarmed <= 10, "{alarms:?}");
}
