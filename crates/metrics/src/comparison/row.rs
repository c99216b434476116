//! One row of a comparison: values, differences, tests and verdicts.

use std::fmt;

use harness_core::MetricKey;
use serde::{Deserialize, Serialize};

use super::Scale;
use crate::stats::{Interval, Range};

/// All models on one task under one metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Task or group id.
    pub task: String,
    /// Name to show.
    pub label: String,
    /// The group directly above, if any.
    pub group: Option<String>,
    /// Depth below the top.
    pub depth: usize,
    /// Whether this is a group over pooled documents.
    pub pooled: bool,
    /// Metric and filter.
    pub key: MetricKey,
    /// Whether larger values are better.
    pub higher_is_better: bool,
    /// What the values are in.
    pub scale: Scale,
    /// Whether this is the task's main metric.
    pub primary: bool,
    /// Documents compared; `None` where only means are known and not over how many documents.
    pub n: Option<usize>,
    /// Clusters of dependent documents, where there are any.
    pub clusters: Option<usize>,
    /// Name of the family whose p-values are corrected together.
    pub family: String,
    /// The smallest difference that matters, in the row's unit; `None` for a raw metric without a base value.
    pub margin: Option<f64>,
    /// One cell a model, base first.
    pub cells: Vec<Cell>,
    /// One contrast a candidate, in the order of the models; every pair of models where all pairs are tested, those
    /// against the base first.
    pub contrasts: Vec<Contrast>,
    /// The numerical noise floor in the row's unit, where it was measured; see [`super::Table::noise`].
    #[serde(default)]
    pub noise: Option<f64>,
    /// The values that the metric can have, at which intervals are cut.
    #[serde(default)]
    pub range: Range,
    /// Whether the scores are a judge's verdicts; see [`super::Table::judged`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub judged: bool,
    /// The models from the best to the worst, where all pairs are tested.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranking: Vec<Ranked>,
}

impl Row {
    /// The contrasts with the base.
    pub fn with_base(&self) -> impl Iterator<Item = &Contrast> {
        let base = self.cells.first().map(|cell| cell.model.as_str()).unwrap_or_default();
        self.contrasts.iter().filter(move |contrast| contrast.against.is_empty() || contrast.against == base)
    }
}

/// A place in a ranking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranked {
    /// Name of the model.
    pub model: String,
    /// Groups it belongs to, from 0: the difference of two models is decided exactly where they share none.
    pub groups: Vec<usize>,
}

/// The value of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Name of the model.
    pub model: String,
    /// The value; `None` where it is not defined (no documents) or not finite.
    pub value: Option<f64>,
    /// Its interval, where one can be estimated.
    pub interval: Option<Interval>,
    /// How the interval was made.
    pub method: IntervalMethod,
    /// Documents whose answer could not be parsed.
    pub unparsed: usize,
}

/// A candidate against the base (or another model), on the same documents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contrast {
    /// Name of the candidate.
    pub model: String,
    /// What it is compared with; the base where empty (reports of schema 1).
    #[serde(default)]
    pub against: String,
    /// Its value less the other's.
    pub difference: Option<f64>,
    /// Interval of the difference, where one can be estimated.
    pub interval: Option<Interval>,
    /// How the interval was made.
    pub method: IntervalMethod,
    /// The test of no difference; `None` without documents.
    pub test: Option<TestMethod>,
    /// p of the test, before correction.
    pub p: Option<f64>,
    /// p corrected over the family.
    pub p_corrected: Option<f64>,
    /// What follows from it.
    pub verdict: Verdict,
    /// p of the two one-sided tests that the difference is at least the row's margin in size (TOST), before
    /// correction; `None` where this cannot be tested.
    #[serde(default)]
    pub equivalence_p: Option<f64>,
    /// The same corrected over the family.
    #[serde(default)]
    pub equivalence_p_corrected: Option<f64>,
    /// Whether the difference was shown to lie within ± the row's margin: corrected p ≤ alpha.
    pub equivalent: Option<bool>,
    /// The smallest true difference that these documents would have shown with 80 % power after a correction for the
    /// whole family, given how often the two models differ; `None` where no difference could have been shown.
    pub detectable: Option<f64>,
    /// About how many documents would decide it with 80 % power, as different or as equivalent, if the true difference
    /// is the one observed; `None` where it is decided, or no number of documents would.
    #[serde(default)]
    pub needed: Option<u64>,
    /// Documents that only one of the two answered right, for right and wrong answers.
    #[serde(default)]
    pub flips: Option<Flips>,
}

/// Documents on which the answers of two models differ: the discordant cells of McNemar's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flips {
    /// Wrong in the other model, right in this one.
    pub won: u64,
    /// Right in the other model, wrong in this one.
    pub lost: u64,
}

/// What a contrast says about a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Better than the base: corrected p ≤ alpha, in the direction that is good.
    Better,
    /// Worse than the base.
    Worse,
    /// Shown to differ by less than the margin.
    Equivalent,
    /// The data decide neither way.
    Undecided,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Equivalent => "equivalent",
            Self::Undecided => "undecided",
        })
    }
}

/// How an interval was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntervalMethod {
    /// Bias-corrected and accelerated bootstrap.
    Bca,
    /// Percentile bootstrap.
    Percentile,
    /// Basic bootstrap.
    Basic,
    /// Wilson's score interval: proportions of few documents, or near 0 or 1.
    Wilson,
    /// Bonett and Price's interval for paired proportions: few documents, or few on which the models differ.
    BonettPrice,
    /// Student's t on the jackknife's standard error: fewer than 200 documents.
    StudentT,
    /// Student's t on the standard error of a jackknife over clusters: fewer than 200 clusters.
    ClusterRobust,
    /// Normal, from standard errors alone: the documents of a model are not known.
    Normal,
    /// Confidence sequence: valid at any time of looking.
    ConfidenceSequence,
    /// No interval: fewer than two documents, or no variation.
    None,
}

impl IntervalMethod {
    /// The name in words.
    pub fn label(self) -> &'static str {
        match self {
            Self::Bca => "BCa bootstrap",
            Self::Percentile => "percentile bootstrap",
            Self::Basic => "basic bootstrap",
            Self::Wilson => "Wilson score",
            Self::BonettPrice => "Bonett-Price",
            Self::StudentT => "Student's t on the jackknife",
            Self::ClusterRobust => "cluster-robust Student's t",
            Self::Normal => "normal, from standard errors",
            Self::ConfidenceSequence => "confidence sequence",
            Self::None => "none",
        }
    }
}

/// The test of a contrast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestMethod {
    /// McNemar's exact test: right or wrong answers.
    McnemarExact,
    /// Paired permutation test over all swaps.
    PermutationExact,
    /// Paired permutation test over random swaps.
    PermutationSampled,
    /// Paired bootstrap test.
    PairedBootstrap,
    /// sacreBLEU's approximate randomisation.
    SacrebleuAr,
    /// sacreBLEU's paired bootstrap.
    SacrebleuBs,
    /// z test of two values with standard errors, unpaired.
    UnpairedZ,
    /// Mixture of bets, valid at any time of looking.
    Sequential,
}

impl TestMethod {
    /// The name in words.
    pub fn label(self) -> &'static str {
        match self {
            Self::McnemarExact => "exact McNemar",
            Self::PermutationExact => "exact paired permutation",
            Self::PermutationSampled => "paired permutation",
            Self::PairedBootstrap => "paired bootstrap",
            Self::SacrebleuAr => "approximate randomisation (sacreBLEU)",
            Self::SacrebleuBs => "paired bootstrap (sacreBLEU)",
            Self::UnpairedZ => "unpaired z",
            Self::Sequential => "sequential, valid at any time of looking",
        }
    }
}

/// p-values that were corrected together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Family {
    /// Its name: `main results`, `within GROUP`, or `other metrics`.
    pub name: String,
    /// Number of tests.
    pub tests: usize,
    /// Number of them that decided.
    pub decided: usize,
}
