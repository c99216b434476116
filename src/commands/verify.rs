//! `harness verify`: metrics against reference vectors that the program carries, and statistics against simulated truths.

use std::{fmt::Write as _, path::Path};

use harness_core::Seed;
use harness_metrics::{
    METRICS,
    comparison::counted,
    simulation::{FalseAlarms, Kind, Outcome, SequentialOutcome, false_alarms, simulate, simulate_sequential},
    stats::{
        Correction, McNemar, PairedDifference, ProportionInterval,
        distribution::{normal_quantile, student_t_quantile},
        proportion_interval,
    },
};
use harness_reports::{Series, line_chart};
use harness_store::atomic_write;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{App, Failure};
use crate::cli::VerifyArgs;

/// The vectors; golden/vectors/PROVENANCE.md says where they come from.
const VECTORS: &str = include_str!("../../golden/vectors/metrics.json");

#[derive(Deserialize)]
struct Vectors {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    metric: String,
    input: Value,
    expected: Value,
    tolerance: f64,
}

/// Runs `harness verify`.
///
/// # Errors
/// If a file cannot be written; with exit code 3 if a value differs from its reference or a simulated rate is outside
/// of its bounds.
pub(super) fn verify(app: &App, args: &VerifyArgs) -> Result<(), Failure> {
    if args.simulate { simulated(app, args) } else { certified(app) }
}

fn certified(app: &App) -> Result<(), Failure> {
    let vectors: Vectors =
        serde_json::from_str(VECTORS).map_err(|e| Failure::work(format!("the program's vectors are broken: {e}")))?;
    let mut counts: std::collections::BTreeMap<&str, (usize, f64)> = std::collections::BTreeMap::new();
    let mut wrong = vec![];
    for case in &vectors.cases {
        let found =
            compute(case).ok_or_else(|| Failure::work(format!("a case of {} is not understood", case.metric)))?;
        let expected: Vec<f64> = match &case.expected {
            Value::Array(values) => values.iter().filter_map(Value::as_f64).collect(),
            value => value.as_f64().into_iter().collect(),
        };
        let pairs = found.iter().zip(&expected);
        let worst = pairs.map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f64::max);
        let entry = counts.entry(&case.metric).or_insert((0, 0.0));
        *entry = (entry.0 + 1, entry.1.max(worst));
        // Written so that NaN is wrong.
        if found.len() != expected.len() || worst.is_nan() || worst > case.tolerance {
            wrong.push(format!("{} of {}: found {found:?}, expected {expected:?}", case.metric, case.input));
        }
    }
    let object = json!({"cases": vectors.cases.len(), "wrong": wrong});
    app.output(&object, || {
        let mut text = String::new();
        for (metric, (cases, worst)) in &counts {
            let _ = writeln!(text, "{metric:16} {cases:4} cases, largest difference {worst:.1e}");
        }
        for line in &wrong {
            let _ = writeln!(text, "WRONG {line}");
        }
        let _ = writeln!(text, "{} of {} cases are correct", vectors.cases.len() - wrong.len(), vectors.cases.len());
        text
    })?;
    if wrong.is_empty() { Ok(()) } else { Err(Failure::condition(counted(wrong.len(), "wrong value"))) }
}

/// The values of a case; `None` where it is not understood.
fn compute(case: &Case) -> Option<Vec<f64>> {
    let input = &case.input;
    let number = |name: &str| input[name].as_f64();
    let numbers = |name: &str| -> Option<Vec<f64>> { input[name].as_array()?.iter().map(Value::as_f64).collect() };
    if let Some(metric) = METRICS.iter().find(|metric| metric.cases == case.metric) {
        return metric.case(input);
    }
    Some(match case.metric.as_str() {
        "mcnemar" => {
            let (only_a, only_b) = (input["only_a"].as_u64()?, input["only_b"].as_u64()?);
            vec![McNemar { only_a, only_b, ..McNemar::default() }.exact()]
        }
        "wilson" => {
            let (successes, n) = (input["successes"].as_u64()?, input["n"].as_u64()?);
            let interval = proportion_interval(successes, n, number("confidence")?, ProportionInterval::Wilson)?;
            vec![interval.low, interval.high]
        }
        "correction" => {
            let correction: Correction = serde_json::from_value(input["method"].clone()).ok()?;
            correction.adjust(&numbers("p")?)
        }
        "paired_t" => vec![PairedDifference::new(&numbers("b")?, &numbers("a")?)?.p_student()],
        "tost" => vec![PairedDifference::new(&numbers("b")?, &numbers("a")?)?.equivalence_p(number("margin")?)],
        "normal_quantile" => vec![normal_quantile(number("p")?)],
        "t_quantile" => vec![student_t_quantile(number("p")?, number("df")?)],
        _ => return None,
    })
}

/// The bounds that simulated rates must keep, with the error of the simulation added: three standard errors.
struct Bounds {
    runs: f64,
}

impl Bounds {
    fn error(&self, rate: f64, factor: f64) -> f64 {
        3.0 * (rate * (1.0 - rate) / (factor * self.runs)).sqrt()
    }
}

fn simulated(app: &App, args: &VerifyArgs) -> Result<(), Failure> {
    if args.runs == 0 || args.documents.iter().any(|&n| n < 10) {
        return Err(Failure::usage("--runs must be at least 1, and --documents at least 10 each"));
    }
    let seed = Seed(args.seed);
    // Before the work: a file that cannot be read must not cost a simulation.
    let earlier = args.out.as_deref().map(earlier).transpose()?.unwrap_or_default();
    let kinds = if args.scores.is_empty() { Kind::ALL.to_vec() } else { args.scores.clone() };
    let bar = app.stage("simulate", (kinds.len() * args.documents.len() + 3) as u64);
    let mut outcomes = vec![];
    for kind in kinds {
        for &n in &args.documents {
            outcomes.push(simulate(kind, n, args.runs, seed));
            bar.step();
            if app.interrupted() {
                return Err(Failure::work("interrupted"));
            }
        }
    }
    let mut sequential = vec![];
    for kind in [Kind::Binary, Kind::Graded] {
        sequential.push(simulate_sequential(kind, 3_000, args.runs, seed));
        bar.step();
    }
    let alarms = false_alarms(1_000, seed);
    bar.step();
    bar.finish(&format!("{} conditions, {} runs each", outcomes.len(), args.runs));
    keep_others(earlier, &mut outcomes);
    let text = describe(&outcomes, &sequential, &alarms);
    if let Some(folder) = &args.out {
        std::fs::create_dir_all(folder)
            .map_err(|e| Failure::work(format!("cannot create {}: {e}", folder.display())))?;
        atomic_write(&folder.join("simulation.md"), &text)?;
        plots(folder, &outcomes)?;
    }
    let outside = outside(&outcomes, &sequential, &alarms);
    let object = json!({"outcomes": outcomes, "sequential": sequential, "false_alarms": alarms, "outside": outside});
    if let Some(folder) = &args.out {
        let json = serde_json::to_string_pretty(&object).map_err(|e| Failure::work(e.to_string()))?;
        atomic_write(&folder.join("simulation.json"), json + "\n")?;
    }
    app.output(&object, || text)?;
    if outside.is_empty() {
        return Ok(());
    }
    Err(Failure::condition(format!("outside of the bounds: {}", outside.join("; "))))
}

/// Rates outside of what is promised, by more than the simulation's own error.
fn outside(outcomes: &[Outcome], sequential: &[SequentialOutcome], alarms: &FalseAlarms) -> Vec<String> {
    let mut found = vec![];
    for outcome in outcomes {
        let bounds = Bounds { runs: outcome.runs as f64 };
        let place = format!("{} {}", outcome.kind.name(), outcome.n);
        let mut check = |what: &str, rate: f64, low: f64, high: f64, error: f64| {
            if rate < low - error || rate > high + error {
                found.push(format!("{place}: {what} {rate:.4}"));
            }
        };
        check("coverage of values", outcome.value_coverage, 0.94, 0.96, bounds.error(0.95, 2.0));
        check("coverage of differences", outcome.difference_coverage, 0.94, 0.96, bounds.error(0.95, 2.0));
        check("false positives", outcome.false_positives, 0.0, 0.05, bounds.error(0.05, 1.0));
        check("false equivalence", outcome.false_equivalence, 0.0, 0.05, bounds.error(0.05, 1.0));
        let planned = outcome.planned_power;
        check("power", outcome.power, planned - 0.02, planned + 0.02, bounds.error(0.8, 1.0));
    }
    for outcome in sequential {
        let bounds = Bounds { runs: outcome.runs as f64 };
        if outcome.false_positives > 0.05 + bounds.error(0.05, 1.0) {
            found.push(format!("sequential {}: false positives {:.4}", outcome.kind.name(), outcome.false_positives));
        }
    }
    if alarms.alarmed * 100 > alarms.runs {
        found.push(format!("false alarms {} of {}", alarms.alarmed, alarms.runs));
    }
    found
}

/// The conditions that a folder has of earlier calls.
fn earlier(folder: &Path) -> Result<Vec<Outcome>, Failure> {
    let file = folder.join("simulation.json");
    let Ok(text) = harness_core::read_text(&file) else { return Ok(vec![]) };
    serde_json::from_str::<Value>(&text)
        .and_then(|mut object| serde_json::from_value(object["outcomes"].take()))
        .map_err(|e| Failure::usage(format!("{}: {e}; give --out another folder", file.display())))
}

/// Adds the conditions of earlier calls, so that long simulations can be made in parts.
fn keep_others(earlier: Vec<Outcome>, outcomes: &mut Vec<Outcome>) {
    for outcome in earlier {
        if !outcomes.iter().any(|own| (own.kind, own.n) == (outcome.kind, outcome.n)) {
            outcomes.push(outcome);
        }
    }
    outcomes.sort_by_key(|outcome| (outcome.kind, outcome.n));
}

fn describe(outcomes: &[Outcome], sequential: &[SequentialOutcome], alarms: &FalseAlarms) -> String {
    let percent = |rate: f64| format!("{:.1}", rate * 100.0);
    let mut text = String::from(
        "Rates in percent of the simulated comparisons (runs) of each condition.\n\n\
         | Scores | n | Runs | Coverage, values | Coverage, differences | False positives | False equivalence | Detectable | Planned power | Power |\n\
         | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |\n",
    );
    for o in outcomes {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {:.4} | {} | {} |",
            o.kind.name(),
            o.n,
            o.runs,
            percent(o.value_coverage),
            percent(o.difference_coverage),
            percent(o.false_positives),
            percent(o.false_equivalence),
            o.detectable,
            percent(o.planned_power),
            percent(o.power)
        );
    }
    text.push_str(
        "\nSequential tests, looked at after every document:\n\n\
         | Scores | Maximum documents | False positives | Difference | Found | Documents used |\n| --- | --: | --: | --: | --: | --: |\n",
    );
    for o in sequential {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.4} | {} | {} |",
            o.kind.name(),
            o.n,
            percent(o.false_positives),
            o.difference,
            percent(o.power),
            percent(o.used)
        );
    }
    let kinds: Vec<String> = alarms.kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    let kinds = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) };
    let _ = writeln!(
        text,
        "\nClean comparisons with a non-statistical alarm: {} of {}{kinds}.",
        alarms.alarmed, alarms.runs
    );
    text
}

/// Coverage, false positives and power by number of documents.
fn plots(folder: &Path, outcomes: &[Outcome]) -> Result<(), Failure> {
    type Chart = (&'static str, &'static str, fn(&Outcome) -> f64);
    let charts: [Chart; 4] = [
        ("coverage_values", "Coverage of the 95 % intervals of values, %", |o| o.value_coverage),
        ("coverage_differences", "Coverage of the 95 % intervals of differences, %", |o| o.difference_coverage),
        ("false_positives", "Equal models with a verdict, %", |o| o.false_positives),
        ("power", "Power less planned power, points", |o| o.power - o.planned_power),
    ];
    for (file, title, of) in charts {
        let series: Vec<Series> = Kind::ALL
            .iter()
            .map(|kind| {
                let own = outcomes.iter().filter(|outcome| outcome.kind == *kind);
                let points = own.map(|outcome| ((outcome.n as f64).log10(), 100.0 * of(outcome))).collect();
                Series { name: kind.name().to_owned(), points }
            })
            .filter(|series| !series.points.is_empty())
            .collect();
        let path = folder.join(format!("{file}.svg"));
        line_chart(&path, title, "documents (log10)", "%", &series).map_err(|e| Failure::work(e.to_string()))?;
    }
    Ok(())
}
