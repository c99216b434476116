//! A judge against gold labels: people's verdicts, or a stronger judge's, on a part of the items.

use std::collections::BTreeMap;

use harness_core::Seed;
use harness_metrics::{
    comparison::{JudgeFinding, Scale},
    stats::{
        Interval,
        distribution::{normal_critical, student_t_quantile},
        mean, mean_standard_error,
    },
};
use serde::{Deserialize, Serialize};

use super::{
    AgreementResult, PredictionPowered, Ratings, agreement, alpha_level, category, mean_interval, prediction_powered,
    ratings::{by_item, ratings, subjects},
    self_preference,
};
use crate::{Judgment, Result, Subject};

/// What gold labels say about the verdicts on one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GoldResult {
    /// The model it is compared with, in pairs.
    pub baseline: Option<String>,
    /// The model.
    pub model: String,
    /// The win rate, from 0 to 1, or the score, corrected by the labels. Holds if the labelled items were drawn at random.
    pub corrected: PredictionPowered,
    /// Mean of judge less gold over the labelled items.
    pub offset: f64,
    /// Its interval (Student's t); `None` where all differences are equal.
    pub offset_interval: Option<Interval>,
    /// How far judge and labels agree on win, tie and loss, or on the rounded score.
    pub agreement: Option<AgreementResult>,
}

impl GoldResult {
    /// The finding: how far the judge is off, and what follows. `with` says whose labels they are.
    pub fn finding(&self, with: &str) -> JudgeFinding {
        let corrected = &self.corrected;
        JudgeFinding::GoldOffset {
            model: self.model.clone(),
            with: with.to_owned(),
            offset: self.offset,
            offset_interval: self.offset_interval,
            judged: corrected.judge_only,
            corrected: corrected.value,
            interval: corrected.interval,
            labelled: corrected.labelled,
            n: corrected.labelled + corrected.unlabelled,
            scale: if self.baseline.is_some() { Scale::Fraction } else { Scale::Raw },
        }
    }

    /// The standard error whose normal interval is as wide as the interval of Student's t.
    pub fn normal_standard_error(&self, confidence: f64) -> f64 {
        let PredictionPowered { value, interval, .. } = &self.corrected;
        (value - interval.low).max(interval.high - value) / normal_critical(confidence)
    }
}

/// Ratings by item that two raters gave, and those that only the first gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rated {
    /// First and second, on the items that the second rated in every turn that the first did.
    pub both: Vec<(f64, f64)>,
    /// The first, on the others.
    pub alone: Vec<f64>,
}

impl Rated {
    fn of(first: &Ratings, second: &Ratings) -> Self {
        let partial: Vec<&str> =
            first.keys().filter(|at| !second.contains_key(*at)).map(|(item, _)| item.as_str()).collect();
        let same: Ratings =
            second.iter().filter(|(at, _)| first.contains_key(*at)).map(|(at, x)| (at.clone(), *x)).collect();
        let (first, second): (BTreeMap<&str, f64>, BTreeMap<&str, f64>) = (by_item(first), by_item(&same));
        let mut found = Self::default();
        for (item, value) in first {
            match second.get(item).filter(|_| !partial.contains(&item)) {
                Some(other) => found.both.push((value, *other)),
                None => found.alone.push(value),
            }
        }
        found
    }
}

/// The verdicts on every model beside those of another judge, or of people.
pub fn rated(judgments: &[Judgment], other: &[Judgment]) -> Vec<(Subject, Rated)> {
    let one = |subject: Subject| {
        let rated = Rated::of(&ratings(judgments, &subject), &ratings(other, &subject));
        (subject, rated)
    };
    subjects(judgments).into_iter().map(one).collect()
}

/// Compares a judge's verdicts with gold verdicts (judgments of the same items and models, e.g. those of people) model by
/// model; models with fewer than two labelled items are left out. `(resamples, confidence, seed)` are for the intervals of
/// the agreement.
///
/// # Errors
/// Those of [`prediction_powered`].
pub fn against_gold(
    judgments: &[Judgment],
    gold: &[Judgment],
    (resamples, confidence, seed): (usize, f64, Seed),
) -> Result<Vec<GoldResult>> {
    let mut results = vec![];
    for (subject, rated) in rated(judgments, gold) {
        if rated.both.len() < 2 {
            continue;
        }
        let differences: Vec<f64> = rated.both.iter().map(|(judge, gold)| judge - gold).collect();
        let offset = mean(&differences);
        let quantile = student_t_quantile(0.5 + confidence / 2.0, differences.len() as f64 - 1.0);
        let reach = quantile * mean_standard_error(&differences);
        let kind = |rating: f64| category(&subject, rating);
        let settings = (resamples, confidence, seed);
        let mut corrected = prediction_powered(&rated.both, &rated.alone, confidence)?;
        // Labels without spread are no proof: all wins or all losses have the interval of such a proportion.
        let labels: Vec<f64> = rated.both.iter().map(|(_, gold)| *gold).collect();
        if let (true, Some(interval), Subject::Pair { .. }) =
            (corrected.standard_error == 0.0, mean_interval(&labels, [0.0, 1.0], confidence), &subject)
        {
            corrected.interval = interval;
        }
        results.push(GoldResult {
            corrected,
            offset,
            offset_interval: (reach > 0.0).then_some(Interval { low: offset - reach, high: offset + reach }),
            agreement: agreement(
                &ratings(judgments, &subject),
                &ratings(gold, &subject),
                kind,
                alpha_level(&subject),
                settings,
            ),
            baseline: subject.baseline().map(str::to_owned),
            model: subject.model().to_owned(),
        });
    }
    Ok(results)
}

/// The finding that a judge and a model share a base, with the judge's excess over the verdicts of others (gold labels, or
/// another judge's) on that model's items, less the same on the other models; in shares of the `range` of values. The
/// baseline of pairs can be the model too: the verdicts against it are then those for it. `against` names the others.
pub fn shared_base(
    model: &str,
    base: &str,
    rated: &[(Subject, Rated)],
    range: [f64; 2],
    (against, confidence): (&str, f64),
) -> JudgeFinding {
    let width = range[1] - range[0];
    let share = |x: f64| (x - range[0]) / width;
    let (mut own, mut others) = (vec![], vec![]);
    for (subject, rated) in rated {
        let pairs = rated.both.iter().map(|(judge, other)| (share(*judge), share(*other)));
        if subject.model() == model {
            own.extend(pairs);
        } else if subject.baseline() == Some(model) {
            own.extend(pairs.map(|(judge, other)| (1.0 - judge, 1.0 - other)));
        } else {
            others.extend(pairs);
        }
    }
    self_preference(model, base, (&own, &others), against, confidence)
}
