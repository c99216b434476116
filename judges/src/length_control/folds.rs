//! Choosing C by cross-validation.

use super::{
    liblinear,
    solver::{L1Logistic, LogisticRow, softplus},
};
use crate::{JudgesError, Result};

/// Number of folds.
const FOLDS: usize = 5;

/// Which fold each row is held out in.
///
/// scikit-learn's `GroupKFold` hands out groups of equal size in the order of an unstable sort, so alpaca_eval's folds
/// depend on the build of numpy; they can be given here to repeat its choice of C exactly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Folds {
    /// The last row in fold 0, the one before it in fold 1, and so on: what a stable sort would give.
    #[default]
    Stable,
    /// One fold number (0 to 4) a row.
    Given(Vec<u8>),
}

impl Folds {
    /// Folds from a text of digits, one a row.
    ///
    /// # Errors
    /// [`JudgesError::Statistics`] for anything but the digits 0 to 4.
    pub fn from_digits(text: &str) -> Result<Self> {
        let digit = |c: char| c.to_digit(FOLDS as u32).map(|d| d as u8);
        let folds: Option<Vec<u8>> = text.trim().chars().map(digit).collect();
        folds.map(Self::Given).ok_or_else(|| {
            let what = "folds: expected the digits 0 to 4, one per row".into();
            JudgesError::Statistics { what }
        })
    }

    pub(super) fn assign(&self, n: usize) -> Result<Vec<u8>> {
        match self {
            Self::Stable => Ok((0..n).map(|i| ((n - 1 - i) % FOLDS) as u8).collect()),
            Self::Given(folds) if folds.len() == n => Ok(folds.clone()),
            Self::Given(folds) => {
                let what = format!("folds are given for {} rows, but there are {n}", folds.len());
                Err(JudgesError::Statistics { what })
            }
        }
    }
}

/// What scikit-learn draws from `RandomState(123)`, alpaca_eval's, to seed liblinear at each value of C in turn.
const SEEDS: [u32; 10] = [
    843_828_734,
    914_636_141,
    1_228_959_102,
    1_840_268_610,
    974_319_580,
    819_844_194,
    220_395_238,
    941_243_409,
    942_612_051,
    2_109_339_754,
];

/// The C with the smallest held-out loss of liblinear's fits. The loss of a fold is Σ weight·logloss over the *number* of
/// its (doubled) rows; folds count alike; of equal values the first.
pub(super) fn choose_c(rows: &[LogisticRow], terms: [bool; 3], folds: &[u8], grid: &[f64]) -> f64 {
    let mut losses = vec![0.0; grid.len()];
    for fold in 0..FOLDS as u8 {
        let part = |held: bool| -> Vec<LogisticRow> {
            rows.iter().zip(folds).filter(|(_, f)| (**f == fold) == held).map(|(row, _)| *row).collect()
        };
        let (train, test) = (part(false), part(true));
        if test.is_empty() {
            continue;
        }
        let mut start = [0.0; 3];
        for ((loss, &c), &seed) in losses.iter_mut().zip(grid).zip(SEEDS.iter().cycle()) {
            let early = liblinear::fit(&train, terms, c, seed);
            // Where one side is preferred throughout, liblinear's exponentials can overflow.
            let is_finite = early.iter().all(|w| w.is_finite());
            start = if is_finite { early } else { L1Logistic { c, terms }.fit(&train, start) };
            let held_out: f64 = test
                .iter()
                .map(|row| {
                    let z: f64 = start.iter().zip(&row.x).map(|(w, x)| w * x).sum();
                    row.weight * (softplus(z) - row.y * z)
                })
                .sum();
            *loss += held_out / (2 * test.len()) as f64;
        }
    }
    let best = losses.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i);
    best.and_then(|i| grid.get(i)).copied().unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_are_even_and_checked() {
        let folds = Folds::Stable.assign(12).unwrap();
        assert_eq!(folds, [1, 0, 4, 3, 2, 1, 0, 4, 3, 2, 1, 0]);
        assert!(Folds::from_digits("0123").unwrap().assign(5).is_err());
        assert_eq!(Folds::from_digits(" 0124\n").unwrap().assign(4).unwrap(), [0, 1, 2, 4]);
        assert!(Folds::from_digits("0125").is_err());
    }
}
