//! Do the statistics hold? Comparisons of simulated models whose true difference is known.
//!
//! Every run goes through [`crate::comparison::Comparison::compute`], as a real comparison does. What is measured:
//! how often intervals cover the truth, how often equal models get a verdict, how often a difference that the planner
//! calls detectable is found, how often a difference of exactly the margin is called equivalent, what a sequential
//! test does under continuous looking, and how often a clean comparison raises an alarm.

mod clean;
mod population;

use harness_core::Seed;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use clean::{FalseAlarms, false_alarms};
pub use population::Kind;

use crate::{
    comparison::{Comparison, Settings, Verdict},
    stats::SequentialTest,
};
use population::Population;

/// One kind of scores at one number of documents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Kind of scores.
    pub kind: Kind,
    /// Documents.
    pub n: usize,
    /// Simulated comparisons a condition.
    pub runs: usize,
    /// Share of intervals of a model's value that cover the truth.
    pub value_coverage: f64,
    /// Share of intervals of a difference that cover the truth.
    pub difference_coverage: f64,
    /// Share of comparisons of equal models with the verdict better or worse.
    pub false_positives: f64,
    /// Share of comparisons with a true difference of the margin and the verdict equivalent.
    pub false_equivalence: f64,
    /// The difference that the planner calls detectable with 80 % power.
    pub detectable: f64,
    /// The planner's power for it.
    pub planned_power: f64,
    /// Share of comparisons with this difference that found it.
    pub power: f64,
}

/// What a sequential test did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SequentialOutcome {
    /// Kind of scores.
    pub kind: Kind,
    /// Most documents.
    pub n: usize,
    /// Simulated comparisons a condition.
    pub runs: usize,
    /// Share of comparisons of equal models that were decided at any of all looks.
    pub false_positives: f64,
    /// Share of comparisons with a difference that were decided.
    pub power: f64,
    /// That difference: four times what all documents would have shown with 80 % power.
    pub difference: f64,
    /// Mean number of documents used where there is a difference, as a share of all.
    pub used: f64,
}

/// Settings of the simulated comparisons.
fn settings(seed: u64) -> Settings {
    Settings { resamples: 1_000, seed, ..Settings::default() }
}

/// What one run showed.
#[derive(Clone, Copy, Default)]
struct Seen {
    value: [bool; 2],
    difference: bool,
    decided: bool,
    equivalent: bool,
}

/// Simulates `runs` comparisons of `n` documents under each of three truths: no difference, the detectable one, and one
/// of the size of the margin.
pub fn simulate(kind: Kind, n: usize, runs: usize, seed: Seed) -> Outcome {
    let population = Population::new(kind, n);
    let (power, units) = population.power();
    let detectable = power.detectable(units, 0.05, 0.8).unwrap_or(0.0).min(population.largest());
    let planned_power = power.power(detectable, units, 0.05);
    let margin = population.margin();
    let under = |condition: u64, shift: f64| -> Vec<Seen> {
        (0..runs as u64).into_par_iter().map(|run| one(&population, shift, seed, condition << 32 | run)).collect()
    };
    let (null, shifted, edge) = (under(0, 0.0), under(1, detectable), under(2, margin));
    let share = |seen: &[Seen], what: fn(&Seen) -> bool| seen.iter().filter(|s| what(s)).count() as f64;
    let total = runs as f64;
    Outcome {
        kind,
        n,
        runs,
        value_coverage: (share(&null, |s| s.value[0]) + share(&null, |s| s.value[1])) / (2.0 * total),
        difference_coverage: (share(&null, |s| s.difference) + share(&shifted, |s| s.difference)) / (2.0 * total),
        false_positives: share(&null, |s| s.decided) / total,
        false_equivalence: share(&edge, |s| s.equivalent) / total,
        detectable,
        planned_power,
        power: share(&shifted, |s| s.decided) / total,
    }
}

fn one(population: &Population, shift: f64, seed: Seed, index: u64) -> Seen {
    let mut rng = seed.stream(population.kind.name(), index << 12 | population.n as u64);
    let (table, truth) = population.draw(shift, &mut rng);
    let Ok(comparison) = Comparison::compute(&[table], &[], &settings(index)) else { return Seen::default() };
    let (row, covers) = (&comparison.rows[0], |interval: Option<crate::stats::Interval>, truth: f64| {
        interval.is_some_and(|interval| interval.contains(truth))
    });
    let contrast = &row.contrasts[0];
    Seen {
        value: [covers(row.cells[0].interval, truth[0]), covers(row.cells[1].interval, truth[1])],
        difference: covers(contrast.interval, truth[1] - truth[0]),
        decided: matches!(contrast.verdict, Verdict::Better | Verdict::Worse),
        equivalent: contrast.equivalent == Some(true),
    }
}

/// Simulates sequential tests that look after every document, with binary or graded scores.
pub fn simulate_sequential(kind: Kind, n: usize, runs: usize, seed: Seed) -> SequentialOutcome {
    let population = Population::new(kind, n);
    let (power, units) = population.power();
    let difference = (4.0 * power.detectable(units, 0.05, 0.8).unwrap_or(0.0)).min(population.largest());
    let under = |condition: u64, shift: f64| -> Vec<Option<usize>> {
        let stop = |run: u64| {
            let mut rng = seed.stream("sequential", condition << 32 | run);
            let mut test = SequentialTest::default();
            let differences = population.differences(shift, &mut rng);
            differences.into_iter().position(|d| {
                test.push(d);
                test.decided(0.05).is_some()
            })
        };
        (0..runs as u64).into_par_iter().map(stop).collect()
    };
    let (null, shifted) = (under(0, 0.0), under(1, difference));
    let decided = |stops: &[Option<usize>]| stops.iter().flatten().count() as f64 / runs as f64;
    let used: f64 = shifted.iter().map(|stop| stop.map_or(n, |at| at + 1) as f64).sum();
    SequentialOutcome {
        kind,
        n,
        runs,
        false_positives: decided(&null),
        power: decided(&shifted),
        difference,
        used: used / (runs * n) as f64,
    }
}
