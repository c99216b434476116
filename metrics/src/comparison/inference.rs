//! Intervals, tests and power of one aligned table.

use harness_core::Seed;

use super::{IntervalMethod, Scale, Settings, TestMethod};
use crate::{
    Statistic,
    stats::{
        Bootstrap, BootstrapInterval, Columns, Interval, McNemar, PairedDesign, PairedDifference, ProportionInterval,
        minimum_detectable_difference, paired_proportion_interval, permutation_test, proportion_interval,
    },
};

/// Power at which the smallest detectable difference is stated.
pub(super) const POWER: f64 = 0.8;
/// Below this many documents, proportions get closed-form intervals rather than resampled ones.
const FEW_DOCUMENTS: u64 = 100;
/// Below this many documents of either kind (right or wrong; on which two models differ), likewise.
const FEW_EVENTS: u64 = 10;

/// The fewest units with which a two-sided exact test can reject: all m favour one model, 2·2^−m ≤ alpha.
pub(super) fn fewest_units(alpha: f64) -> usize {
    (1.0 - alpha.log2()).ceil() as usize
}

/// What was found about a candidate.
pub(super) struct Finding {
    pub(super) interval: Option<Interval>,
    pub(super) method: IntervalMethod,
    pub(super) test: Option<TestMethod>,
    pub(super) p: Option<f64>,
    pub(super) equivalent: Option<bool>,
    pub(super) detectable: Option<f64>,
}

/// The statistics of one aligned table; units are documents or clusters of them.
pub(super) struct Inference<'a> {
    settings: &'a Settings,
    units: Columns,
    /// Scores by column where every score is 0 or 1 and documents are independent.
    binary: Option<Vec<Vec<f64>>>,
    bootstrap: Bootstrap,
}

impl<'a> Inference<'a> {
    pub(super) fn new(columns: &Columns, clusters: Option<&[String]>, settings: &'a Settings) -> Self {
        let units = clusters.and_then(|labels| columns.clustered(labels).ok()).unwrap_or_else(|| columns.clone());
        let binary = if clusters.is_none() { binary_scores(columns) } else { None };
        let all_closed_form = binary.as_ref().is_some_and(|columns| {
            columns.iter().all(|scores| closed_form_cell(scores).is_some())
                && columns.iter().skip(1).all(|scores| closed_form_contrast(&columns[0], scores).is_some())
        });
        let resamples = if all_closed_form { 0 } else { settings.resamples };
        let bootstrap = Bootstrap::run(&units, resamples, Seed(settings.seed));
        Self { settings, units, binary, bootstrap }
    }

    pub(super) fn units(&self) -> usize {
        self.units.units()
    }

    /// The value of a column, where it is finite.
    pub(super) fn value(&self, column: usize) -> Option<f64> {
        Some(self.bootstrap.observed()[column]).filter(|value| value.is_finite())
    }

    /// The interval of a column's value.
    pub(super) fn cell(&self, column: usize) -> (Option<Interval>, IntervalMethod) {
        if let Some((successes, n)) = self.binary.as_ref().and_then(|binary| closed_form_cell(&binary[column])) {
            let interval = proportion_interval(successes, n, self.settings.confidence, ProportionInterval::Wilson);
            return labelled(interval, IntervalMethod::Wilson);
        }
        self.resampled(|values| values[column])
    }

    /// A candidate's column against column 0.
    pub(super) fn contrast(&self, column: usize, scale: Scale) -> Finding {
        let n = self.units();
        let margin = scale.margin(self.settings.margin, self.value(0));
        let table = self.binary.as_ref().and_then(|binary| McNemar::count(&binary[0], &binary[column]));
        if n == 0 {
            let method = IntervalMethod::None;
            return Finding { interval: None, method, test: None, p: None, equivalent: None, detectable: None };
        }
        let difference = |values: &[f64]| values[column] - values[0];
        if let Some(table) = table {
            let paired = |confidence| paired_proportion_interval(table.only_a, table.only_b, table.n(), confidence);
            let closed = self.binary.as_ref().and_then(|binary| closed_form_contrast(&binary[0], &binary[column]));
            let (interval, method) = match closed {
                Some(_) => labelled(paired(self.settings.confidence), IntervalMethod::BonettPrice),
                None => self.resampled(difference),
            };
            let within =
                |margin: f64| paired(1.0 - 2.0 * self.settings.alpha).map(|i| -margin < i.low && i.high < margin);
            return Finding {
                interval,
                method,
                test: Some(TestMethod::McnemarExact),
                p: Some(table.exact()),
                equivalent: margin.and_then(within),
                detectable: self.detectable_proportion(&table),
            };
        }
        let (interval, method) = self.resampled(difference);
        let permutation = permutation_test(&self.units, 0, column, self.settings.resamples, Seed(self.settings.seed));
        let standard_error = self.bootstrap.jackknife_standard_error(difference);
        let paired =
            PairedDifference { mean: difference(self.bootstrap.observed()), standard_error, df: n as f64 - 1.0 };
        let usable = standard_error > 0.0 && paired.mean.is_finite();
        let testable = usable && n >= fewest_units(self.settings.alpha);
        let detectable = minimum_detectable_difference(standard_error, self.settings.alpha, POWER);
        Finding {
            interval,
            method,
            test: permutation
                .map(|test| if test.exact { TestMethod::PermutationExact } else { TestMethod::PermutationSampled }),
            p: permutation.map(|test| test.p),
            equivalent: margin.filter(|_| usable).map(|margin| paired.equivalence_p(margin) <= self.settings.alpha),
            detectable: testable.then_some(detectable).filter(|d| d.is_finite()),
        }
    }

    /// The Wald minimum for the observed disagreement, but at least the difference at which the exact test can reject.
    fn detectable_proportion(&self, table: &McNemar) -> Option<f64> {
        let least = fewest_units(self.settings.alpha) as f64;
        let n = table.n() as f64;
        if least > n {
            return None;
        }
        let disagreement = (table.discordant() as f64 / n).max(least / n);
        let design = PairedDesign { disagreement, alpha: self.settings.alpha };
        Some(design.minimum_detectable(table.n() as usize, POWER).max(least / n).min(1.0))
    }

    /// The bootstrap interval of the kind asked for, or the percentile interval where BCa does not exist.
    fn resampled(&self, f: impl Fn(&[f64]) -> f64) -> (Option<Interval>, IntervalMethod) {
        let asked = self.settings.interval;
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

/// The scores of every column where all are 0 or 1 with weight 1.
fn binary_scores(columns: &Columns) -> Option<Vec<Vec<f64>>> {
    if *columns.statistic() != Statistic::Mean {
        return None;
    }
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
