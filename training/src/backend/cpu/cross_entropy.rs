//! Cross-entropy over rows of logits, and its gradient in their place.

use harness_engine::kernels::{elementwise::exp, logits::log_sum_exp};
use rayon::prelude::*;

use super::{CpuBuf, rows_mut, simd::multiversion};
use crate::backend::MatMut;

multiversion! {
    fn softmax_scaled(row: &mut [f32], shift: f32, scale: f32) {
        for x in row {
            *x = exp(*x - shift) * scale;
        }
    }
}

/// Σ (log Σ exp(row) - row[label]), rows added in order; with `scale` the rows become `scale * (softmax - onehot)`.
pub(super) fn cross_entropy(logits: MatMut<'_, CpuBuf>, labels: &[u32], scale: Option<f32>) -> f64 {
    let losses: Vec<f64> = rows_mut(logits)
        .zip(labels)
        .map(|(row, &label)| {
            let lse = log_sum_exp(row);
            let loss = lse - f64::from(row[label as usize]);
            if let Some(scale) = scale {
                softmax_scaled(row, lse as f32, scale);
                row[label as usize] -= scale;
            }
            loss
        })
        .collect();
    losses.iter().sum()
}
