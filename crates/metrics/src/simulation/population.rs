//! Populations of documents with known truths.

use std::collections::BTreeMap;

use harness_core::{Digest, DocId, MetricKey, SampleScore, StreamRng};
use serde::{Deserialize, Serialize};

use crate::{
    BleuFormula, Statistic,
    comparison::{Column, Scale, Table},
    stats::PairedPower,
};

/// Kind of scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Right or wrong.
    Binary,
    /// Between 0 and 1, skewed.
    Graded,
    /// Perplexity over documents of unequal length.
    Perplexity,
    /// Corpus BLEU.
    Bleu,
    /// Right or wrong, three documents a cluster.
    Clustered,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Binary, Self::Graded, Self::Perplexity, Self::Bleu, Self::Clustered];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Graded => "graded",
            Self::Perplexity => "perplexity",
            Self::Bleu => "bleu",
            Self::Clustered => "clustered",
        }
    }
}

/// Documents a cluster.
const CLUSTER: usize = 3;
/// Share of documents on which two models of binary scores disagree.
const DISAGREEMENT: f64 = 0.2;
/// Documents from which truths and deviations without a closed form are computed.
const MANY: usize = 100_000;

/// A population and a number of documents drawn from it.
pub(super) struct Population {
    pub(super) kind: Kind,
    pub(super) n: usize,
    /// Standard deviation of a unit's influence on the difference, for kinds without a closed form.
    deviation: f64,
    /// [`crate::stats::Columns::swap_step`] of the scores.
    step: f64,
    /// Change of the value by a small shift, so that shifts can be stated in the metric's unit.
    slope: f64,
}

impl Population {
    pub(super) fn new(kind: Kind, n: usize) -> Self {
        let mut population = Self { kind, n, deviation: 0.0, step: 0.0, slope: 1.0 };
        if kind != Kind::Binary {
            population.calibrate(0.0);
            // Scores spread differently where there is a difference: the planner is told how at the one it is to find.
            let (power, units) = population.power();
            let detectable = power.detectable(units, 0.05, 0.8).unwrap_or(0.0).min(population.largest());
            population.calibrate(detectable);
        }
        population
    }

    /// Deviation of the difference from one large sample with that true difference, by the jackknife; slope from the truths.
    fn calibrate(&mut self, difference: f64) {
        let mut many = Self { n: MANY, slope: 1.0, deviation: 0.0, step: 0.0, kind: self.kind };
        if matches!(self.kind, Kind::Perplexity | Kind::Bleu) {
            let step = 0.01;
            self.slope = (many.truth(step) - many.truth(0.0)) / step;
        }
        many.slope = self.slope;
        let mut rng = harness_core::Seed(1).stream("calibration", self.kind as u64);
        let (table, _) = many.draw(difference, &mut rng);
        let vectors: Vec<Vec<&[f64]>> = table
            .columns
            .iter()
            .map(|column| column.scores.iter().map(|score| score.stats.as_slice()).collect())
            .collect();
        let columns = crate::stats::Columns::new(table.statistic.clone(), &vectors).expect("finite scores");
        let labels: Vec<&String> = table.columns[0].scores.iter().filter_map(|s| table.clusters.get(&s.doc)).collect();
        let columns = if labels.is_empty() { columns } else { columns.clustered(&labels).expect("a label each") };
        let bootstrap = crate::stats::Bootstrap::run(&columns, 0, harness_core::Seed(0));
        let error = crate::stats::swap_standard_error(&bootstrap, columns.statistic(), 0, 1);
        self.deviation = error * (columns.units() as f64).sqrt();
        self.step = columns.swap_step(0, 1);
    }

    /// What the planner needs: power by number of units, and that number.
    pub(super) fn power(&self) -> (PairedPower, f64) {
        let units = if self.kind == Kind::Clustered { self.n / CLUSTER } else { self.n } as f64;
        match self.kind {
            Kind::Binary => (PairedPower::McNemar { disagreement: DISAGREEMENT }, units),
            _ => (PairedPower::Mean { deviation: self.deviation, step: self.step }, units),
        }
    }

    /// The largest difference the population can have.
    pub(super) fn largest(&self) -> f64 {
        match self.kind {
            Kind::Binary => DISAGREEMENT,
            Kind::Graded | Kind::Clustered => 0.3,
            Kind::Perplexity | Kind::Bleu => 0.3 * self.slope.abs(),
        }
    }

    /// The margin of equivalence in the metric's unit, as [`super::settings`] set it.
    pub(super) fn margin(&self) -> f64 {
        match self.kind {
            Kind::Bleu => 1.0,
            Kind::Perplexity => 0.01 * self.truth(0.0),
            _ => 0.01,
        }
    }

    /// The value of infinitely many documents at a shift in the parameter.
    fn truth(&self, shift: f64) -> f64 {
        match self.kind {
            Kind::Binary | Kind::Clustered => 0.5 + shift,
            Kind::Graded => 1.0 / 3.0 + shift,
            Kind::Perplexity => (2.0 + shift).exp(),
            // The mean statistics of a document of 24 words on average, with precisions that fall by the order.
            Kind::Bleu => {
                let mut sums = vec![24.0, 24.0];
                for order in 0..4 {
                    sums.push((24.0 - order as f64) * precision(order, shift));
                }
                sums.extend((0..4).map(|order| 24.0 - order as f64));
                Statistic::Bleu(BleuFormula::default()).value(&sums)
            }
        }
    }

    /// Two columns whose values differ by `difference` in the metric's unit, and the two truths.
    pub(super) fn draw(&self, difference: f64, rng: &mut StreamRng) -> (Table, [f64; 2]) {
        let shift = match self.kind {
            Kind::Perplexity => (difference / self.truth(0.0)).ln_1p(),
            _ => difference / self.slope,
        };
        let level = 0.35 + 0.3 * rng.uniform();
        let mut clusters = BTreeMap::new();
        let (mut base, mut candidate) = (Vec::with_capacity(self.n), Vec::with_capacity(self.n));
        let (mut cluster_base, mut cluster_shift) = (0.0, 0.0);
        let key = MetricKey::new("score", "none");
        for i in 0..self.n {
            let doc = document(i);
            if self.kind == Kind::Clustered && i % CLUSTER == 0 {
                cluster_base = 0.5 + 0.25 * (2.0 * rng.uniform() - 1.0) - shift / 2.0;
                cluster_shift = shift + 0.2 * (2.0 * rng.uniform() - 1.0);
            }
            if self.kind == Kind::Clustered {
                clusters.insert(doc, format!("{}", i / CLUSTER));
            }
            let [one, other] = match self.kind {
                Kind::Binary => binary(level, shift, rng).map(|x| vec![x, 1.0]),
                Kind::Graded => graded(shift, rng).map(|x| vec![x, 1.0]),
                Kind::Perplexity => perplexity(shift, rng).map(|v| v.to_vec()),
                Kind::Bleu => bleu(shift, rng),
                Kind::Clustered => {
                    let right = |p: f64, rng: &mut StreamRng| f64::from(u8::from(rng.uniform() < p));
                    [right(cluster_base, rng), right(cluster_base + cluster_shift, rng)].map(|x| vec![x, 1.0])
                }
            };
            base.push(SampleScore { doc, key: key.clone(), stats: one, parsed: true });
            candidate.push(SampleScore { doc, key: key.clone(), stats: other, parsed: true });
        }
        let (statistic, scale) = match self.kind {
            Kind::Perplexity => (Statistic::Perplexity, Scale::Raw),
            Kind::Bleu => (Statistic::Bleu(BleuFormula::default()), Scale::Points),
            _ => (Statistic::Mean, Scale::Fraction),
        };
        let truth = match self.kind {
            Kind::Binary => [level, level + shift],
            Kind::Clustered => [0.5 - shift / 2.0, 0.5 + shift / 2.0],
            _ => [self.truth(0.0), self.truth(shift)],
        };
        let columns = vec![Column::new("base", base), Column::new("candidate", candidate)];
        let table = Table { statistic, scale, clusters, ..Table::new(self.kind.name(), key, columns) };
        (table, truth)
    }

    /// Differences of single documents, for sequential tests of binary and graded scores.
    pub(super) fn differences(&self, shift: f64, rng: &mut StreamRng) -> Vec<f64> {
        let difference = |rng: &mut StreamRng| {
            let [a, b] = if self.kind == Kind::Binary { binary(0.5, shift, rng) } else { graded(shift, rng) };
            b - a
        };
        (0..self.n).map(|_| difference(rng)).collect()
    }
}

/// The id of document i of all simulated tasks.
pub(super) fn document(i: usize) -> DocId {
    let mut bytes = [0u8; 8];
    bytes.copy_from_slice(&(i as u64).to_le_bytes());
    DocId(Digest::of(bytes))
}

/// Right or wrong answers that disagree on a fifth of the documents.
fn binary(level: f64, shift: f64, rng: &mut StreamRng) -> [f64; 2] {
    let (lost, won) = ((DISAGREEMENT - shift) / 2.0, (DISAGREEMENT + shift) / 2.0);
    match rng.uniform() {
        u if u < lost => [1.0, 0.0],
        u if u < lost + won => [0.0, 1.0],
        u if u < won + level => [1.0, 1.0],
        _ => [0.0, 0.0],
    }
}

/// Skewed scores that share the difficulty of the document.
fn graded(shift: f64, rng: &mut StreamRng) -> [f64; 2] {
    let common = 0.6 * rng.uniform().powi(2);
    let mut own = || 0.4 * rng.uniform().powi(2);
    [common + own(), common + own() + shift]
}

/// Log-probability and length: exponential lengths, nats a word that vary by document.
fn perplexity(shift: f64, rng: &mut StreamRng) -> [[f64; 2]; 2] {
    let length = (20.0 - 80.0 * (1.0 - rng.uniform()).ln()).floor();
    let rate = 2.0 + 0.4 * rng.normal();
    let other = rate + shift + 0.15 * rng.normal();
    [[-length * rate, length], [-length * other, length]]
}

/// Mean precision of n-grams of an order.
fn precision(order: usize, shift: f64) -> f64 {
    (0.55 + shift) * 0.7_f64.powi(order as i32)
}

/// n-gram statistics of a document (lengths, matches by order, totals by order) that share its difficulty.
fn bleu(shift: f64, rng: &mut StreamRng) -> [Vec<f64>; 2] {
    let length = 14.0 + rng.below(21) as f64;
    let common = 0.4 * (rng.uniform() - 0.5);
    let mut one = |shift: f64| {
        let own = 1.0 + common + 0.5 * (rng.uniform() - 0.5);
        let mut stats = vec![length, length];
        stats.extend((0..4).map(|order| (length - order as f64) * precision(order, shift) * own));
        stats.extend((0..4).map(|order| length - order as f64));
        stats
    };
    [one(0.0), one(shift)]
}
