//! Several judges: what their disagreement does to the result.
//!
//! The members are taken as drawn from judges like them. A verdict is then the sum of an effect of the item, one of the
//! judge, and a rest, and the mean over n items and k judges has the variance σ²(item)/n + σ²(judge)/k + σ²(rest)/(nk):
//! the two-way crossed random effects of generalizability theory (Brennan 2001). The components come from mean squares,
//! the degrees of freedom from Satterthwaite (1946).

use std::collections::{BTreeMap, BTreeSet};

use harness_core::Seed;
use harness_metrics::stats::{
    Interval,
    distribution::{normal_critical, student_t_quantile},
    mean, variance,
};
use serde::{Deserialize, Serialize};

use super::{
    AgreementResult, AlphaResult, agreement, alpha_level, category, joint_agreement,
    ratings::{by_item, ratings, subjects},
};
use crate::{Judgment, Subject};

/// What one member of a jury says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JuryMember {
    /// Its name.
    pub name: String,
    /// Its mean over the items that every member has a verdict on.
    pub value: f64,
}

/// Agreement of two members.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JuryAgreement {
    /// Their names.
    pub members: [String; 2],
    /// How far they agree.
    pub agreement: AgreementResult,
}

/// A jury's verdict on one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JuryResult {
    /// The model it is compared with, in pairs.
    pub baseline: Option<String>,
    /// The model.
    pub model: String,
    /// The members.
    pub members: Vec<JuryMember>,
    /// Mean over the members.
    pub value: f64,
    /// Standard deviation of a judge's mean about the mean of all judges, beyond what the items explain.
    pub between_judges: f64,
    /// Standard error with the choice of items and of judges in it.
    pub standard_error: f64,
    /// Its degrees of freedom.
    pub degrees_of_freedom: f64,
    /// The interval for judges like these, cut to the range of values.
    pub interval: Interval,
    /// Standard error for these very judges: the choice of items alone.
    pub fixed_standard_error: f64,
    /// Items with a verdict of every member.
    pub n: usize,
    /// Krippendorff's alpha over all members.
    pub alpha: Option<AlphaResult>,
    /// Agreement of every two members.
    pub pairs: Vec<JuryAgreement>,
}

impl JuryResult {
    /// The standard error whose normal interval is as wide as the interval of Student's t, and no wider than the range.
    pub fn normal_standard_error(&self, range: [f64; 2], confidence: f64) -> f64 {
        let t = student_t_quantile(0.5 + confidence / 2.0, self.degrees_of_freedom);
        let farthest = (self.value - range[0]).max(range[1] - self.value);
        (self.standard_error * t).min(farthest) / normal_critical(confidence)
    }
}

/// The jury's result on every subject; subjects with fewer than two members or two items that all of them rated are left
/// out. `range` is what values can be.
pub fn jury_results(
    members: &[(String, Vec<Judgment>)],
    range: [f64; 2],
    settings: (usize, f64, Seed),
) -> Vec<JuryResult> {
    let Some((_, first)) = members.first() else { return vec![] };
    subjects(first).iter().filter_map(|subject| jury_result(members, subject, range, settings)).collect()
}

fn jury_result(
    members: &[(String, Vec<Judgment>)],
    subject: &Subject,
    range: [f64; 2],
    settings: (usize, f64, Seed),
) -> Option<JuryResult> {
    let all: Vec<_> = members.iter().map(|(_, judgments)| ratings(judgments, subject)).collect();
    let means: Vec<BTreeMap<&str, f64>> = all.iter().map(by_item).collect();
    let mut items: BTreeSet<&str> = means.first()?.keys().copied().collect();
    means.iter().for_each(|means| items.retain(|item| means.contains_key(item)));
    let (n, k) = (items.len(), members.len());
    if n < 2 || k < 2 {
        return None;
    }
    let rows: Vec<Vec<f64>> = items.iter().map(|item| means.iter().map(|means| means[item]).collect()).collect();
    let components = Components::of(&rows);
    let half = student_t_quantile(0.5 + settings.1 / 2.0, components.degrees_of_freedom) * components.standard_error;
    let level = alpha_level(subject);
    let kind = |rating: f64| category(subject, rating);
    let mut pairs = vec![];
    for a in 0..k {
        for b in a + 1..k {
            if let Some(agreement) = agreement(&all[a], &all[b], kind, level, settings) {
                pairs.push(JuryAgreement { members: [members[a].0.clone(), members[b].0.clone()], agreement });
            }
        }
    }
    let value = components.value;
    Some(JuryResult {
        baseline: subject.baseline().map(str::to_owned),
        model: subject.model().to_owned(),
        members: members
            .iter()
            .zip(&components.judges)
            .map(|((name, _), value)| JuryMember { name: name.clone(), value: *value })
            .collect(),
        value,
        between_judges: components.between_judges,
        standard_error: components.standard_error,
        degrees_of_freedom: components.degrees_of_freedom,
        interval: Interval { low: (value - half).max(range[0]), high: (value + half).min(range[1]) },
        fixed_standard_error: components.fixed_standard_error,
        n,
        alpha: joint_agreement(&all.iter().collect::<Vec<_>>(), kind, level, settings),
        pairs,
    })
}

/// The variance of the mean of a table of items by judges, and what it is made of.
struct Components {
    value: f64,
    judges: Vec<f64>,
    between_judges: f64,
    standard_error: f64,
    degrees_of_freedom: f64,
    fixed_standard_error: f64,
}

impl Components {
    /// `rows[item][judge]`, at least two of each.
    fn of(rows: &[Vec<f64>]) -> Self {
        let (items, judges) = (rows.len(), rows[0].len());
        let (n, k) = (items as f64, judges as f64);
        let of_items: Vec<f64> = rows.iter().map(|row| mean(row)).collect();
        let of_judges: Vec<f64> =
            (0..judges).map(|j| mean(&rows.iter().map(|row| row[j]).collect::<Vec<_>>())).collect();
        let value = mean(&of_items);
        let rest = |i: usize, j: usize| (rows[i][j] - of_items[i] - of_judges[j] + value).powi(2);
        let rest: f64 = (0..items).flat_map(|i| (0..judges).map(move |j| (i, j))).map(|(i, j)| rest(i, j)).sum();
        let squares = [k * variance(&of_items), n * variance(&of_judges), rest / ((n - 1.0) * (k - 1.0))];
        let parts = squares.map(|square| square / (n * k));
        let freedom = [n - 1.0, k - 1.0, (n - 1.0) * (k - 1.0)];
        let whole = parts[0] + parts[1] - parts[2];
        // The judges differ by no more than the rest explains: their part is 0.
        let alike = parts[1] <= parts[2];
        let variance = if alike { parts[0] } else { whole };
        let spread: f64 = parts.iter().zip(freedom).map(|(part, freedom)| part * part / freedom).sum();
        Self {
            value,
            between_judges: ((squares[1] - squares[2]) / n).max(0.0).sqrt(),
            judges: of_judges,
            standard_error: variance.sqrt(),
            degrees_of_freedom: if alike || spread == 0.0 { n - 1.0 } else { (whole * whole / spread).max(1.0) },
            fixed_standard_error: parts[0].sqrt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_by_hand() {
        // Two judges that differ by 0.4 on every item: no rest.
        let rows: Vec<Vec<f64>> = [0.0, 0.2, 0.4, 0.6].iter().map(|x| vec![*x, x + 0.4]).collect();
        let found = Components::of(&rows);
        assert!((found.value - 0.5).abs() < 1e-12);
        // s² of the items' means is 1/15, of the judges' means 0.08.
        assert!((found.fixed_standard_error - (1.0f64 / 15.0 / 4.0).sqrt()).abs() < 1e-12);
        assert!((found.standard_error - (1.0f64 / 15.0 / 4.0 + 0.08 / 2.0).sqrt()).abs() < 1e-12);
        assert!((found.between_judges - 0.08f64.sqrt()).abs() < 1e-12);
        assert!(found.degrees_of_freedom > 1.0 && found.degrees_of_freedom < 3.0, "{}", found.degrees_of_freedom);
    }

    #[test]
    fn equal_judges_add_nothing() {
        let rows: Vec<Vec<f64>> = (0..10).map(|i| vec![f64::from(i % 3); 3]).collect();
        let found = Components::of(&rows);
        assert_eq!((found.between_judges, found.standard_error), (0.0, found.fixed_standard_error));
        assert_eq!(found.degrees_of_freedom, 9.0);
    }
}
