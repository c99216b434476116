//! Gated short convolutions within documents, forward and backward.

use rayon::prelude::*;

use super::{
    memory::CpuBuf,
    views::{row, rows_mut},
};
use crate::backend::{Mat, MatMut};

/// First row of the document of every row.
fn firsts(bounds: &[u32], rows: usize) -> Vec<usize> {
    let mut firsts = vec![0; rows];
    for document in bounds.windows(2) {
        firsts[document[0] as usize..document[1] as usize].fill(document[0] as usize);
    }
    firsts
}

pub(super) fn forward(x: Mat<'_, CpuBuf>, taps: &[f32], bias: Option<&CpuBuf>, bounds: &[u32], y: MatMut<'_, CpuBuf>) {
    let (width, firsts) = (y.cols, firsts(bounds, y.rows));
    let count = taps.len() / width;
    rows_mut(y).enumerate().with_min_len(8).for_each(|(t, y)| {
        for (channel, y) in y.iter_mut().enumerate() {
            let mut sum = bias.map_or(0.0, |bias| bias[channel]);
            for back in (0..count.min(t - firsts[t] + 1)).rev() {
                let seen = row(&x, t - back);
                sum += taps[channel * count + count - 1 - back] * (seen[channel] * seen[2 * width + channel]);
            }
            *y = row(&x, t)[width + channel] * sum;
        }
    });
}

/// With s the sum before its gate: db = dy * s, du[t] = Σ taps[k] * (dy * b)[t + k], da = du * c, dc = du * a.
pub(super) fn backward(
    dy: Mat<'_, CpuBuf>,
    taps: &[f32],
    bias: Option<&CpuBuf>,
    bounds: &[u32],
    x: MatMut<'_, CpuBuf>,
) {
    let (width, rows) = (dy.cols, dy.rows);
    let (count, firsts) = (taps.len() / width, firsts(bounds, rows));
    let mut x: Vec<&mut [f32]> = rows_mut(x).collect();
    let old: Vec<Vec<f32>> = x.iter().map(|row| row.to_vec()).collect();
    x.par_iter_mut().enumerate().with_min_len(8).for_each(|(t, d)| {
        for channel in 0..width {
            let tap = |back: usize| taps[channel * count + count - 1 - back];
            let mut sum = bias.map_or(0.0, |bias| bias[channel]);
            for back in (0..count.min(t - firsts[t] + 1)).rev() {
                let seen = &old[t - back];
                sum += tap(back) * (seen[channel] * seen[2 * width + channel]);
            }
            let mut du = 0.0;
            for ahead in 0..count {
                if firsts.get(t + ahead) == Some(&firsts[t]) {
                    du += tap(ahead) * row(&dy, t + ahead)[channel] * old[t + ahead][width + channel];
                }
            }
            d[channel] = du * old[t][2 * width + channel];
            d[width + channel] = row(&dy, t)[channel] * sum;
            d[2 * width + channel] = du * old[t][channel];
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{CpuBackend, Memory};

    #[test]
    fn the_gradient_is_that_of_differences() {
        let (backend, rows, width, bounds) = (CpuBackend::new(), 7, 2, [0, 4, 7]);
        let values = |n: usize, by: f32| (0..n).map(|i| (i as f32 * by + 0.2).sin()).collect::<Vec<f32>>();
        let (x, dy) = (values(rows * 3 * width, 1.3), values(rows * width, 0.7));
        let (taps, bias) = (values(3 * width, 2.1), backend.upload(&values(width, 1.1)).expect("memory"));
        let run = |x: &[f32]| {
            let x = backend.upload(x).expect("memory");
            let mut y = backend.alloc(rows * width).expect("memory");
            let to = MatMut::new(&mut y, 0, rows, width);
            forward(Mat::new(&x, 0, rows, 3 * width), &taps, Some(&bias), &bounds, to);
            y.iter().zip(&dy).map(|(y, d)| f64::from(*y) * f64::from(*d)).sum::<f64>()
        };
        let (mut d, dy) = (backend.upload(&x).expect("memory"), backend.upload(&dy).expect("memory"));
        let to = MatMut::new(&mut d, 0, rows, 3 * width);
        backward(Mat::new(&dy, 0, rows, width), &taps, Some(&bias), &bounds, to);
        for i in 0..x.len() {
            let moved = |by: f32| {
                let mut x = x.clone();
                x[i] += by;
                run(&x)
            };
            let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!((slope - f64::from(d[i])).abs() < 1e-3, "{i}: {slope} {}", d[i]);
        }
    }
}
