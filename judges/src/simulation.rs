//! A judge whose biases are known: how often do the intervals cover the truth?
//!
//! Each item has a true preference σ(q), q normal, and a standardised difference in length; the candidate's outputs are
//! longer on average. The judge adds to q a pull of length and a pull of position (log-odds), and decides by a coin. Gold
//! labels are drawn from σ(q) itself. The truth is the mean of σ(q).

use harness_core::Seed;
use harness_metrics::stats::{Interval, ProportionInterval, mean, proportion_interval};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    Order, Result,
    length_control::sigmoid,
    results::{ControlledRow, ControlledWinRate, mean_interval, prediction_powered},
};

/// The simulated world.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Simulation {
    /// How often everything is drawn anew.
    pub simulations: usize,
    /// Items in each.
    pub items: usize,
    /// Items of them with a gold label.
    pub labelled: usize,
    /// Mean of q.
    pub quality: f64,
    /// Standard deviation of q over items.
    pub spread: f64,
    /// Mean of the standardised difference in length: above 0 the candidate is longer.
    pub longer: f64,
    /// The judge's pull towards the output shown first, in log-odds.
    pub position_bias: f64,
    /// The judge's pull towards the longer output, in log-odds at `tanh` of the difference = 1.
    pub length_bias: f64,
    /// Resamples of the bootstrap in each simulation.
    pub resamples: usize,
    /// Nominal coverage.
    pub confidence: f64,
    /// Seed.
    pub seed: u64,
}

impl Default for Simulation {
    fn default() -> Self {
        Self {
            simulations: 1000,
            items: 400,
            labelled: 150,
            quality: 0.2,
            spread: 0.8,
            longer: 0.7,
            position_bias: 0.6,
            length_bias: 0.8,
            resamples: 500,
            confidence: 0.95,
            seed: 42,
        }
    }
}

/// How one method did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// The method.
    pub method: String,
    /// Simulations whose interval contains the truth.
    pub covered: usize,
    /// Simulations.
    pub of: usize,
    /// Share of them.
    pub coverage: f64,
    /// Wilson interval of the share: what so many simulations can tell.
    pub interval: Option<Interval>,
    /// Mean of the estimates.
    pub mean_estimate: f64,
    /// Mean of half of the intervals' widths.
    pub mean_half_width: f64,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SimulationResult {
    /// The world.
    pub settings: Simulation,
    /// The true win rate.
    pub truth: f64,
    /// Naive (one order), both orders, length and position controlled, prediction-powered.
    pub methods: Vec<Coverage>,
}

const METHODS: [&str; 4] =
    ["naive: one order", "both orders averaged", "length and position controlled", "prediction-powered, both orders"];

impl Simulation {
    /// Runs all simulations; the result depends on the settings alone.
    ///
    /// # Errors
    /// If there are too few items or labels for an interval.
    pub fn run(&self) -> Result<SimulationResult> {
        let truth = self.truth();
        let runs: Vec<[(f64, Option<Interval>); 4]> =
            (0..self.simulations).into_par_iter().map(|i| self.once(i as u64)).collect::<Result<_>>()?;
        let method = |which: usize| {
            let estimates: Vec<f64> = runs.iter().map(|run| run[which].0).collect();
            let intervals: Vec<Interval> = runs.iter().filter_map(|run| run[which].1).collect();
            let covered = intervals.iter().filter(|interval| interval.contains(truth)).count();
            let (k, n) = (covered as u64, runs.len() as u64);
            Coverage {
                method: METHODS[which].into(),
                covered,
                of: runs.len(),
                coverage: covered as f64 / runs.len() as f64,
                interval: proportion_interval(k, n, self.confidence, ProportionInterval::Wilson),
                mean_estimate: mean(&estimates),
                mean_half_width: mean(&intervals.iter().map(Interval::half_width).collect::<Vec<_>>()),
            }
        };
        let methods = (0..METHODS.len()).map(method).collect();
        Ok(SimulationResult { settings: self.clone(), truth, methods })
    }

    /// E σ(q) for a normal q, by the trapezoidal rule over ±10 standard deviations (its error is far below 1e-9).
    fn truth(&self) -> f64 {
        let steps = 4000;
        let (mut sum, mut total) = (0.0, 0.0);
        for i in 0..=steps {
            let z = -10.0 + 20.0 * f64::from(i) / f64::from(steps);
            let density = (-0.5 * z * z).exp();
            sum += density * sigmoid(self.quality + self.spread * z);
            total += density;
        }
        sum / total
    }

    fn once(&self, index: u64) -> Result<[(f64, Option<Interval>); 4]> {
        let mut rng = Seed(self.seed).stream("judge simulation", index);
        let (mut one, mut both, mut rows) = (vec![], vec![], vec![]);
        let (mut labelled, mut unlabelled) = (vec![], vec![]);
        for item in 0..self.items {
            let quality = self.quality + self.spread * rng.normal();
            let length = self.longer + rng.normal();
            let mut coin = |z: f64| f64::from(u8::from(rng.uniform() < sigmoid(z)));
            let gold = coin(quality);
            let judged = quality + self.length_bias * length.tanh();
            // Shown second, the candidate loses what position gives to the first.
            let verdicts = [
                (Order::BaselineFirst, coin(judged - self.position_bias)),
                (Order::CandidateFirst, coin(judged + self.position_bias)),
            ];
            for (order, preference) in verdicts {
                rows.push(ControlledRow { item, preference, length_difference: length, order });
            }
            one.push(verdicts[0].1);
            let average = (verdicts[0].1 + verdicts[1].1) / 2.0;
            both.push(average);
            if item < self.labelled { labelled.push((average, gold)) } else { unlabelled.push(average) }
        }
        let seed = Seed(rng.next_u64());
        let controlled = ControlledWinRate::fit(&rows, self.resamples, self.confidence, seed)?;
        let powered = prediction_powered(&labelled, &unlabelled, self.confidence)?;
        let of_mean = |values: &[f64]| (mean(values), mean_interval(values, [0.0, 1.0], self.confidence));
        Ok([
            of_mean(&one),
            of_mean(&both),
            (controlled.win_rate, controlled.interval),
            (powered.value, Some(powered.interval)),
        ])
    }
}
