//! How much of the probability lies on the labels of which verdicts are the ratio.

use serde::Serialize;

use crate::{Judgment, Purpose};

/// The shares of the main verdicts that came from log-probabilities.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LabelShares {
    /// How many there are.
    pub n: usize,
    /// Their median.
    pub median: f64,
    /// The lowest of them.
    pub lowest: f64,
    #[serde(skip)]
    sorted: Vec<f64>,
}

impl LabelShares {
    /// `None` where no verdict came from log-probabilities.
    pub fn of(judgments: &[Judgment]) -> Option<Self> {
        let main = judgments.iter().filter(|judgment| judgment.purpose == Purpose::Main);
        let mut sorted: Vec<f64> = main.filter_map(|judgment| judgment.label_share).collect();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let (lowest, upper) = (*sorted.first()?, *sorted.get(n / 2)?);
        let median = if n.is_multiple_of(2) { (sorted[n / 2 - 1] + upper) / 2.0 } else { upper };
        Some(Self { n, median, lowest, sorted })
    }

    /// How many are less than a share.
    pub fn below(&self, share: f64) -> usize {
        self.sorted.partition_point(|found| *found < share)
    }
}
