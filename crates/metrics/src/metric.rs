//! The metrics, one file each, and the list of them: a metric touches its file and this one.
//!
//! [`METRICS`] is what tasks, reports, imports and `harness verify` ask. [`Statistic`] is the list of the functions of
//! sums that they share: it is stored in runs and reports, so it is closed, and asks the function's file for all else.

mod acc;
mod acc_all;
mod acc_bytes;
mod acc_mutual_info;
mod acc_norm;
pub(crate) mod answer;
mod bits_per_byte;
pub(crate) mod bleu;
pub(crate) mod brier_score;
pub(crate) mod byte_perplexity;
pub(crate) mod choices;
pub(crate) mod chrf;
pub(crate) mod classification;
pub(crate) mod definition;
pub(crate) mod exact_match;
mod f1;
pub(crate) mod formula;
pub(crate) mod mcc;
mod mean;
pub(crate) mod perplexity;
mod precision;
mod recall;
pub(crate) mod rouge;
pub(crate) mod ter;
pub(crate) mod token_f1;
pub(crate) mod word_perplexity;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use answer::Logged;
use bleu::{BleuFormula, HfBleu, NltkBleu};
use chrf::ChrfFormula;
use classification::Classification;
use definition::Metric;
use formula::Formula;
use mcc::Matthews;

use crate::{scale::Scale, stats::Range, sums::add};

/// Every metric, in the order in which errors list them.
pub const METRICS: &[&Metric] = &[
    &acc::METRIC,
    &acc_all::METRIC,
    &acc_norm::METRIC,
    &acc_bytes::METRIC,
    &acc_mutual_info::METRIC,
    &exact_match::METRIC,
    &brier_score::METRIC,
    &f1::METRIC,
    &precision::METRIC,
    &recall::METRIC,
    &mcc::METRIC,
    &word_perplexity::METRIC,
    &byte_perplexity::METRIC,
    &bits_per_byte::METRIC,
    &bleu::METRIC,
    &chrf::METRIC,
    &ter::METRIC,
    &rouge::ROUGE1,
    &rouge::ROUGE2,
    &rouge::ROUGE3,
    &rouge::ROUGE_L,
    &rouge::ROUGE_LSUM,
    &token_f1::METRIC,
    &perplexity::METRIC,
];

impl Metric {
    /// The metric of a name.
    pub fn of(name: &str) -> Option<&'static Self> {
        METRICS.iter().copied().find(|metric| metric.name == name)
    }

    /// The first metric that lm-eval aggregates by this name.
    pub fn aggregated_by(aggregation: &str) -> Option<&'static Self> {
        METRICS.iter().copied().find(|metric| metric.aggregation == aggregation)
    }

    /// Whether larger values of a metric of any name are better: those that are not known count so.
    pub fn is_higher_better(name: &str) -> bool {
        Self::of(name).is_none_or(|metric| metric.higher_is_better)
    }

    /// What the mean of documents' scores that others computed is in.
    pub fn scale_of_means(name: &str) -> Scale {
        Self::of(name).map_or(Scale::Fraction, |metric| metric.scale_of_mean)
    }
}

/// The function from summed per-document statistics to the reported value.
///
/// A document contributes a vector of [`Statistic::dim`] numbers (`SampleScore::stats`); the value of any set of
/// documents is [`Statistic::value`] of the sum of their vectors. Bootstrap, permutation and cluster resampling all
/// work on those sums alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Statistic {
    /// Arithmetic mean; stats `[value, 1]`.
    Mean,
    /// `exp(−Σ log p / Σ count)`; stats `[Σ log p, count]` with tokens, words or bytes as the count.
    Perplexity,
    /// `−Σ log p / Σ bytes / ln 2`; stats `[Σ log p, bytes]`.
    BitsPerByte,
    /// sacreBLEU's corpus BLEU, 0 to 100; stats of [`crate::Bleu::stats`].
    Bleu(BleuFormula),
    /// Hugging Face evaluate's BLEU, 0 to 1; stats of [`HfBleu::stats`].
    HfBleu(HfBleu),
    /// nltk's corpus BLEU, 0 to 1; stats of [`NltkBleu::stats`].
    NltkBleu(NltkBleu),
    /// sacreBLEU's corpus chrF, 0 to 100; stats of [`crate::Chrf::stats`].
    Chrf(ChrfFormula),
    /// Translation edit rate in percent; stats `[edits, mean reference length]` of [`crate::Ter::stats`].
    Ter,
    /// Precision, recall or F1 over classes; stats of [`crate::confusion_stats`].
    Classification(Classification),
    /// Matthews correlation; stats of [`crate::confusion_stats`].
    Matthews(Matthews),
}

impl Statistic {
    /// The function of each.
    fn formula(&self) -> &dyn Formula {
        match self {
            Self::Mean => &mean::Mean,
            Self::Perplexity => &perplexity::Perplexity,
            Self::BitsPerByte => &bits_per_byte::BitsPerByte,
            Self::Bleu(formula) => formula,
            Self::HfBleu(formula) => formula,
            Self::NltkBleu(formula) => formula,
            Self::Chrf(formula) => formula,
            Self::Ter => &ter::Rate,
            Self::Classification(formula) => formula,
            Self::Matthews(formula) => formula,
        }
    }

    /// Whether it is the mean of documents' scores, so that what holds for scores holds.
    pub fn is_mean(&self) -> bool {
        *self == Self::Mean
    }

    /// Whether documents may be right or wrong, so that a row whose scores are all 0 or 1 has closed forms (Wilson,
    /// McNemar). Points that are all 0 or 1 are low scores of 100.
    pub fn may_be_right_or_wrong(&self, scale: Scale) -> bool {
        self.is_mean() && scale != Scale::Points
    }

    /// Whether documents' scores lie between 0 and 1, so that their differences have confidence sequences.
    pub fn is_mean_of_shares(&self, scale: Scale) -> bool {
        self.is_mean() && scale == Scale::Fraction
    }

    /// Number of statistics a document contributes.
    pub fn dim(&self) -> usize {
        self.formula().dim()
    }

    /// The value of a set of documents from their summed statistics. No documents have the value NaN, except where the
    /// reference implementation says 0 (BLEU, chrF, TER, and the measures over classes).
    ///
    /// # Panics
    /// If `sums` is shorter than [`Statistic::dim`].
    pub fn value(&self, sums: &[f64]) -> f64 {
        self.formula().value(sums)
    }

    /// The values that it can have; those of a mean follow from what it is in.
    pub fn range(&self, scale: Scale) -> Range {
        self.formula().range(scale)
    }

    /// What the value is in; `None` for a mean, which is in whatever it is taken of.
    pub fn scale(&self) -> Option<Scale> {
        self.formula().scale()
    }

    /// Whether two values differ by a factor and not by a number: how the level of both varies is then no noise.
    pub fn differs_by_factor(&self) -> bool {
        self.formula().differs_by_factor()
    }

    /// What lm-eval logs of a document.
    pub fn logged(&self, document: &Logged<'_>) -> Value {
        self.formula().logged(document)
    }

    /// The statistics of a document from what lm-eval logged of it; `None` where it says nothing.
    pub fn read(&self, logged: &Value) -> Option<Vec<f64>> {
        self.formula().read(logged)
    }

    /// The sum of the statistics of several documents, added in their order.
    pub fn sum<S: AsRef<[f64]>>(&self, documents: impl IntoIterator<Item = S>) -> Vec<f64> {
        let mut sums = vec![0.0; self.dim()];
        documents.into_iter().for_each(|stats| add(&mut sums, stats.as_ref()));
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs and reports hold these texts.
    #[test]
    fn every_kind_survives_serialisation() {
        let smoothing = bleu::Smoothing::Floor(0.1);
        let all = [
            (Statistic::Mean, r#"{"kind":"mean"}"#),
            (Statistic::Perplexity, r#"{"kind":"perplexity"}"#),
            (Statistic::BitsPerByte, r#"{"kind":"bits_per_byte"}"#),
            (
                Statistic::Bleu(BleuFormula { smoothing, ..BleuFormula::default() }),
                r#"{"kind":"bleu","smoothing":{"floor":0.1},"max_order":4,"effective_order":false}"#,
            ),
            (Statistic::HfBleu(HfBleu::default()), r#"{"kind":"hf_bleu","max_order":4,"smooth":false}"#),
            (Statistic::NltkBleu(NltkBleu::default()), r#"{"kind":"nltk_bleu","max_order":4,"smoothing":"method0"}"#),
            (
                Statistic::Chrf(ChrfFormula::default()),
                r#"{"kind":"chrf","char_order":6,"word_order":0,"beta":2.0,"eps_smoothing":false}"#,
            ),
            (Statistic::Ter, r#"{"kind":"ter"}"#),
            (
                Statistic::Classification(Classification::macro_f1(3)),
                r#"{"kind":"classification","classes":3,"measure":"f1","average":"macro"}"#,
            ),
            (Statistic::Matthews(Matthews { classes: 2 }), r#"{"kind":"matthews","classes":2}"#),
        ];
        for (statistic, text) in all {
            assert_eq!(serde_json::to_string(&statistic).unwrap(), text);
            assert_eq!(serde_json::from_str::<Statistic>(text).unwrap(), statistic, "{text}");
            assert!(statistic.dim() >= 2);
        }
    }
}
