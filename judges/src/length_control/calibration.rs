//! alpaca_eval's calibration data: difficulties of instructions, and judged rows of gamed baselines.

use std::{collections::BTreeSet, path::Path};

use serde::{Deserialize, Deserializer};

use crate::{JudgesError, Location, Result};

/// One judged row of a gamed baseline (a model told to be verbose or concise) against the baseline itself.
#[derive(Clone, Debug, PartialEq)]
pub struct GamedRow {
    /// Preference for it, from 0 to 1.
    pub preference: f64,
    /// Position of the instruction.
    pub index: usize,
    /// Standardised difference in length.
    pub std_delta_len: f64,
    /// Difficulty of the instruction.
    pub instruction_difficulty: f64,
    /// The gamed model.
    pub model: String,
}

/// What [`super::LengthControl::V1`] and [`super::LengthControl::NoReg`] need besides the judged rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calibration {
    /// Difficulty by position of the instruction.
    pub difficulty: Vec<f64>,
    /// Rows of gamed baselines, in order.
    pub gamed: Vec<GamedRow>,
}

#[derive(Deserialize)]
struct GamedRecord {
    preference: f64,
    index: usize,
    std_delta_len: f64,
    instruction_difficulty: f64,
    #[serde(default)]
    model: String,
}

#[derive(Deserialize)]
struct DifficultyRecord {
    #[serde(default, deserialize_with = "position")]
    index: Option<usize>,
    instruction_difficulty: f64,
}

/// pandas writes an integer index as `3` or `3.0`.
fn position<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let value = Option::<f64>::deserialize(deserializer)?;
    Ok(value.filter(|value| *value >= 0.0 && value.fract() == 0.0).map(|value| value as usize))
}

impl Calibration {
    /// Reads `df_gamed.csv` and `instruction_difficulty.csv`, either of which may be missing: without the first there are
    /// no gamed rows ([`super::LengthControl::NoReg`] needs none), without the second difficulties are those in the gamed
    /// rows.
    ///
    /// # Errors
    /// If a file cannot be read, a row is not as expected, or no difficulty is found.
    pub fn read(gamed: Option<&Path>, difficulty: Option<&Path>) -> Result<Self> {
        let rows: Vec<GamedRecord> = match gamed {
            Some(path) => read_csv(path, "preference, index, std_delta_len, instruction_difficulty")?,
            None => vec![],
        };
        // Preferences are stored from 0 to 1, or from 1 to 2 as in annotations.
        let offset = if rows.iter().any(|row| row.preference > 1.0) { 1.0 } else { 0.0 };
        let gamed_rows: Vec<GamedRow> = rows
            .into_iter()
            .map(|row| GamedRow {
                preference: row.preference - offset,
                index: row.index,
                std_delta_len: row.std_delta_len,
                instruction_difficulty: row.instruction_difficulty,
                model: row.model,
            })
            .collect();
        let pairs: Vec<(usize, f64)> = match difficulty {
            Some(path) => {
                let rows: Vec<DifficultyRecord> = read_csv(path, "instruction_difficulty")?;
                rows.into_iter()
                    .enumerate()
                    .map(|(i, row)| (row.index.unwrap_or(i), row.instruction_difficulty))
                    .collect()
            }
            None => gamed_rows.iter().map(|row| (row.index, row.instruction_difficulty)).collect(),
        };
        let count = pairs.iter().map(|(index, _)| index + 1).max().unwrap_or_default();
        let mut known = vec![f64::NAN; count];
        for (index, value) in pairs {
            known[index] = value;
        }
        if let Some(missing) = known.iter().position(|value| !value.is_finite()) {
            let path = difficulty.or(gamed).map(|path| path.display().to_string());
            return Err(JudgesError::Row {
                at: Location::new(path.unwrap_or_default(), None),
                found: format!("no difficulty for instruction {missing}"),
                expected: format!("one for each of 0 to {}", count.saturating_sub(1)),
            });
        }
        Ok(Self { difficulty: known, gamed: gamed_rows })
    }

    /// Number of gamed models.
    pub(super) fn gamed_models(&self) -> usize {
        self.gamed.iter().map(|row| row.model.as_str()).collect::<BTreeSet<_>>().len()
    }

    pub(super) fn difficulty_of(&self, index: usize) -> Result<f64> {
        self.difficulty.get(index).copied().ok_or_else(|| JudgesError::Statistics {
            what: format!(
                "no difficulty is known for instruction {index} (there are {}): length control with difficulties is for \
                 AlpacaEval's own 805 instructions; use length_controlled_minimal for others",
                self.difficulty.len()
            ),
        })
    }
}

fn read_csv<T: for<'de> Deserialize<'de>>(path: &Path, expected: &str) -> Result<Vec<T>> {
    let file = harness_core::open_file(path).map_err(|source| JudgesError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let mut rows = vec![];
    for (i, row) in csv::Reader::from_reader(file).deserialize().enumerate() {
        rows.push(row.map_err(|error| JudgesError::Row {
            at: Location::new(path.display().to_string(), Some(i + 2)),
            found: error.to_string(),
            expected: format!("the columns {expected}"),
        })?);
    }
    Ok(rows)
}
