//! What values are in.

use serde::{Deserialize, Serialize};

use crate::stats::Range;

/// What a row's values are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// From 0 to 1, shown as a percentage (accuracy, ROUGE). The margin applies as it is.
    Fraction,
    /// From 0 to 100 by definition (BLEU, chrF). The margin applies times 100.
    Points,
    /// Any other number (perplexity, bits per byte). The margin applies relative to the base's value.
    Raw,
}

impl Scale {
    /// The values of a mean in it.
    pub fn range(self) -> Range {
        match self {
            Self::Fraction => Range::between(0.0, 1.0),
            Self::Points => Range::between(0.0, 100.0),
            Self::Raw => Range::UNBOUNDED,
        }
    }

    /// The smallest difference that matters, in the row's own unit. `None` for a raw value without a base value.
    pub fn margin(self, margin: f64, base: Option<f64>) -> Option<f64> {
        match self {
            Self::Fraction => Some(margin),
            Self::Points => Some(margin * 100.0),
            Self::Raw => base.map(|base| margin * base.abs()).filter(|margin| *margin > 0.0),
        }
    }
}
