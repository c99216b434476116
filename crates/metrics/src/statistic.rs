//! How the summed statistics of documents become one number.

use serde::{Deserialize, Serialize};

use crate::bleu::{Bleu, BleuFormula, HfBleu, NltkBleu};
use crate::chrf::{Chrf, ChrfFormula};
use crate::classification::{Classification, matthews};
use crate::scale::Scale;
use crate::stats::Range;
use crate::sums::add;
use crate::ter::Ter;

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
    Matthews {
        /// Number of classes.
        classes: usize,
    },
}

impl Statistic {
    /// Number of statistics a document contributes.
    pub fn dim(&self) -> usize {
        match self {
            Self::Mean | Self::Perplexity | Self::BitsPerByte | Self::Ter => 2,
            Self::Bleu(bleu) => bleu.dim(),
            Self::HfBleu(bleu) => bleu.dim(),
            Self::NltkBleu(bleu) => bleu.dim(),
            Self::Chrf(chrf) => chrf.dim(),
            Self::Classification(classification) => classification.classes * (classification.classes + 1),
            Self::Matthews { classes } => classes * (classes + 1),
        }
    }

    /// The value of a set of documents from their summed statistics. No documents have the value NaN, except where the
    /// reference implementation says 0 (BLEU, chrF, TER, and the measures over classes).
    ///
    /// # Panics
    /// If `sums` is shorter than [`Statistic::dim`].
    pub fn value(&self, sums: &[f64]) -> f64 {
        match self {
            Self::Mean => sums[0] / sums[1],
            Self::Perplexity => (-sums[0] / sums[1]).exp(),
            Self::BitsPerByte => -sums[0] / sums[1] / std::f64::consts::LN_2,
            Self::Bleu(bleu) => bleu.score(sums).score,
            Self::HfBleu(bleu) => bleu.score(sums).bleu,
            Self::NltkBleu(bleu) => bleu.score(sums),
            Self::Chrf(chrf) => chrf.score(sums),
            Self::Ter => crate::ter::score(sums),
            Self::Classification(classification) => classification.value(sums),
            Self::Matthews { classes } => matthews(sums, *classes),
        }
    }

    /// The values that the formula can have; a mean's are those of what it is taken of, which is not known here.
    pub fn range(&self) -> Range {
        match self {
            Self::Mean => Range::UNBOUNDED,
            Self::Perplexity => Range::at_least(1.0),
            Self::BitsPerByte | Self::Ter => Range::at_least(0.0),
            Self::Bleu(_) | Self::Chrf(_) => Range::between(0.0, 100.0),
            Self::HfBleu(_) | Self::NltkBleu(_) | Self::Classification(_) => Range::between(0.0, 1.0),
            Self::Matthews { .. } => Range::between(-1.0, 1.0),
        }
    }

    /// What the value is in; `None` for a mean, which is in whatever it is taken of.
    pub fn scale(&self) -> Option<Scale> {
        match self {
            Self::Mean => None,
            Self::Perplexity | Self::BitsPerByte => Some(Scale::Raw),
            Self::Bleu(_) | Self::Chrf(_) | Self::Ter => Some(Scale::Points),
            Self::HfBleu(_) | Self::NltkBleu(_) | Self::Classification(_) | Self::Matthews { .. } => {
                Some(Scale::Fraction)
            }
        }
    }

    /// The sum of the statistics of several documents, added in their order.
    pub fn sum<S: AsRef<[f64]>>(&self, documents: impl IntoIterator<Item = S>) -> Vec<f64> {
        let mut sums = vec![0.0; self.dim()];
        documents.into_iter().for_each(|stats| add(&mut sums, stats.as_ref()));
        sums
    }
}

impl HfBleu {
    /// The function from summed statistics to the score.
    pub fn statistic(&self) -> Statistic {
        Statistic::HfBleu(*self)
    }
}

impl NltkBleu {
    /// The function from summed statistics to the score.
    pub fn statistic(&self) -> Statistic {
        Statistic::NltkBleu(*self)
    }
}

impl Classification {
    /// The function from summed statistics to the value.
    pub fn statistic(&self) -> Statistic {
        Statistic::Classification(*self)
    }
}

impl Bleu {
    /// The function from summed statistics to the score.
    pub fn statistic(&self) -> Statistic {
        Statistic::Bleu(self.formula)
    }
}

impl Chrf {
    /// The function from summed statistics to the score.
    pub fn statistic(&self) -> Statistic {
        Statistic::Chrf(self.formula)
    }
}

impl Ter {
    /// The function from summed statistics to the score.
    pub fn statistic(&self) -> Statistic {
        Statistic::Ter
    }
}

/// Statistics of one document under [`Statistic::Mean`]; a value that does not exist (`None`, NaN) takes no part in the
/// mean.
pub fn mean_stats(value: impl Into<Option<f64>>) -> Vec<f64> {
    match value.into() {
        Some(value) if !value.is_nan() => vec![value, 1.0],
        _ => vec![0.0, 0.0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_value_takes_no_part_in_the_mean() {
        let sums = Statistic::Mean.sum([mean_stats(1.0), mean_stats(None), mean_stats(f64::NAN), mean_stats(0.0)]);
        assert_eq!((Statistic::Mean.value(&sums), sums[1]), (0.5, 2.0));
        assert!(Statistic::Mean.value(&[0.0, 0.0]).is_nan());
    }

    #[test]
    fn every_kind_survives_serialisation() {
        let all = [
            Statistic::Mean,
            Statistic::Bleu(BleuFormula { smoothing: crate::Smoothing::Floor(0.1), ..BleuFormula::default() }),
            Statistic::HfBleu(HfBleu::default()),
            Statistic::NltkBleu(NltkBleu::default()),
            Statistic::Chrf(ChrfFormula::default()),
            Statistic::Ter,
            Statistic::Classification(Classification::macro_f1(3)),
            Statistic::Matthews { classes: 2 },
        ];
        for statistic in all {
            let text = serde_json::to_string(&statistic).unwrap();
            assert_eq!(serde_json::from_str::<Statistic>(&text).unwrap(), statistic, "{text}");
            assert!(statistic.dim() >= 2);
        }
    }
}
