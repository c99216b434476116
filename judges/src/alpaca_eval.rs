//! AlpacaEval's line of the leaderboard: everything that is computed from a model's annotations.

use harness_core::Seed;
use harness_metrics::stats::{Interval, mean};
use serde::{Deserialize, Serialize};

use crate::{
    Result, WinRate,
    files::alpaca_eval::Annotation,
    length_control::{Calibration, LengthControl, LengthControlOptions, LengthControlled, LengthRow},
    results::mean_interval,
};

/// One model against the baseline, in alpaca_eval's terms; rates in percent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlpacaEvalResult {
    /// The baseline (output_1).
    pub baseline: String,
    /// The model (output_2).
    pub model: String,
    /// Win rate, standard error, wins, draws, discrete win rate.
    pub rates: WinRate,
    /// Interval of the win rate over instructions.
    pub interval: Option<Interval>,
    /// Mean length of the model's outputs in code points, rounded down.
    pub avg_length: usize,
    /// Length-controlled win rates, each with its interval.
    pub length_controlled: Vec<LengthControlled>,
    /// Whether length control moved the rate so far that alpaca_eval warns of it.
    pub is_extreme_change: bool,
    /// Annotations without a preference.
    pub unparsed: usize,
}

impl AlpacaEvalResult {
    /// From the annotations of one model. Without calibration data only [`LengthControl::Minimal`] is computed, with
    /// difficulties [`LengthControl::NoReg`] too, with gamed baselines all three variants; none where fewer than two instructions have a preference or length cannot be controlled for.
    /// `None` without annotations.
    ///
    /// # Errors
    /// If the calibration data do not cover the annotations.
    pub fn of_annotations(
        annotations: &[Annotation],
        calibration: Option<&Calibration>,
        (resamples, confidence, seed): (usize, f64, Seed),
    ) -> Result<Option<Self>> {
        let Some(first) = annotations.first() else { return Ok(None) };
        let rates = WinRate::of_annotations(annotations.iter().map(|a| a.preference.unwrap_or(f64::NAN)));
        let rows = length_rows(annotations);
        let preferences: Vec<f64> = rows.iter().map(|row| row.preference).collect();
        let lengths: Vec<f64> = annotations.iter().map(|a| a.output_2.chars().count() as f64).collect();
        let variants: &[LengthControl] = match calibration {
            Some(known) if known.gamed.is_empty() => &[LengthControl::NoReg, LengthControl::Minimal],
            Some(_) => &[LengthControl::V1, LengthControl::NoReg, LengthControl::Minimal],
            None => &[LengthControl::Minimal],
        };
        let differs = |row: &LengthRow| row.candidate_length - row.baseline_length;
        let controllable =
            rows.len() >= 2 && (rows.iter().any(|row| differs(row) != differs(&rows[0])) || differs(&rows[0]) == 0.0);
        let mut length_controlled = vec![];
        for &variant in variants.iter().filter(|_| controllable) {
            let fit = LengthControlled::fit(&rows, variant, calibration, &LengthControlOptions::default())?;
            length_controlled.push(fit.with_interval(&rows, calibration, resamples, confidence, seed)?);
        }
        let percent = |x: Interval| Interval { low: 100.0 * x.low, high: 100.0 * x.high };
        Ok(Some(Self {
            baseline: first.generator_1.clone(),
            model: first.generator_2.clone(),
            interval: mean_interval(&preferences, [0.0, 1.0], confidence).map(percent),
            avg_length: mean(&lengths) as usize,
            is_extreme_change: length_controlled
                .first()
                .is_some_and(|lc| lc.doubt.is_none() && is_extreme_change(rates.win_rate, lc.win_rate)),
            rates,
            length_controlled,
            unparsed: annotations.iter().filter(|a| a.preference.is_none()).count(),
        }))
    }

    /// The length-controlled win rate to quote: the leaderboard's variant where it could be computed.
    pub fn length_controlled_win_rate(&self) -> Option<&LengthControlled> {
        self.length_controlled.first()
    }
}

/// Preferences and lengths of annotations; those without a preference are left out, and keep their position.
pub fn length_rows(annotations: &[Annotation]) -> Vec<LengthRow> {
    let row = |(index, annotation): (usize, &Annotation)| {
        let preference = annotation.preference.filter(|p| *p == 0.0 || (1.0..=2.0).contains(p))?;
        Some(LengthRow {
            preference: if preference == 0.0 { 0.5 } else { preference - 1.0 },
            baseline_length: annotation.output_1.chars().count() as f64,
            candidate_length: annotation.output_2.chars().count() as f64,
            index,
        })
    };
    annotations.iter().enumerate().filter_map(row).collect()
}

/// Whether alpaca_eval warns: the length-controlled rate lies below the raw one by more than 10 points and a quarter of
/// it, or above by more than 10 points and a quarter of the distance to 100.
pub fn is_extreme_change(win_rate: f64, length_controlled: f64) -> bool {
    length_controlled < (win_rate - win_rate / 4.0).min(win_rate - 10.0)
        || length_controlled > (win_rate + (100.0 - win_rate) / 4.0).max(win_rate + 10.0)
}
