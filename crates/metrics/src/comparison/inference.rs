//! Intervals, tests and power of one aligned table.

use harness_core::Seed;

use super::{Flips, IntervalMethod, Scale, Settings, TestChoice, TestMethod};
use crate::stats::{
    Bootstrap, BootstrapInterval, Columns, Interval, McNemar, PairedDifference, PairedPower, ProportionInterval,
    SequentialTest, approximate_randomization, confidence_sequence, distribution::student_t_quantile,
    paired_bootstrap_sacrebleu, paired_bootstrap_test, paired_proportion_equivalence, paired_proportion_interval,
    permutation_test, proportion_interval, scaled, sequential_equivalence_p, swap_standard_error,
};

/// Power at which the smallest detectable difference is stated.
pub(super) const POWER: f64 = 0.8;
/// Below this many documents, proportions get closed-form intervals rather than resampled ones.
const FEW_DOCUMENTS: u64 = 200;
/// Below this many documents of either kind (right or wrong; on which two models differ), likewise.
const FEW_EVENTS: u64 = 10;
/// Below this many units, Student's t on the jackknife's standard error rather than the bootstrap, whose intervals are
/// too short for few units.
const FEW_UNITS: usize = 500;

/// The fewest units with which a two-sided exact test can reject: all m favour one model, 2·2^−m ≤ alpha.
pub(super) fn fewest_units(alpha: f64) -> usize {
    (1.0 - alpha.log2()).ceil() as usize
}

/// What was found about a pair of models.
#[derive(Default)]
pub(super) struct Finding {
    pub(super) interval: Option<Interval>,
    pub(super) method: Option<IntervalMethod>,
    pub(super) test: Option<TestMethod>,
    pub(super) p: Option<f64>,
    pub(super) equivalence_p: Option<f64>,
    /// Power by number of units, and that number.
    pub(super) power: Option<(PairedPower, f64)>,
    pub(super) flips: Option<Flips>,
}

/// The statistics of one aligned table; units are documents or clusters of them.
pub(super) struct Inference<'a> {
    settings: &'a Settings,
    units: Columns,
    clustered: bool,
    /// Scores by column where every score is 0 or 1 and documents are independent.
    binary: Option<Vec<Vec<f64>>>,
    bootstrap: Bootstrap,
}

impl<'a> Inference<'a> {
    pub(super) fn new(columns: &Columns, clusters: Option<&[String]>, scale: Scale, settings: &'a Settings) -> Self {
        let units = clusters.and_then(|labels| columns.clustered(labels).ok()).unwrap_or_else(|| columns.clone());
        let answers = clusters.is_none() && columns.statistic().may_be_right_or_wrong(scale);
        let binary = if answers { binary_scores(columns) } else { None };
        let all_closed_form = binary.as_ref().is_some_and(|columns| {
            columns.iter().all(|scores| closed_form_cell(scores).is_some())
                && (0..columns.len())
                    .all(|a| (a + 1..columns.len()).all(|b| closed_form_contrast(&columns[a], &columns[b]).is_some()))
        });
        let few = units.units() < FEW_UNITS && settings.interval == BootstrapInterval::Bca;
        let tests_resample = matches!(settings.test, TestChoice::Bootstrap | TestChoice::SacrebleuBs);
        let resamples = if (all_closed_form || few) && !tests_resample { 0 } else { settings.resamples };
        let bootstrap = Bootstrap::run(&units, resamples, Seed(settings.seed));
        Self { settings, units, clustered: clusters.is_some(), binary, bootstrap }
    }

    pub(super) fn units(&self) -> usize {
        self.units.units()
    }

    /// The value of a column, where it is finite.
    pub(super) fn value(&self, column: usize) -> Option<f64> {
        self.bootstrap.observed().get(column).copied().filter(|value| value.is_finite())
    }

    /// The jackknife's standard error of a column's value, where it exists.
    pub(super) fn standard_error(&self, column: usize) -> Option<f64> {
        let error = self.bootstrap.jackknife_standard_error(|values| values[column]);
        Some(error).filter(|error| error.is_finite())
    }

    /// The interval of a column's value.
    pub(super) fn cell(&self, column: usize) -> (Option<Interval>, IntervalMethod) {
        if self.settings.sequential
            && let Some(values) = self.bounded(column)
        {
            let interval = confidence_sequence(&values, self.settings.confidence);
            return labelled(interval, IntervalMethod::ConfidenceSequence);
        }
        if let Some((successes, n)) = self.binary.as_ref().and_then(|binary| closed_form_cell(&binary[column])) {
            let interval = proportion_interval(successes, n, self.settings.confidence, ProportionInterval::Wilson);
            return labelled(interval, IntervalMethod::Wilson);
        }
        self.resampled(|values| values[column])
    }

    /// Column `b` against column `a`.
    pub(super) fn contrast(&self, a: usize, b: usize, scale: Scale) -> Finding {
        let n = self.units();
        if n == 0 {
            return Finding::default();
        }
        let margin = scale.margin(self.settings.margin, self.value(a));
        let table = self.binary.as_ref().and_then(|binary| McNemar::count(&binary[a], &binary[b]));
        let mut finding = self.differences(a, b, margin);
        finding.flips = table.map(|table| Flips { won: table.only_b, lost: table.only_a });
        if let Some(table) = &table {
            let discordant = table.discordant() as f64;
            // Half a document more on either side: no disagreement seen is not none there.
            let disagreement = (discordant + 0.5) / (table.n() as f64 + 1.0);
            finding.power = Some((PairedPower::McNemar { disagreement }, table.n() as f64));
            finding.equivalence_p =
                margin.and_then(|margin| paired_proportion_equivalence(table.only_a, table.only_b, table.n(), margin));
            let paired = paired_proportion_interval(table.only_a, table.only_b, table.n(), self.settings.confidence);
            if self.binary.as_ref().and_then(|binary| closed_form_contrast(&binary[a], &binary[b])).is_some() {
                (finding.interval, finding.method) = some(labelled(paired, IntervalMethod::BonettPrice));
            }
        }
        if self.settings.sequential {
            self.look(a, b, scale, margin, &mut finding);
            return finding;
        }
        if finding.interval.is_none() {
            (finding.interval, finding.method) = some(self.resampled(|values| values[b] - values[a]));
        }
        (finding.test, finding.p) = self.test(a, b, table.as_ref());
        finding
    }

    /// Power and equivalence by the jackknife's standard error.
    fn differences(&self, a: usize, b: usize, margin: Option<f64>) -> Finding {
        let n = self.units();
        let difference = |values: &[f64]| values[b] - values[a];
        let standard_error = self.bootstrap.jackknife_standard_error(difference);
        let mean = difference(self.bootstrap.observed());
        let paired = PairedDifference { mean, standard_error, df: n as f64 - 1.0 };
        let usable = standard_error > 0.0 && mean.is_finite();
        let testable = usable && n >= fewest_units(self.settings.alpha);
        let of_test = swap_standard_error(&self.bootstrap, self.units.statistic(), a, b);
        let (deviation, step) = (of_test * (n as f64).sqrt(), self.units.swap_step(a, b));
        Finding {
            equivalence_p: margin.filter(|_| usable).map(|margin| paired.equivalence_p(margin)),
            power: testable.then_some((PairedPower::Mean { deviation, step }, n as f64)),
            ..Finding::default()
        }
    }

    fn test(&self, a: usize, b: usize, table: Option<&McNemar>) -> (Option<TestMethod>, Option<f64>) {
        let (resamples, seed) = (self.settings.resamples, Seed(self.settings.seed));
        let named = |method, p: Option<f64>| (p.map(|_| method), p);
        match self.settings.test {
            TestChoice::Bootstrap => named(TestMethod::PairedBootstrap, paired_bootstrap_test(&self.bootstrap, a, b)),
            TestChoice::SacrebleuBs => {
                named(TestMethod::SacrebleuBs, paired_bootstrap_sacrebleu(&self.bootstrap, a, b))
            }
            TestChoice::SacrebleuAr => {
                named(TestMethod::SacrebleuAr, approximate_randomization(&self.units, a, b, resamples, seed))
            }
            TestChoice::Auto | TestChoice::Permutation => match table {
                Some(table) if self.settings.test == TestChoice::Auto => {
                    named(TestMethod::McnemarExact, Some(table.exact()))
                }
                _ => match permutation_test(&self.units, a, b, resamples, seed) {
                    Some(test) if test.exact => named(TestMethod::PermutationExact, Some(test.p)),
                    Some(test) => named(TestMethod::PermutationSampled, Some(test.p)),
                    None => (None, None),
                },
            },
        }
    }

    /// Interval, test and equivalence that hold at any time of looking.
    fn look(&self, a: usize, b: usize, scale: Scale, margin: Option<f64>, finding: &mut Finding) {
        let statistic = self.units.statistic();
        let value = |unit, column| statistic.value(self.units.vector(unit, column));
        let raw: Vec<f64> = (0..self.units()).map(|unit| value(unit, b) - value(unit, a)).collect();
        let bounded = statistic.is_mean_of_shares(scale);
        let mut test = SequentialTest::default();
        scaled(&raw, bounded).iter().for_each(|&d| test.push(d));
        finding.test = Some(TestMethod::Sequential);
        finding.p = Some(test.p());
        let differences = self.bounded(a).zip(self.bounded(b)).filter(|_| bounded);
        let differences: Option<Vec<f64>> =
            differences.map(|(a, b)| a.iter().zip(&b).map(|(a, b)| (b - a).clamp(-1.0, 1.0)).collect());
        let interval = differences.as_ref().and_then(|d| confidence_sequence(d, self.settings.confidence));
        (finding.interval, finding.method) = some(labelled(interval, IntervalMethod::ConfidenceSequence));
        finding.equivalence_p =
            differences.zip(margin).map(|(differences, margin)| sequential_equivalence_p(&differences, margin));
    }

    /// The scores of a column where each unit is one document with a score in [0, 1].
    fn bounded(&self, column: usize) -> Option<Vec<f64>> {
        if !self.units.statistic().is_mean() {
            return None;
        }
        let score = |unit| match self.units.vector(unit, column) {
            &[score, 1.0] if (0.0..=1.0).contains(&score) => Some(score),
            _ => None,
        };
        (0..self.units()).map(score).collect()
    }

    /// Student's t for few units, else the bootstrap interval of the kind asked for, or the percentile interval where
    /// BCa does not exist.
    fn resampled(&self, f: impl Fn(&[f64]) -> f64) -> (Option<Interval>, IntervalMethod) {
        let asked = self.settings.interval;
        if self.units() < FEW_UNITS && asked == BootstrapInterval::Bca {
            let (centre, error) = (f(self.bootstrap.observed()), self.bootstrap.jackknife_standard_error(&f));
            if self.units() < 2 || !centre.is_finite() || error.is_nan() || error <= 1e-13 * centre.abs().max(1e-300) {
                return (None, IntervalMethod::None);
            }
            let df = self.units() as f64 - 1.0;
            let half = student_t_quantile(0.5 + self.settings.confidence / 2.0, df) * error;
            let method = if self.clustered { IntervalMethod::ClusterRobust } else { IntervalMethod::StudentT };
            let interval = Some(Interval { low: centre - half, high: centre + half }).filter(Interval::is_finite);
            return labelled(interval, method);
        }
        let kinds = [asked, BootstrapInterval::Percentile];
        for kind in kinds {
            let interval = self.bootstrap.interval(&f, self.settings.confidence, kind);
            if interval.is_some() {
                let method = match kind {
                    BootstrapInterval::Bca => IntervalMethod::Bca,
                    BootstrapInterval::Percentile => IntervalMethod::Percentile,
                    BootstrapInterval::Basic => IntervalMethod::Basic,
                };
                return (interval, method);
            }
        }
        (None, IntervalMethod::None)
    }
}

fn labelled(interval: Option<Interval>, method: IntervalMethod) -> (Option<Interval>, IntervalMethod) {
    (interval, if interval.is_some() { method } else { IntervalMethod::None })
}

fn some((interval, method): (Option<Interval>, IntervalMethod)) -> (Option<Interval>, Option<IntervalMethod>) {
    (interval, Some(method))
}

/// The scores of every column where all are 0 or 1 with weight 1.
fn binary_scores(columns: &Columns) -> Option<Vec<Vec<f64>>> {
    let score = |unit, column| match columns.vector(unit, column) {
        &[score, 1.0] if score == 0.0 || score == 1.0 => Some(score),
        _ => None,
    };
    (0..columns.count()).map(|column| (0..columns.units()).map(|unit| score(unit, column)).collect()).collect()
}

/// Successes and documents, where a proportion is better served by a closed form.
fn closed_form_cell(scores: &[f64]) -> Option<(u64, u64)> {
    let n = scores.len() as u64;
    let successes = scores.iter().filter(|&&score| score == 1.0).count() as u64;
    (n < FEW_DOCUMENTS || successes < FEW_EVENTS || n - successes < FEW_EVENTS).then_some((successes, n))
}

/// The table of two columns, where its difference is better served by a closed form.
fn closed_form_contrast(a: &[f64], b: &[f64]) -> Option<McNemar> {
    McNemar::count(a, b).filter(|table| table.n() < FEW_DOCUMENTS || table.discordant() < FEW_EVENTS)
}
