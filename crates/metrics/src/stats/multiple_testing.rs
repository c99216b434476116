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
    /// As Bonferroni for independent tests, a little more powerful: 1 − (1 − p)^m (Šidák 1967).
    Sidak,
    /// Šidák's adjustment, step-down.
    HolmSidak,
    /// Step-up with Holm's factors, for independent tests (Hochberg 1988).
    Hochberg,
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
            Self::Sidak => "Šidák",
            Self::HolmSidak => "Holm-Šidák",
            Self::Hochberg => "Hochberg",
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
        let harmonic = (1..=m).map(|i| 1.0 / i as f64).sum::<f64>();
        let sidak = |p: f64, tests: usize| -(tests as f64 * (-p).ln_1p()).exp_m1();
        // Step-down methods carry the largest adjusted p upwards, step-up ones the smallest downwards.
        let (step_down, scaled): (bool, Box<dyn Fn(f64, usize) -> f64>) = match self {
            Self::None => return adjusted,
            Self::Bonferroni => (true, Box::new(|p, _| p * m as f64)),
            Self::Sidak => (true, Box::new(|p, _| sidak(p, m))),
            Self::Holm => (true, Box::new(|p, rank| p * (m - rank) as f64)),
            Self::HolmSidak => (true, Box::new(|p, rank| sidak(p, m - rank))),
            Self::Hochberg => (false, Box::new(|p, rank| p * (m - rank) as f64)),
            Self::BenjaminiHochberg => (false, Box::new(|p, rank| p * m as f64 / (rank + 1) as f64)),
            Self::BenjaminiYekutieli => (false, Box::new(|p, rank| p * harmonic * m as f64 / (rank + 1) as f64)),
        };
        if step_down {
            let mut floor = 0.0_f64;
            for (rank, &i) in order.iter().enumerate() {
                floor = floor.max(scaled(p_values[i], rank).min(1.0));
                adjusted[i] = floor;
            }
        } else {
            let mut ceiling = 1.0_f64;
            for (rank, &i) in order.iter().enumerate().rev() {
                ceiling = ceiling.min(scaled(p_values[i], rank));
                adjusted[i] = ceiling;
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
