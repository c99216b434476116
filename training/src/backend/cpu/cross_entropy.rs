//! Cross-entropy over rows of logits, and its gradient in their place.

use harness_kernels::cpu::{elementwise::exp, logits::max_and_sum};
use rayon::prelude::*;

use super::{memory::CpuBuf, simd::multiversion, views::rows_mut};
use crate::backend::MatMut;

multiversion! {
    fn exp_scaled(row: &mut [f32], shift: f32, scale: f32) {
        for x in row {
            *x = exp(*x - shift) * scale;
        }
    }
}

/// Σ (log Σ exp(row) - row[label]), rows added in order; with `scale` the rows become `scale * (softmax - onehot)`. The
/// probabilities of a row are divided by their own sum, so that the gradient sums to 0 as closely as f32 allows; that of the
/// label is subtracted from 1 before it is rounded.
pub(super) fn cross_entropy(logits: MatMut<'_, CpuBuf>, labels: &[u32], scale: Option<f32>) -> f64 {
    let losses: Vec<f64> = rows_mut(logits)
        .zip(labels)
        .map(|(row, &label)| {
            let (max, sum) = max_and_sum(row);
            let target = row[label as usize];
            if let Some(scale) = scale {
                let scale = f64::from(scale);
                let probability = f64::from(exp(target - max)) / sum;
                exp_scaled(row, max, (scale / sum) as f32);
                row[label as usize] = (scale * (probability - 1.0)) as f32;
            }
            f64::from(max) + sum.ln() - f64::from(target)
        })
        .collect();
    losses.iter().sum()
}
