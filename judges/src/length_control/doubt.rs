//! When a length-controlled win rate does not follow from the data.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Design, L1Logistic, LogisticRow};

/// So large that the penalty does not matter.
const C: f64 = 1e6;
/// Fewest instructions: five folds choose the penalty, and three coefficients are fitted.
const FEWEST: usize = 20;
/// Points by which the penalty may move the rate; as far as alpaca_eval lets length control go before it warns.
const MOVED: f64 = 10.0;

/// Why a length-controlled win rate does not follow from the data. The regression has a penalty, which is chosen by
/// cross-validation; with little data, or verdicts near a tie, it is the penalty that decides.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Doubt {
    /// There are too few instructions.
    TooFew {
        /// How many there are.
        n: usize,
    },
    /// One side was preferred on every instruction for certain: the coefficients have no finite optimum.
    OneSided {
        /// Whether it was the candidate.
        candidate: bool,
    },
    /// The penalty has taken the candidate's own term out: the rate is 50 % whatever the verdicts say.
    TermGone {
        /// The rate without a penalty, in percent.
        unpenalised: f64,
    },
    /// Without the penalty the rate is quite another.
    Penalty {
        /// The rate without a penalty, in percent.
        unpenalised: f64,
    },
}

impl Doubt {
    /// What is wrong with the fit of these rows, if anything.
    pub(super) fn of(design: &Design<'_>, data: &[LogisticRow], fit: &[f64; 3], win_rate: f64) -> Option<Self> {
        let n = design.rows.len();
        if n < FEWEST {
            return Some(Self::TooFew { n });
        }
        for (candidate, value) in [(false, 0.0), (true, 1.0)] {
            if design.rows.iter().all(|row| row.preference == value) {
                return Some(Self::OneSided { candidate });
            }
        }
        let free = L1Logistic { c: C, terms: design.terms() }.fit(data, *fit);
        let unpenalised = design.predict(&free, None).0;
        if fit[1] == 0.0 && fit[2] == 0.0 {
            let even = design.rows.iter().all(|row| row.preference == 0.5);
            return (!even).then_some(Self::TermGone { unpenalised });
        }
        ((unpenalised - win_rate).abs() > MOVED).then_some(Self::Penalty { unpenalised })
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFew { n } => write!(f, "{n} instructions are too few for its regression (at least {FEWEST})"),
            Self::OneSided { candidate } => {
                let side = if *candidate { "candidate" } else { "baseline" };
                write!(
                    f,
                    "the {side} was preferred on every instruction with certainty, so its regression has no optimum"
                )
            }
            Self::TermGone { unpenalised } => write!(
                f,
                "the penalty of its regression leaves nothing of the candidate, so the rate would be 50 % whatever the \
                 verdicts say ({unpenalised:.2} % without a penalty)"
            ),
            Self::Penalty { unpenalised } => {
                write!(f, "the penalty of its regression decides: without it the rate is {unpenalised:.2} %")
            }
        }
    }
}
