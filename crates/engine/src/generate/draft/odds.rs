//! How often drafted tokens are right, by what is known before they are verified.

/// Where a drafted token comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// From another answer to the same prompt.
    Answer {
        /// Its log-probability there.
        logprob: f32,
        /// Whether a second answer has the same token; `None` where there is no second one.
        agreed: Option<bool>,
    },
    /// From the prompt or the text so far.
    Text,
}

/// What a drafted token is judged by: where it comes from, and how many tokens before it are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class(usize);

const RUNS: usize = 4;
const SURE: usize = 3;
const AGREED: usize = 3;
const CLASSES: usize = (SURE * AGREED + 1) * RUNS;

/// Trials that count of a class, as what is drafted changes.
const REMEMBERED: f64 = 256.0;
/// Trials that the expectation before the first one counts for.
const PRIOR: f64 = 4.0;

impl Class {
    pub(crate) fn of(kind: Kind, run: usize) -> Self {
        let run = match run {
            0 | 1 => 0,
            2 | 3 => 1,
            4..=7 => 2,
            _ => 3,
        };
        let kind = match kind {
            Kind::Answer { logprob, agreed } => {
                let sure = if logprob > -0.05 { 0 } else { 1 + usize::from(logprob < -0.5) };
                sure * AGREED + agreed.map_or(0, |agreed| 1 + usize::from(agreed))
            }
            Kind::Text => SURE * AGREED,
        };
        Self(kind * RUNS + run)
    }

    /// What is expected before anything is known.
    fn expected(self) -> f64 {
        let (kind, run) = (self.0 / RUNS, self.0 % RUNS);
        if kind == SURE * AGREED { [0.1, 0.25, 0.4, 0.6][run] } else { [0.9, 0.7, 0.5][kind / AGREED] }
    }
}

/// Trials and hits by class.
#[derive(Clone, Debug)]
pub(crate) struct Odds {
    counts: [(f64, f64); CLASSES],
}

impl Default for Odds {
    fn default() -> Self {
        Self { counts: [(0.0, 0.0); CLASSES] }
    }
}

impl Odds {
    /// The share of tokens of a class that are right.
    pub(crate) fn of(&self, class: Class) -> f64 {
        let (trials, hits) = self.counts[class.0];
        (hits + PRIOR * class.expected()) / (trials + PRIOR)
    }

    /// Whether a token of a class was right.
    pub(crate) fn note(&mut self, class: Class, right: bool) {
        let (trials, hits) = &mut self.counts[class.0];
        *trials += 1.0;
        *hits += f64::from(u8::from(right));
        if *trials > REMEMBERED {
            *trials /= 2.0;
            *hits /= 2.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odds_follow_what_was_right_and_classes_are_apart() {
        let mut odds = Odds::default();
        let sure = Class::of(Kind::Answer { logprob: -0.01, agreed: None }, 9);
        let unsure = Class::of(Kind::Answer { logprob: -2.0, agreed: None }, 9);
        assert!(odds.of(sure) > odds.of(unsure));
        for i in 0..1000 {
            odds.note(sure, i % 4 == 0);
        }
        assert!((odds.of(sure) - 0.25).abs() < 0.02, "{}", odds.of(sure));
        assert_eq!(odds.of(unsure), 0.5);
    }

    #[test]
    fn every_class_has_a_place_of_its_own() {
        let mut all = vec![];
        for run in [1, 2, 4, 8] {
            for logprob in [-0.01, -0.2, -1.0] {
                for agreed in [None, Some(false), Some(true)] {
                    all.push(Class::of(Kind::Answer { logprob, agreed }, run).0);
                }
            }
            all.push(Class::of(Kind::Text, run).0);
        }
        all.sort_unstable();
        assert_eq!(all, (0..CLASSES).collect::<Vec<_>>());
    }
}
