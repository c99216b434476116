//! What is read off a row of logits.

use super::elementwise::{exp, lane_sum, max_row};
use crate::cpu::isa::multiversion;

multiversion! {
    /// Σ exp(x − shift) with f32 lanes over blocks of 512, added up in f64.
    fn exp_sum(row: &[f32], shift: f32) -> f64 {
        let mut sum = 0f64;
        for block in row.chunks(512) {
            sum += f64::from(lane_sum(block, |x| exp(x - shift)));
        }
        sum
    }
}

/// The largest element of a row and `Σ exp(x − max)`; a maximum that is not finite is NaN or infinite with a sum of 1.
pub fn max_and_sum(row: &[f32]) -> (f32, f64) {
    let max = max_row(row);
    (max, if max.is_finite() { exp_sum(row, max) } else { 1.0 })
}

/// `ln Σ exp(x)` of a row; NaN if the row holds one.
pub fn log_sum_exp(row: &[f32]) -> f64 {
    let (max, sum) = max_and_sum(row);
    f64::from(max) + sum.ln()
}

/// The position of the first largest element.
pub fn argmax(row: &[f32]) -> usize {
    let max = max_row(row);
    row.iter().position(|&x| x == max).unwrap_or(0)
}

/// Log-probability of `target` under the softmax of a row, and whether it is the (first) most probable one.
pub fn log_prob(row: &[f32], log_sum_exp: f64, target: usize) -> (f32, bool) {
    ((f64::from(row[target]) - log_sum_exp) as f32, argmax(row) == target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_softmax_by_hand() {
        let row = [1.0f32, 3.0, 2.0, 3.0];
        let exact = row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
        assert!((log_sum_exp(&row) - exact).abs() < 1e-6);
        assert_eq!(argmax(&row), 1);
        let (lp, greedy) = log_prob(&row, exact, 3);
        assert!((f64::from(lp) - (3.0 - exact)).abs() < 1e-6);
        assert!(!greedy, "the first maximum is the greedy token");
    }

    #[test]
    fn a_large_row_is_summed_precisely() {
        let row: Vec<f32> = (0..50_000).map(|i| ((i * 37) % 1000) as f32 / 100.0).collect();
        let max = f64::from(*row.iter().max_by(|a, b| a.total_cmp(b)).unwrap());
        let exact = max + row.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln();
        assert!((log_sum_exp(&row) - exact).abs() < 1e-6);
        assert!(log_sum_exp(&[1.0, f32::NAN]).is_nan());
    }
}
