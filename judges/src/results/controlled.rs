//! The win rate with the judge's length and position bias taken out.

use std::collections::BTreeMap;

use harness_core::Seed;
use harness_metrics::stats::{Interval, quantile_sorted, standard_deviation};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    JudgesError, Judgment, Order, Purpose, Result, Subject,
    length_control::{L1Logistic, LogisticRow, sigmoid},
};

/// One verdict with what may have biased it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ControlledRow {
    /// Number of the item; verdicts on one item are resampled together.
    pub item: usize,
    /// Preference for the candidate, from 0 to 1.
    pub preference: f64,
    /// Length of the candidate's output less that of the baseline's.
    pub length_difference: f64,
    /// Which output was shown first.
    pub order: Order,
}

/// The win rate that a logistic regression on length and position predicts for outputs of equal length and a judge that
/// favours no position. AlpacaEval's minimal length control with one more term.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ControlledWinRate {
    /// The win rate, from 0 to 1.
    pub win_rate: f64,
    /// Its interval, from a bootstrap over items through the refit.
    pub interval: Option<Interval>,
    /// Change of the log-odds when the candidate is longer by about one standard deviation (by `tanh` of the
    /// standardised difference).
    pub length_slope: f64,
    /// Its interval.
    pub length_interval: Option<Interval>,
    /// Half of the change of the log-odds when the candidate is shown first instead of second; 0 in one-order data.
    pub position_slope: f64,
    /// Its interval.
    pub position_interval: Option<Interval>,
    /// Items.
    pub n: usize,
}

/// So large that the penalty, which the solver always has, does not matter.
const C: f64 = 1e6;
/// A ridge in the form of half a verdict each way, spread over the rows: keeps the optimum finite where one side always
/// wins (Haldane's correction).
const PRIOR: f64 = 0.5;

impl ControlledWinRate {
    /// Fits the regression and its bootstrap.
    ///
    /// # Errors
    /// [`JudgesError::Statistics`] for fewer than two items or a preference outside [0, 1].
    pub fn fit(rows: &[ControlledRow], resamples: usize, confidence: f64, seed: Seed) -> Result<Self> {
        let bad = |what: String| Err(JudgesError::Statistics { what });
        let mut items: BTreeMap<usize, Vec<&ControlledRow>> = BTreeMap::new();
        for row in rows {
            if !(0.0..=1.0).contains(&row.preference) || !row.length_difference.is_finite() {
                return bad(format!("preference {} of item {}: expected 0 to 1", row.preference, row.item));
            }
            items.entry(row.item).or_default().push(row);
        }
        let items: Vec<Vec<&ControlledRow>> = items.into_values().collect();
        if items.len() < 2 {
            return bad(format!("length control needs at least 2 judged items, found {}", items.len()));
        }
        let lengths: Vec<f64> = items.iter().map(|rows| rows[0].length_difference).collect();
        let scale = standard_deviation(&lengths);
        let one_order = rows.iter().all(|row| row.order == rows[0].order);
        let terms = [scale > 0.0, !one_order, true];
        let model = L1Logistic { c: C, terms };
        let of_item = |rows: &[&ControlledRow], weight: f64, into: &mut Vec<LogisticRow>| {
            for row in rows {
                let length = if scale > 0.0 { (row.length_difference / scale).tanh() } else { 0.0 };
                let position = if row.order == Order::CandidateFirst { 1.0 } else { -1.0 };
                let x = [length, position, 1.0];
                into.push(LogisticRow { x, y: row.preference, weight: weight / rows.len() as f64 });
            }
        };
        let with_prior = |mut data: Vec<LogisticRow>| {
            let total: f64 = data.iter().map(|row| row.weight).sum();
            let shrink = 2.0 * PRIOR / (total + 2.0 * PRIOR);
            data.iter_mut().for_each(|row| row.y += shrink * (0.5 - row.y));
            data
        };
        let mut data = vec![];
        items.iter().for_each(|rows| of_item(rows, 1.0, &mut data));
        let fit = model.fit(&with_prior(data), [0.0; 3]);
        let mut values: Vec<[f64; 3]> = (0..resamples)
            .into_par_iter()
            .map(|i| {
                let mut rng = seed.stream("controlled win rate", i as u64);
                let mut counts = vec![0.0; items.len()];
                (0..items.len()).for_each(|_| counts[rng.below(items.len() as u64) as usize] += 1.0);
                let mut data = vec![];
                for (rows, count) in items.iter().zip(&counts).filter(|(_, count)| **count > 0.0) {
                    of_item(rows, *count, &mut data);
                }
                let w = model.fit(&with_prior(data), fit);
                [sigmoid(w[2]), w[0], w[1]]
            })
            .collect();
        let tail = (1.0 - confidence) / 2.0;
        let mut interval = |which: usize| {
            values.sort_by(|a, b| a[which].total_cmp(&b[which]));
            let sorted: Vec<f64> = values.iter().map(|value| value[which]).collect();
            let ends = Interval { low: quantile_sorted(&sorted, tail), high: quantile_sorted(&sorted, 1.0 - tail) };
            (ends.is_finite() && ends.low < ends.high).then_some(ends)
        };
        Ok(Self {
            win_rate: sigmoid(fit[2]),
            interval: interval(0),
            length_slope: fit[0],
            length_interval: interval(1),
            position_slope: fit[1],
            position_interval: interval(2),
            n: items.len(),
        })
    }

    /// The rows of one pair among judgments; `lengths` gives the lengths of the baseline's and the candidate's output of
    /// an item, in code points.
    pub fn rows(
        judgments: &[Judgment],
        baseline: &str,
        candidate: &str,
        lengths: impl Fn(&str) -> Option<(usize, usize)>,
    ) -> Vec<ControlledRow> {
        let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
        let mut rows = vec![];
        for judgment in judgments.iter().filter(|j| j.purpose == Purpose::Main) {
            let Subject::Pair { baseline: b, candidate: c } = &judgment.subject else { continue };
            if b != baseline || c != candidate {
                continue;
            }
            if let (Some(preference), Some((base, own))) = (judgment.candidate_preference(), lengths(&judgment.item)) {
                let next = numbers.len();
                let item = *numbers.entry(&judgment.item).or_insert(next);
                let length_difference = own as f64 - base as f64;
                rows.push(ControlledRow { item, preference, length_difference, order: judgment.order });
            }
        }
        rows
    }
}
