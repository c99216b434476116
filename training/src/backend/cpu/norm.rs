//! Norms, forward and backward.

use rayon::prelude::*;

use super::{
    memory::CpuBuf,
    simd::{lane_sum, multiversion},
    views::{row, rows_mut},
};
use crate::backend::{FrozenNorm, Mat, MatMut, NormKind, Span, SpanMut};

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

/// The elements of a weight or bias for one of the runs that are normed.
fn of_span<'a>(values: &Option<Span<'a, CpuBuf>>, span: usize, width: usize) -> Option<&'a [f32]> {
    let values = values.as_ref().map(|values| &values.buf[values.at..values.at + values.len])?;
    Some(&values[span % (values.len() / width) * width..][..width])
}

fn mean_of(kind: NormKind, x: &[f32]) -> f32 {
    if kind == NormKind::Layer { lane_sum(x, x, |x, _| x) / x.len() as f32 } else { 0.0 }
}

/// A frozen norm of every run of every row.
pub(super) fn frozen(
    x: Mat<'_, CpuBuf>,
    spans: usize,
    norm: FrozenNorm<'_, CpuBuf>,
    y: MatMut<'_, CpuBuf>,
    rstd: &mut CpuBuf,
) {
    let width = x.cols / spans;
    rows_mut(y).zip(rstd.par_chunks_mut(spans)).enumerate().with_min_len(16).for_each(|(i, (y, rstd))| {
        let runs = row(&x, i).chunks_exact(width).zip(y.chunks_exact_mut(width)).zip(rstd);
        for (span, ((x, y), rstd)) in runs.enumerate() {
            let mean = mean_of(norm.kind, x);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x - mean);
            *rstd = 1.0 / (lane_sum(y, y, |a, b| a * b) / width as f32 + norm.eps).sqrt();
            y.iter_mut().for_each(|y| *y *= *rstd);
            if let Some(weight) = of_span(&norm.weight, span, width) {
                y.iter_mut().zip(weight).for_each(|(y, w)| *y *= w);
            }
            if let Some(bias) = of_span(&norm.bias, span, width) {
                add_row(bias, y);
            }
        }
    });
}

/// With c = dy*w and x̂ the normed input: dx = rstd * (c - x̂ * mean(c*x̂)), less the mean of c where the mean of x was
/// taken off; in place.
pub(super) fn frozen_backward(
    d: MatMut<'_, CpuBuf>,
    spans: usize,
    x: Mat<'_, CpuBuf>,
    norm: FrozenNorm<'_, CpuBuf>,
    rstd: &[f32],
) {
    let width = x.cols / spans;
    rows_mut(d).enumerate().with_min_len(16).for_each(|(i, d)| {
        let runs = row(&x, i).chunks_exact(width).zip(d.chunks_exact_mut(width)).zip(&rstd[i * spans..]);
        for (span, ((x, d), &rstd)) in runs.enumerate() {
            let mean = mean_of(norm.kind, x);
            if let Some(weight) = of_span(&norm.weight, span, width) {
                d.iter_mut().zip(weight).for_each(|(d, w)| *d *= w);
            }
            let along = lane_sum(d, x, |c, x| c * (x - mean)) * rstd / width as f32;
            let off = mean_of(norm.kind, d);
            d.iter_mut().zip(x).for_each(|(d, x)| *d = rstd * (*d - off - (x - mean) * rstd * along));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{CpuBackend, Memory};

    #[test]
    fn gradients_of_frozen_norms_are_those_of_differences() {
        let (backend, rows, spans, width) = (CpuBackend::new(), 3, 2, 5);
        let values = |n: usize, by: f32| (0..n).map(|i| (i as f32 * by + 0.4).sin() + 0.3).collect::<Vec<f32>>();
        let all = rows * spans * width;
        let (x, dy) = (values(all, 1.3), values(all, 0.7));
        for (kind, weights) in
            [NormKind::Rms, NormKind::Layer].into_iter().flat_map(|kind| [(kind, 0), (kind, 1), (kind, 2)])
        {
            let weight = backend.upload(&values(weights * width, 2.3)).expect("memory");
            let span = (weights > 0).then_some(Span { buf: &weight, at: 0, len: weights * width });
            let norm = FrozenNorm { kind, weight: span, bias: span, eps: 1e-3 };
            let mut rstd = backend.alloc(rows * spans).expect("memory");
            let mut run = |x: &[f32]| {
                let x = backend.upload(x).expect("memory");
                let mut y = backend.alloc(all).expect("memory");
                let to = MatMut::new(&mut y, 0, rows, spans * width);
                frozen(Mat::new(&x, 0, rows, spans * width), spans, norm, to, &mut rstd);
                y.iter().zip(&dy).map(|(y, d)| f64::from(*y) * f64::from(*d)).sum::<f64>()
            };
            let slopes: Vec<f64> = (0..all)
                .map(|i| {
                    let mut moved = |by: f32| {
                        let mut x = x.clone();
                        x[i] += by;
                        run(&x)
                    };
                    (moved(3e-3) - moved(-3e-3)) / 6e-3
                })
                .collect();
            run(&x);
            let (mut d, held) = (backend.upload(&dy).expect("memory"), backend.upload(&x).expect("memory"));
            let to = MatMut::new(&mut d, 0, rows, spans * width);
            frozen_backward(to, spans, Mat::new(&held, 0, rows, spans * width), norm, &rstd);
            for (i, slope) in slopes.iter().enumerate() {
                assert!((slope - f64::from(d[i])).abs() < 2e-3, "{kind:?} {weights} {i}: {slope} {}", d[i]);
            }
        }
    }
}
