//! AlpacaEval's win rate.

use harness_metrics::stats::{mean, mean_standard_error};
use serde::{Deserialize, Serialize};

/// alpaca_eval's metrics of one model against the baseline (`get_winrate`); rates in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WinRate {
    /// 100 × mean preference for the model.
    pub win_rate: f64,
    /// 100 × SD/√n (n − 1 in the SD); NaN below two preferences.
    pub standard_error: f64,
    /// Preferences above ½.
    pub n_wins: usize,
    /// Preferences below ½.
    pub n_wins_base: usize,
    /// Preferences of exactly ½.
    pub n_draws: usize,
    /// Preferences counted.
    pub n_total: usize,
    /// The win rate when every preference is rounded to a win or a loss, and draws count half.
    pub discrete_win_rate: f64,
}

impl WinRate {
    /// From preferences as alpaca_eval stores them: 1 to 2, with 0 and 1.5 for draws; anything else (NaN, missing) is
    /// left out, as the tool does.
    pub fn of_annotations(preferences: impl IntoIterator<Item = f64>) -> Self {
        let unit = |preference: f64| if preference == 0.0 { 0.5 } else { preference - 1.0 };
        Self::of_preferences(preferences.into_iter().map(unit))
    }

    /// From preferences between 0 (the baseline is better) and 1 (the model is better); others are left out.
    pub fn of_preferences(preferences: impl IntoIterator<Item = f64>) -> Self {
        let kept: Vec<f64> = preferences.into_iter().filter(|x| (0.0..=1.0).contains(x)).collect();
        let count = |condition: fn(f64) -> bool| kept.iter().filter(|&&x| condition(x)).count();
        // Halves are draws, so nothing else is halfway between two roundings.
        let rounded: Vec<f64> = kept.iter().map(|&x| if x == 0.5 { 0.5 } else { x.round() }).collect();
        Self {
            win_rate: 100.0 * mean(&kept),
            standard_error: 100.0 * mean_standard_error(&kept),
            n_wins: count(|x| x > 0.5),
            n_wins_base: count(|x| x < 0.5),
            n_draws: count(|x| x == 0.5),
            n_total: kept.len(),
            discrete_win_rate: 100.0 * mean(&rounded),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_count_half_and_gaps_not_at_all() {
        let rate = WinRate::of_annotations([1.0, 2.0, 1.5, 0.0, f64::NAN, 1.9, 3.0]);
        assert_eq!((rate.n_wins, rate.n_wins_base, rate.n_draws, rate.n_total), (2, 1, 2, 5));
        assert!((rate.win_rate - 58.0).abs() < 1e-12 && (rate.discrete_win_rate - 60.0).abs() < 1e-12);
    }
}
