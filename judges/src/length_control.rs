//! AlpacaEval 2's length-controlled win rate (Dubois et al. 2024, arXiv:2404.04475), fitted to the converged optimum.
//!
//! A logistic regression explains the preference for the candidate on each instruction by the difference in length
//! (tanh of the standardised difference), the difficulty of the instruction, and the candidate; the win rate is then
//! what it predicts for equal lengths.

mod calibration;
mod doubt;
mod folds;
mod liblinear;
mod resample;
mod solver;

use serde::{Deserialize, Serialize};

pub(crate) use self::solver::sigmoid;
pub use self::{
    calibration::{Calibration, GamedRow},
    doubt::Doubt,
    folds::Folds,
    solver::{L1Logistic, LogisticRow},
};
use crate::{JudgesError, Result};
use harness_metrics::stats::{Interval, standard_deviation};

/// Weight of all rows of gamed baselines together, relative to one row of the candidate.
const GAMED_WEIGHT: f64 = 0.2;
/// How many candidates for C, from 1e-4 to 1e4 in equal steps of the logarithm.
const GRID: usize = 10;

/// Which terms the regression has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LengthControl {
    /// Length, difficulty and candidate, with rows of gamed baselines as a regulariser: the leaderboard's.
    #[serde(rename = "length_controlled_v1")]
    #[default]
    V1,
    /// Without the gamed baselines.
    #[serde(rename = "length_controlled_noreg")]
    NoReg,
    /// Length and candidate alone: needs no calibration data.
    #[serde(rename = "length_controlled_minimal")]
    Minimal,
}

impl LengthControl {
    /// alpaca_eval's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "length_controlled_v1",
            Self::NoReg => "length_controlled_noreg",
            Self::Minimal => "length_controlled_minimal",
        }
    }
}

/// The preference on one instruction and the lengths of both outputs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LengthRow {
    /// Preference for the candidate, from 0 to 1.
    pub preference: f64,
    /// Length of the baseline's output in code points.
    pub baseline_length: f64,
    /// Length of the candidate's output in code points.
    pub candidate_length: f64,
    /// Position of the instruction, by which its difficulty is looked up.
    pub index: usize,
}

/// How the regression is fitted.
#[derive(Clone, Debug, Default)]
pub struct LengthControlOptions {
    /// Inverse strength of the penalty; `None` chooses it by cross-validation among ten values.
    pub c: Option<f64>,
    /// Folds of the cross-validation, over all rows (gamed baselines first).
    pub folds: Folds,
}

/// A length-controlled win rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LengthControlled {
    /// Terms of the regression.
    pub variant: LengthControl,
    /// The win rate at equal lengths, in percent.
    pub win_rate: f64,
    /// alpaca_eval's standard error, in percent: the spread of the predictions over instructions alone. It leaves out
    /// the error of the fit; see [`LengthControlled::interval`].
    pub lc_standard_error: f64,
    /// Coefficients of length, difficulty and candidate; a term the variant lacks is 0.
    pub coefficients: [f64; 3],
    /// The C that was used; `None` for the baseline compared with itself, whose rate is ½ by definition.
    pub c: Option<f64>,
    /// Interval of the win rate from a bootstrap over instructions through the refit, in percent.
    pub interval: Option<Interval>,
    /// Interval of the length coefficient from the same bootstrap.
    pub length_interval: Option<Interval>,
    /// Why the rate does not follow from the data; `None` where it does.
    #[serde(default)]
    pub doubt: Option<Doubt>,
    /// Instructions.
    pub n: usize,
}

/// The data of one regression, ready to be fitted with any weights of the instructions.
struct Design<'a> {
    variant: LengthControl,
    rows: &'a [LengthRow],
    calibration: Option<&'a Calibration>,
    difficulty: Vec<f64>,
}

impl<'a> Design<'a> {
    fn new(rows: &'a [LengthRow], variant: LengthControl, calibration: Option<&'a Calibration>) -> Result<Self> {
        let bad = |what: String| Err(JudgesError::Statistics { what });
        if rows.len() < 2 {
            return bad(format!("length control needs at least 2 judged instructions, found {}", rows.len()));
        }
        if let Some(row) = rows.iter().find(|row| !(0.0..=1.0).contains(&row.preference)) {
            return bad(format!("preference {} of row {}: expected 0 to 1", row.preference, row.index));
        }
        let calibration = calibration.filter(|_| variant != LengthControl::Minimal);
        let difficulty = match (variant, calibration) {
            (LengthControl::Minimal, _) => vec![0.0; rows.len()],
            (_, None) => {
                return bad(format!(
                    "{} needs alpaca_eval's instruction_difficulty.csv{}; use {} without them",
                    variant.name(),
                    if variant == LengthControl::V1 { " and df_gamed.csv" } else { "" },
                    LengthControl::Minimal.name()
                ));
            }
            (_, Some(calibration)) => {
                rows.iter().map(|row| calibration.difficulty_of(row.index)).collect::<Result<_>>()?
            }
        };
        Ok(Self { variant, rows, calibration, difficulty })
    }

    /// The regression's rows when instruction `i` counts `counts[i]` times: gamed baselines first.
    fn fill(&self, counts: Option<&[f64]>, into: &mut Vec<LogisticRow>) -> Result<()> {
        into.clear();
        let count = |position: usize| counts.map_or(1.0, |counts| counts[position]);
        if self.variant == LengthControl::V1
            && let Some(calibration) = self.calibration
        {
            let weight = GAMED_WEIGHT / calibration.gamed_models().max(1) as f64;
            // An instruction's gamed rows come and go with it.
            let mut of_index = std::collections::BTreeMap::new();
            if counts.is_some() {
                of_index.extend(self.rows.iter().enumerate().map(|(position, row)| (row.index, count(position))));
            }
            for row in &calibration.gamed {
                let times = if counts.is_some() { of_index.get(&row.index).copied().unwrap_or(1.0) } else { 1.0 };
                let x = [row.std_delta_len.tanh(), row.instruction_difficulty, 0.0];
                into.push(LogisticRow { x, y: row.preference, weight: weight * times });
            }
        }
        let scale = self.scale(counts)?;
        for (position, row) in self.rows.iter().enumerate() {
            let delta = (row.baseline_length - row.candidate_length) / scale;
            let x = [delta.tanh(), self.difficulty[position], 1.0];
            into.push(LogisticRow { x, y: row.preference, weight: count(position) });
        }
        Ok(())
    }

    /// Standard deviation of the differences in length (n − 1 in the denominator).
    fn scale(&self, counts: Option<&[f64]>) -> Result<f64> {
        let deltas: Vec<f64> = self.rows.iter().map(|row| row.baseline_length - row.candidate_length).collect();
        let scale = match counts {
            None => standard_deviation(&deltas),
            Some(counts) => {
                let n: f64 = counts.iter().sum();
                let mean = deltas.iter().zip(counts).map(|(d, c)| d * c).sum::<f64>() / n;
                let squares: f64 = deltas.iter().zip(counts).map(|(d, c)| c * (d - mean).powi(2)).sum();
                (squares / (n - 1.0)).sqrt()
            }
        };
        // Outputs of equal length throughout: the length term is 0 whatever the scale.
        if scale > 0.0 || deltas.iter().all(|delta| *delta == 0.0) {
            return Ok(if scale > 0.0 { scale } else { 1.0 });
        }
        let what = "all outputs differ in length by the same amount: there is nothing to control for".into();
        Err(JudgesError::Statistics { what })
    }

    /// Which of the three terms are fitted.
    fn terms(&self) -> [bool; 3] {
        [true, self.variant != LengthControl::Minimal, true]
    }

    /// Win rate at equal lengths in percent, and its spread over instructions.
    fn predict(&self, coefficients: &[f64; 3], counts: Option<&[f64]>) -> (f64, f64) {
        let predicted: Vec<f64> =
            self.difficulty.iter().map(|d| solver::sigmoid(coefficients[1] * d + coefficients[2])).collect();
        let n = predicted.len() as f64;
        let mean = match counts {
            None => predicted.iter().sum::<f64>() / n,
            Some(counts) => {
                let total: f64 = counts.iter().sum();
                predicted.iter().zip(counts).map(|(p, c)| p * c).sum::<f64>() / total
            }
        };
        (100.0 * mean, 100.0 * standard_deviation(&predicted) / n.sqrt())
    }
}

impl LengthControlled {
    /// Fits the regression. The interval is left empty; [`LengthControlled::with_interval`] fills it.
    ///
    /// # Errors
    /// [`JudgesError::Statistics`] for fewer than two rows, a preference outside [0, 1], an instruction without a
    /// difficulty, missing calibration data, or outputs that all differ in length by the same amount.
    pub fn fit(
        rows: &[LengthRow],
        variant: LengthControl,
        calibration: Option<&Calibration>,
        options: &LengthControlOptions,
    ) -> Result<Self> {
        let design = Design::new(rows, variant, calibration)?;
        if rows.iter().all(|row| row.preference == 0.5 && row.baseline_length == row.candidate_length) {
            let (win_rate, lc_standard_error, coefficients) = (50.0, 0.0, [0.0; 3]);
            let (interval, length_interval, doubt, n) = (None, None, None, rows.len());
            return Ok(Self {
                variant,
                win_rate,
                lc_standard_error,
                coefficients,
                c: None,
                interval,
                length_interval,
                doubt,
                n,
            });
        }
        let mut data = vec![];
        design.fill(None, &mut data)?;
        let c = match options.c {
            Some(c) => c,
            None => folds::choose_c(&data, design.terms(), &options.folds.assign(data.len())?, &grid()),
        };
        let fit = L1Logistic { c, terms: design.terms() }.fit(&data, [0.0; 3]);
        let (win_rate, lc_standard_error) = design.predict(&fit, None);
        let doubt = Doubt::of(&design, &data, &fit, win_rate);
        Ok(Self {
            variant,
            win_rate,
            lc_standard_error,
            coefficients: fit,
            c: Some(c),
            interval: None,
            length_interval: None,
            doubt,
            n: rows.len(),
        })
    }

    /// The interval of the win rate by a percentile bootstrap over instructions: each resample is refitted at the C of
    /// the whole data, starting from its coefficients; an instruction's gamed rows are resampled with it. A rate that is in
    /// doubt gets none: its resamples would only repeat what the penalty says.
    ///
    /// # Errors
    /// As for [`LengthControlled::fit`].
    pub fn with_interval(
        mut self,
        rows: &[LengthRow],
        calibration: Option<&Calibration>,
        resamples: usize,
        confidence: f64,
        seed: harness_core::Seed,
    ) -> Result<Self> {
        let design = Design::new(rows, self.variant, calibration)?;
        let Some(c) = self.c.filter(|_| self.doubt.is_none()) else { return Ok(self) };
        let values = resample::refit(&design, c, self.coefficients, resamples, seed);
        let [rates, lengths] = [0, 1].map(|which| values.iter().map(|value| value[which]).collect::<Vec<f64>>());
        self.interval = resample::percentile(rates, confidence);
        self.length_interval = resample::percentile(lengths, confidence);
        Ok(self)
    }
}

/// The win rate that weights of a leaderboard give between two of its models, in percent: lengths equal, difficulty as it
/// is. Each is compared with the same baseline, whose own weights are 0.
pub fn win_rate_of_weights(candidate: [f64; 3], baseline: [f64; 3], difficulty: &[f64]) -> f64 {
    let (d, b) = (candidate[1] - baseline[1], candidate[2] - baseline[2]);
    100.0 * difficulty.iter().map(|x| solver::sigmoid(d * x + b)).sum::<f64>() / difficulty.len() as f64
}

/// alpaca_eval's values for C.
fn grid() -> Vec<f64> {
    (0..GRID).map(|i| 10f64.powf(-4.0 + 8.0 * i as f64 / (GRID - 1) as f64)).collect()
}
