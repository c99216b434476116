//! FastChat's own tables, from its judgment files (`show_result.py`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::files::fastchat::{PairJudgment, SingleJudgment};

/// Mean ratings of one model: over the rows of each turn, and over all rows. Rows rated −1 are left out. Where ratings are
/// missing, `average` is not the mean of the turns; [`super::score_results`] gives means over questions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FastChatScores {
    /// By turn.
    pub turns: BTreeMap<usize, f64>,
    /// Over all rows.
    pub average: f64,
}

/// FastChat's table of single grading, by model.
pub fn fastchat_single(judgments: &[SingleJudgment]) -> BTreeMap<String, FastChatScores> {
    let mut sums: BTreeMap<&str, BTreeMap<usize, (f64, usize)>> = BTreeMap::new();
    for judgment in judgments.iter().filter(|judgment| judgment.score != -1.0) {
        let sum = sums.entry(&judgment.model).or_default().entry(judgment.turn).or_default();
        *sum = (sum.0 + judgment.score, sum.1 + 1);
    }
    let mean = |(sum, count): (f64, usize)| sum / count as f64;
    sums.into_iter()
        .map(|(model, turns)| {
            let all = turns.values().fold((0.0, 0), |all, turn| (all.0 + turn.0, all.1 + turn.1));
            let turns = turns.into_iter().map(|(turn, sum)| (turn, mean(sum))).collect();
            (model.to_owned(), FastChatScores { turns, average: mean(all) })
        })
        .collect()
}

/// The winners of both games of one pair and turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairRow<'a> {
    /// The first model.
    pub model_1: &'a str,
    /// The second model.
    pub model_2: &'a str,
    /// `model_1`, `model_2`, `tie` or `error`.
    pub g1_winner: &'a str,
    /// The same with the answers swapped.
    pub g2_winner: &'a str,
}

impl<'a> From<&'a PairJudgment> for PairRow<'a> {
    fn from(judgment: &'a PairJudgment) -> Self {
        Self {
            model_1: &judgment.model_1,
            model_2: &judgment.model_2,
            g1_winner: &judgment.g1_winner,
            g2_winner: &judgment.g2_winner,
        }
    }
}

/// FastChat's counts of one model; a tie, or games that disagree, count as a tie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WinLossTie {
    /// Won in both games.
    pub win: usize,
    /// Lost in both games.
    pub loss: usize,
    /// Anything else.
    pub tie: usize,
}

impl WinLossTie {
    fn total(self) -> f64 {
        (self.win + self.loss + self.tie) as f64
    }

    /// Wins over all.
    pub fn win_rate(self) -> f64 {
        self.win as f64 / self.total()
    }

    /// Losses over all.
    pub fn loss_rate(self) -> f64 {
        self.loss as f64 / self.total()
    }

    /// Wins and half of the ties over all.
    pub fn win_rate_adjusted(self) -> f64 {
        (self.win as f64 + 0.5 * self.tie as f64) / self.total()
    }
}

/// FastChat's table of pairwise comparison, by model: with a baseline only its pairs count and it has no row of its own
/// (`pairwise-baseline`), without one all do (`pairwise-all`). Rows with an error are left out.
pub fn fastchat_pairwise<'a>(
    rows: impl IntoIterator<Item = PairRow<'a>>,
    baseline: Option<&str>,
) -> BTreeMap<String, WinLossTie> {
    let mut counts: BTreeMap<String, WinLossTie> = BTreeMap::new();
    for row in rows {
        let errors = row.g1_winner == "error" || row.g2_winner == "error";
        if errors || baseline.is_some_and(|name| name != row.model_1 && name != row.model_2) {
            continue;
        }
        let winner = if row.g1_winner == row.g2_winner { row.g1_winner } else { "tie" };
        for (model, mine, other) in [(row.model_1, "model_1", "model_2"), (row.model_2, "model_2", "model_1")] {
            let count = counts.entry(model.to_owned()).or_default();
            if winner == mine {
                count.win += 1;
            } else if winner == other {
                count.loss += 1;
            } else {
                count.tie += 1;
            }
        }
    }
    if let Some(baseline) = baseline {
        counts.remove(baseline);
    }
    counts
}
