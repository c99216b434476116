//! Verdicts: equivalence, power, all pairs, repeats, unpaired results, sequential tests.

use harness_core::{Digest, DocId, MetricKey, SampleScore, Seed};
use harness_metrics::{
    comparison::{
        Aggregate, Caveat, Column, Comparison, ComparisonError, IntervalMethod, ModelFacts, Pairs, Scale, Settings,
        Table, TestChoice, TestMethod, Verdict,
    },
    simulation::{Kind, simulate, simulate_sequential},
    stats::Correction,
};

fn key() -> MetricKey {
    MetricKey::new("score", "none")
}

fn score(i: usize, value: f64) -> SampleScore {
    SampleScore { doc: DocId(Digest::of(format!("{i}"))), key: key(), stats: vec![value, 1.0], parsed: true }
}

fn column(model: &str, values: &[f64]) -> Column {
    Column::new(model, values.iter().enumerate().map(|(i, &x)| score(i, x)).collect())
}

fn table(columns: Vec<Column>) -> Table {
    Table::new("t", key(), columns)
}

fn settings() -> Settings {
    Settings { resamples: 500, ..Settings::default() }
}

fn compute(columns: Vec<Column>, settings: &Settings) -> Comparison {
    Comparison::compute(&[table(columns)], &[], settings).unwrap()
}

/// Scores of several models that share the difficulty of documents.
fn graded(n: usize, shift: f64, noise: f64, seed: u64) -> Vec<f64> {
    let mut difficulty = Seed(1).stream("difficulty", 0);
    let mut own = Seed(seed).stream("own", 0);
    (0..n).map(|_| 0.5 + 0.2 * difficulty.normal() + noise * own.normal() + shift).collect()
}

#[test]
fn equivalence_is_a_verdict_of_its_own() {
    let comparison =
        compute(vec![column("a", &graded(600, 0.0, 0.02, 1)), column("b", &graded(600, 0.001, 0.02, 2))], &settings());
    let contrast = &comparison.rows[0].contrasts[0];
    assert_eq!((contrast.verdict, contrast.equivalent), (Verdict::Equivalent, Some(true)), "{contrast:?}");
    assert!(contrast.equivalence_p_corrected.unwrap() <= 0.05 && contrast.needed.is_none());
    // A difference of twice the margin is not.
    let comparison =
        compute(vec![column("a", &graded(600, 0.0, 0.02, 1)), column("b", &graded(600, 0.02, 0.02, 2))], &settings());
    assert_eq!(comparison.rows[0].contrasts[0].verdict, Verdict::Better);
}

#[test]
fn an_open_verdict_says_what_would_decide() {
    let comparison =
        compute(vec![column("a", &graded(60, 0.0, 0.2, 1)), column("b", &graded(60, 0.03, 0.2, 2))], &settings());
    let contrast = &comparison.rows[0].contrasts[0];
    assert_eq!(contrast.verdict, Verdict::Undecided);
    let (detectable, needed) = (contrast.detectable.unwrap(), contrast.needed.unwrap());
    assert!(detectable > contrast.difference.unwrap().abs() && needed > 60, "{contrast:?}");
    // With two tests in the family more is needed for each.
    let three = ["a", "b", "c"].iter().zip([0.0, 0.03, 0.03]).enumerate();
    let columns = three.map(|(i, (model, shift))| column(model, &graded(60, shift, 0.2, 1 + i as u64))).collect();
    let family = compute(columns, &settings());
    assert!(family.rows[0].contrasts[0].detectable.unwrap() > detectable);
}

#[test]
fn points_that_are_all_zero_are_no_wrong_answers() {
    let columns = vec![column("a", &[0.0; 40]), column("b", &[0.0; 40])];
    let of = |scale| {
        let tables = [Table { scale, ..table(columns.clone()) }];
        Comparison::compute(&tables, &[], &settings()).unwrap().rows[0].cells[0].interval
    };
    assert!(of(Scale::Fraction).is_some_and(|interval| interval.high > 0.05), "Wilson's interval of 0 of 40");
    assert_eq!(of(Scale::Points), None, "scores without variation say nothing about others");
}

#[test]
fn all_pairs_and_a_ranking() {
    let columns = ["a", "b", "c"].iter().zip([0.0, 0.001, 0.2]).enumerate();
    let columns: Vec<Column> =
        columns.map(|(i, (model, shift))| column(model, &graded(200, shift, 0.1, 1 + i as u64))).collect();
    let comparison = compute(columns.clone(), &Settings { pairs: Pairs::All, ..settings() });
    let row = &comparison.rows[0];
    let pairs: Vec<(&str, &str)> = row.contrasts.iter().map(|c| (c.model.as_str(), c.against.as_str())).collect();
    assert_eq!(pairs, [("b", "a"), ("c", "a"), ("c", "b")]);
    assert_eq!(row.with_base().count(), 2);
    assert_eq!((row.ranking[0].model.as_str(), &row.ranking[0].groups[..]), ("c", &[0][..]));
    assert_eq!(row.ranking[1].groups, row.ranking[2].groups);
    assert_eq!(comparison.families[0].tests, 3);
    assert!(compute(columns, &settings()).rows[0].ranking.is_empty());
}

#[test]
fn repeats_are_averaged_within_a_document() {
    let mut repeated = column("b", &[]);
    for i in 0..40 {
        for value in [1.0, 0.0, 1.0, 0.0] {
            repeated.scores.push(score(i, value));
        }
    }
    let base = column("a", &[0.0; 40]);
    let error = Comparison::compute(&[table(vec![base.clone(), repeated.clone()])], &[], &settings()).unwrap_err();
    assert!(matches!(error, ComparisonError::DuplicateDocument { .. }), "{error}");
    repeated.repeated = true;
    let comparison = compute(vec![base, repeated], &settings());
    let row = &comparison.rows[0];
    assert_eq!((row.n, row.cells[1].value), (Some(40), Some(0.5)));
    assert_ne!(row.contrasts[0].test, Some(TestMethod::McnemarExact), "no answer is right or wrong any more");
}

#[test]
fn means_alone_are_compared_unpaired() {
    let known = |value, error| Some(Aggregate { value, standard_error: error, n: Some(500) });
    let mut other = column("b", &[]);
    other.aggregate = known(0.62, Some(0.02));
    let base = column("a", &(0..500).map(|i| f64::from(u8::from(i % 2 == 0))).collect::<Vec<_>>());
    let imported = ModelFacts { model: "b".into(), source: Some(Digest::of("file")), ..ModelFacts::default() };
    let of = |facts: &[ModelFacts]| {
        Comparison::compute(&[table(vec![base.clone(), other.clone()])], facts, &settings()).unwrap()
    };
    let comparison = of(&[imported]);
    let contrast = &comparison.rows[0].contrasts[0];
    assert_eq!((contrast.test, contrast.method), (Some(TestMethod::UnpairedZ), IntervalMethod::Normal));
    let error = (0.02_f64.powi(2) + 0.25 / 499.0).sqrt();
    assert!((contrast.interval.unwrap().half_width() - 1.959964 * error).abs() < 1e-6, "{contrast:?}");
    assert_eq!(contrast.verdict, Verdict::Better);
    let unpaired = |c: &Caveat| matches!(c, Caveat::Unpaired { models } if models == &["b"]);
    assert!(comparison.caveats.iter().any(unpaired));
    assert!(!of(&[]).caveats.iter().any(unpaired), "nothing was imported");
    // Without a standard error there is a difference and nothing more.
    other.aggregate = known(0.62, None);
    let contrast = &compute(vec![base, other.clone()], &settings()).rows[0].contrasts[0].clone();
    assert!(contrast.p.is_none() && (contrast.difference.unwrap() - 0.12).abs() < 1e-12);
    // Two means alone.
    let mut first = column("a", &[]);
    first.aggregate = known(0.5, Some(0.02));
    other.aggregate = known(0.5, Some(0.02));
    let comparison = compute(vec![first, other], &settings());
    assert_eq!((comparison.rows[0].n, comparison.rows[0].contrasts[0].p), (Some(500), Some(1.0)));
}

#[test]
fn nothing_in_common_names_the_documents() {
    let other = Column::new("b", (100..103).map(|i| score(i, 1.0)).collect());
    let columns = vec![column("a", &[1.0, 0.0]), other];
    let shared = Settings { alignment: harness_metrics::comparison::Alignment::Intersect, ..settings() };
    let error = Comparison::compute(&[table(columns)], &[], &shared).unwrap_err();
    assert!(matches!(error, ComparisonError::NothingShared { .. }), "{error}");
    assert!(
        error.to_string().contains("`b` has 3 documents") && error.to_string().contains("`a` has 2 documents"),
        "{error}"
    );
}

#[test]
fn the_test_can_be_chosen() {
    let columns = || vec![column("a", &graded(150, 0.0, 0.1, 1)), column("b", &graded(150, 0.05, 0.1, 2))];
    for (test, method) in [
        (TestChoice::Auto, TestMethod::PermutationSampled),
        (TestChoice::Bootstrap, TestMethod::PairedBootstrap),
        (TestChoice::SacrebleuAr, TestMethod::SacrebleuAr),
        (TestChoice::SacrebleuBs, TestMethod::SacrebleuBs),
    ] {
        let comparison = compute(columns(), &Settings { test, ..settings() });
        let contrast = &comparison.rows[0].contrasts[0];
        assert_eq!((contrast.test, contrast.verdict), (Some(method), Verdict::Better));
    }
}

#[test]
fn sequential_verdicts_hold_at_any_time() {
    let right = |p: f64, seed: u64| -> Vec<f64> {
        let mut rng = Seed(seed).stream("right", 0);
        (0..400).map(|_| f64::from(u8::from(rng.uniform() < p))).collect()
    };
    let sequential = Settings { sequential: true, ..settings() };
    let comparison = compute(vec![column("a", &right(0.4, 1)), column("b", &right(0.7, 2))], &sequential);
    let contrast = &comparison.rows[0].contrasts[0];
    assert_eq!((contrast.test, contrast.method), (Some(TestMethod::Sequential), IntervalMethod::ConfidenceSequence));
    assert_eq!(contrast.verdict, Verdict::Better);
    assert!(contrast.interval.unwrap().low > 0.0);
    // It asks for more evidence than a test that looks once.
    let once = compute(vec![column("a", &right(0.4, 1)), column("b", &right(0.7, 2))], &settings());
    assert!(contrast.p > once.rows[0].contrasts[0].p);
    let outcome = simulate_sequential(Kind::Graded, 400, 500, Seed(5));
    assert!(outcome.false_positives <= 0.05 && outcome.power > 0.9 && outcome.used < 0.8, "{outcome:?}");
}

#[test]
fn simulated_rates_are_near_what_is_promised() {
    // Few runs: the full simulation is `harness verify --simulate`; this one sees gross errors.
    for kind in Kind::ALL {
        let outcome = simulate(kind, 60, 400, Seed(11));
        assert!(outcome.difference_coverage > 0.915 && outcome.difference_coverage < 0.985, "{outcome:?}");
        assert!(outcome.value_coverage > 0.91 && outcome.value_coverage < 0.985, "{outcome:?}");
        assert!(outcome.false_positives < 0.085, "{outcome:?}");
        assert!((outcome.power - outcome.planned_power).abs() < 0.1, "{outcome:?}");
    }
}

#[test]
fn the_number_of_threads_changes_no_byte() {
    let columns = || {
        let three = ["a", "b", "c"].iter().enumerate();
        three.map(|(i, model)| column(model, &graded(300, 0.01 * i as f64, 0.1, 1 + i as u64))).collect::<Vec<_>>()
    };
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let settings = Settings { pairs: Pairs::All, ..settings() };
        pool.install(|| serde_json::to_string(&compute(columns(), &settings)).unwrap())
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn settings_out_of_range_are_named() {
    for (bad, name) in [
        (Settings { alpha: 0.0, ..settings() }, "alpha"),
        (Settings { alpha: 1.5, ..settings() }, "alpha"),
        (Settings { margin: f64::INFINITY, ..settings() }, "margin"),
        (Settings { confidence: -0.1, correction: Correction::None, ..settings() }, "confidence"),
    ] {
        let error = Comparison::compute(&[table(vec![column("a", &[1.0])])], &[], &bad).unwrap_err().to_string();
        assert!(error.starts_with(name), "{error}");
    }
}
