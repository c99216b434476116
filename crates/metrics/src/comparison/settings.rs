//! How a comparison is computed.

use serde::{Deserialize, Serialize};

use super::ComparisonError;
use crate::stats::{BootstrapInterval, Correction};

/// Settings of a comparison; [`Settings::default`] gives 95 % BCa intervals, Holm at 0.05, 10,000 resamples, and a
/// margin of 0.01.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Coverage of intervals, in (0, 1).
    pub confidence: f64,
    /// Level at which a corrected p decides, in (0, 1).
    pub alpha: f64,
    /// Correction of p-values within a family.
    pub correction: Correction,
    /// Bootstrap resamples and random permutations, at least 100.
    pub resamples: usize,
    /// Smallest difference that matters, as a fraction (0.01: one percentage point); see [`super::Scale`].
    pub margin: f64,
    /// Kind of bootstrap interval.
    pub interval: BootstrapInterval,
    /// Seed of resampling.
    pub seed: u64,
    /// What to do where models were not scored on the same documents.
    pub alignment: Alignment,
    /// Which differences are tested.
    pub pairs: Pairs,
    /// The test of a difference.
    pub test: TestChoice,
    /// Whether documents were added until the verdicts were decided: tests and intervals are then those that hold at
    /// any time of looking.
    pub sequential: bool,
}

/// Which differences are tested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairs {
    /// Every candidate against the base.
    #[default]
    Base,
    /// Every model against every other, with a ranking.
    All,
}

/// Which test is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestChoice {
    /// McNemar's exact test for right and wrong answers, else the paired permutation test.
    #[default]
    Auto,
    /// The paired permutation test.
    Permutation,
    /// The paired bootstrap test.
    Bootstrap,
    /// sacreBLEU's approximate randomisation.
    SacrebleuAr,
    /// sacreBLEU's paired bootstrap.
    SacrebleuBs,
}

/// What to do where models were not scored on the same documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alignment {
    /// Refuse, naming the documents.
    #[default]
    Strict,
    /// Compare on the documents that all models share, with a caveat.
    Intersect,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            confidence: 0.95,
            alpha: 0.05,
            correction: Correction::Holm,
            resamples: 10_000,
            margin: 0.01,
            interval: BootstrapInterval::Bca,
            seed: 42,
            alignment: Alignment::Strict,
            pairs: Pairs::Base,
            test: TestChoice::Auto,
            sequential: false,
        }
    }
}

impl Settings {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`ComparisonError::Setting`] for the first one out of range.
    pub fn validate(&self) -> Result<(), ComparisonError> {
        let open_unit = |name, value: f64| {
            if value > 0.0 && value < 1.0 {
                return Ok(());
            }
            Err(ComparisonError::Setting { name, value, expected: "a number between 0 and 1, both excluded" })
        };
        open_unit("confidence", self.confidence)?;
        open_unit("alpha", self.alpha)?;
        if !(self.margin > 0.0 && self.margin.is_finite()) {
            let expected = "a number above 0, e.g. 0.01 for one percentage point";
            return Err(ComparisonError::Setting { name: "margin", value: self.margin, expected });
        }
        if self.resamples < 100 {
            let expected = "at least 100; 10000 is usual";
            return Err(ComparisonError::Setting { name: "resamples", value: self.resamples as f64, expected });
        }
        Ok(())
    }
}
