//! RMS norm, forward and backward.

use rayon::prelude::*;

use super::{
    memory::CpuBuf,
    simd::{lane_sum, multiversion},
    views::{row, rows_mut},
};
use crate::backend::{Mat, MatMut, Span, SpanMut};

/// Rows of one partial sum of the weight's gradient.
const CHUNK: usize = 32;

multiversion! {
    fn forward_head(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) -> f32 {
        let mean = lane_sum(x, x, |x, y| x * y) / x.len() as f32;
        let rstd = 1.0 / (mean + eps).sqrt();
        for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
            *y = x * rstd * w;
        }
        rstd
    }
}

/// `y = x * rstd * w` for every head of every row.
pub(super) fn forward(
    x: Mat<'_, CpuBuf>,
    heads: usize,
    w: Span<'_, CpuBuf>,
    eps: f32,
    y: MatMut<'_, CpuBuf>,
    rstd: &mut CpuBuf,
) {
    let w = &w.buf[w.at..w.at + w.len];
    rows_mut(y).zip(rstd.par_chunks_mut(heads)).enumerate().with_min_len(16).for_each(|(i, (y, rstd))| {
        let x = row(&x, i);
        for ((x, y), rstd) in x.chunks_exact(w.len()).zip(y.chunks_exact_mut(w.len())).zip(rstd) {
            *rstd = forward_head(x, w, eps, y);
        }
    });
}

multiversion! {
    /// With c = dy*w and x̂ = x*rstd: dx = rstd * (c - x̂ * mean(c*x̂)), in place.
    fn backward_head(d: &mut [f32], x: &[f32], w: &[f32], rstd: f32, dw: &mut [f32]) {
        for ((dw, &d), &x) in dw.iter_mut().zip(&*d).zip(x) {
            *dw += d * (x * rstd);
        }
        for (d, &w) in d.iter_mut().zip(w) {
            *d *= w;
        }
        let mean = lane_sum(d, x, |c, x| c * x) * rstd / x.len() as f32;
        for (d, &x) in d.iter_mut().zip(x) {
            *d = rstd * (*d - x * rstd * mean);
        }
    }
}

multiversion! {
    fn add_row(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

/// Backward in place; the gradient of the weight is summed in fixed chunks of rows, in order.
#[allow(clippy::too_many_arguments, reason = "one kernel call")]
pub(super) fn backward(
    d: MatMut<'_, CpuBuf>,
    heads: usize,
    x: Mat<'_, CpuBuf>,
    w: Span<'_, CpuBuf>,
    rstd: &CpuBuf,
    add: Option<Mat<'_, CpuBuf>>,
    dw: Option<SpanMut<'_, CpuBuf>>,
) {
    let w = &w.buf[w.at..w.at + w.len];
    let mut rows: Vec<&mut [f32]> = rows_mut(d).collect();
    let partial: Vec<Vec<f32>> = rows
        .par_chunks_mut(CHUNK)
        .enumerate()
        .map(|(chunk, rows)| {
            let mut dw = vec![0f32; w.len()];
            for (i, d) in rows.iter_mut().enumerate() {
                let i = chunk * CHUNK + i;
                let x = row(&x, i);
                let heads = d.chunks_exact_mut(w.len()).zip(x.chunks_exact(w.len())).zip(&rstd[i * heads..]);
                for ((d, x), &rstd) in heads {
                    backward_head(d, x, w, rstd, &mut dw);
                }
                if let Some(add) = &add {
                    add_row(row(add, i), d);
                }
            }
            dw
        })
        .collect();
    if let Some(dw) = dw {
        let total = &mut dw.buf[dw.at..dw.at + dw.len];
        partial.iter().for_each(|part| add_row(part, total));
    }
}
