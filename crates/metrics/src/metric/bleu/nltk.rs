//! nltk's `corpus_bleu` and `sentence_bleu`.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    super::{Statistic, formula::Formula},
    token_stats,
};
use crate::{MetricsError, scale::Scale, stats::Range};

/// nltk's smoothing functions (Chen and Cherry 2014).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NltkSmoothing {
    /// The smallest positive number for a precision of 0; the default.
    #[default]
    Method0,
    /// 0.1 matches for none.
    Method1,
    /// 1 added to matches and totals of orders above 1.
    Method2,
    /// `1 / (2ᵏ · total)` for the k-th order without a match.
    Method3,
    /// As method 3, divided by the logarithm of the hypothesis' length.
    Method4,
}

impl FromStr for NltkSmoothing {
    type Err = MetricsError;

    fn from_str(name: &str) -> Result<Self, MetricsError> {
        match name {
            "method0" => Ok(Self::Method0),
            "method1" => Ok(Self::Method1),
            "method2" => Ok(Self::Method2),
            "method3" => Ok(Self::Method3),
            "method4" => Ok(Self::Method4),
            _ => Err(MetricsError::unknown(
                "smoothing method",
                name,
                &["method0", "method1", "method2", "method3", "method4"],
            )),
        }
    }
}

/// BLEU on 0..1 with nltk's smoothing and equal weights, over tokens the caller has cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NltkBleu {
    /// Largest order of n-grams, 4 by default.
    pub max_order: usize,
    /// Smoothing of orders without a match.
    pub smoothing: NltkSmoothing,
}

impl Default for NltkBleu {
    fn default() -> Self {
        Self { max_order: 4, smoothing: NltkSmoothing::default() }
    }
}

impl NltkBleu {
    /// The function from summed statistics to the score.
    pub fn statistic(&self) -> Statistic {
        Statistic::NltkBleu(*self)
    }

    /// Number of statistics: hypothesis length, reference length, matches and totals of each order.
    pub fn dim(&self) -> usize {
        2 + 2 * self.max_order
    }

    /// Statistics of one document; a total is at least 1, as in nltk.
    pub fn stats(&self, hypothesis: &[&str], references: &[Vec<&str>]) -> Vec<f64> {
        let (matches, totals) = token_stats(hypothesis, references, self.max_order);
        let length = hypothesis.len();
        let closest = references.iter().map(Vec::len).min_by_key(|&r| (r.abs_diff(length), r)).unwrap_or(0);
        let mut stats = vec![length as f64, closest as f64];
        stats.extend(matches.iter().map(|&count| f64::from(count)));
        stats.extend(totals.iter().map(|&total| total.max(1) as f64));
        stats
    }

    /// The score of summed statistics.
    pub fn score(&self, sums: &[f64]) -> f64 {
        let (length, reference) = (sums[0], sums[1]);
        let matches = &sums[2..2 + self.max_order];
        let totals = &sums[2 + self.max_order..self.dim()];
        if self.max_order == 0 || matches[0] == 0.0 {
            return 0.0;
        }
        let penalty = if length > reference { 1.0 } else { (1.0 - reference / length).exp() };
        let mut halvings = 0;
        let mean = (0..self.max_order)
            .map(|n| match (self.smoothing, matches[n], totals[n]) {
                (NltkSmoothing::Method2, count, total) if n > 0 => (count + 1.0) / (total + 1.0),
                (NltkSmoothing::Method0, 0.0, _) => f64::MIN_POSITIVE,
                (NltkSmoothing::Method1, 0.0, total) => 0.1 / total,
                (NltkSmoothing::Method3, 0.0, total) => {
                    halvings += 1;
                    1.0 / (2f64.powi(halvings) * total)
                }
                (NltkSmoothing::Method4, 0.0, total) if length > 1.0 => {
                    halvings += 1;
                    // 5 is nltk's constant k.
                    length.ln() / (2f64.powi(halvings) * 5.0) / total
                }
                (_, count, total) => count / total,
            })
            .map(|precision| precision.ln() / self.max_order as f64)
            .sum::<f64>();
        penalty * mean.exp()
    }
}

impl Formula for NltkBleu {
    fn dim(&self) -> usize {
        Self::dim(self)
    }

    fn value(&self, sums: &[f64]) -> f64 {
        self.score(sums)
    }

    fn range(&self, _: Scale) -> Range {
        Range::between(0.0, 1.0)
    }

    fn scale(&self) -> Option<Scale> {
        Some(Scale::Fraction)
    }

    fn read(&self, _: &Value) -> Option<Vec<f64>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_only_matters_without_a_match() {
        let (hypothesis, references) = (["a", "b", "c", "d", "e"], [vec!["a", "b", "c", "d", "e"]]);
        for name in ["method0", "method1", "method3", "method4"] {
            let bleu = NltkBleu { smoothing: name.parse().unwrap(), ..NltkBleu::default() };
            assert!((bleu.score(&bleu.stats(&hypothesis, &references)) - 1.0).abs() < 1e-12);
        }
        assert!("method9".parse::<NltkSmoothing>().is_err());
    }
}
