//! Corrections of p-values for testing many hypotheses at once.

use serde::{Deserialize, Serialize};

/// How p-values of one family are adjusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Correction {
    /// No adjustment.
    None,
    /// Controls the chance of any false rejection: p·m.
    Bonferroni,
    /// As Bonferroni, step-down, never less powerful (Holm 1979).
    #[default]
    Holm,
    /// Controls the expected share of false rejections for independent tests (Benjamini and Hochberg 1995).
    #[serde(rename = "bh")]
    BenjaminiHochberg,
    /// The same under any dependence (Benjamini and Yekutieli 2001).
    #[serde(rename = "by")]
    BenjaminiYekutieli,
}

impl Correction {
    /// The name in words, for reports.
    pub fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Bonferroni => "Bonferroni",
            Self::Holm => "Holm",
            Self::BenjaminiHochberg => "Benjamini-Hochberg",
            Self::BenjaminiYekutieli => "Benjamini-Yekutieli",
        }
    }

    /// Adjusted p-values in the order given; a hypothesis is rejected at level α where its adjusted p is ≤ α.
    pub fn adjust(self, p_values: &[f64]) -> Vec<f64> {
        let m = p_values.len();
        let mut order: Vec<usize> = (0..m).collect();
        order.sort_by(|&i, &j| p_values[i].total_cmp(&p_values[j]));
        let mut adjusted = p_values.to_vec();
        match self {
            Self::None => {}
            Self::Bonferroni => adjusted.iter_mut().for_each(|p| *p = (*p * m as f64).min(1.0)),
            Self::Holm => {
                let mut floor = 0.0_f64;
                for (rank, &i) in order.iter().enumerate() {
                    floor = floor.max((p_values[i] * (m - rank) as f64).min(1.0));
                    adjusted[i] = floor;
                }
            }
            Self::BenjaminiHochberg | Self::BenjaminiYekutieli => {
                let factor = match self {
                    Self::BenjaminiYekutieli => (1..=m).map(|i| 1.0 / i as f64).sum::<f64>(),
                    _ => 1.0,
                };
                let mut ceiling = 1.0_f64;
                for (rank, &i) in order.iter().enumerate().rev() {
                    ceiling = ceiling.min(p_values[i] * factor * m as f64 / (rank + 1) as f64);
                    adjusted[i] = ceiling;
                }
            }
        }
        adjusted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holm_by_hand() {
        assert_eq!(Correction::Holm.adjust(&[0.02, 0.01, 0.5]), [0.04, 0.03, 0.5]);
        assert_eq!(Correction::Holm.adjust(&[0.9, 0.8]), [1.0, 1.0]);
        assert!(Correction::BenjaminiHochberg.adjust(&[]).is_empty());
    }
}
