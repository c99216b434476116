//! Bias, rotary embedding, dropout, rows, sums and the optimizer's update.

use rayon::prelude::*;

use super::{
    memory::CpuBuf,
    simd::{lane_sum, multiversion},
    views::{row, rows_mut},
};
use crate::backend::{
    AdamWStep, DropoutKey, HeadRuns, Mat, MatMut, RotaryShape, Span, SpanMut,
    dropout::{BLOCK, Draws},
};

/// Elements of one task or partial sum.
const CHUNK: usize = 1 << 14;

multiversion! {
    fn add_run(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

pub(super) fn add(x: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| add_run(x, y));
}

pub(super) fn add_bias(bias: Span<'_, CpuBuf>, y: MatMut<'_, CpuBuf>) {
    let bias = &bias.buf[bias.at..bias.at + bias.len];
    rows_mut(y).with_min_len(16).for_each(|y| add_run(bias, y));
}

pub(super) fn bias_backward(dy: Mat<'_, CpuBuf>, db: SpanMut<'_, CpuBuf>) {
    let db = &mut db.buf[db.at..db.at + db.len];
    (0..dy.rows).for_each(|i| add_run(row(&dy, i), db));
}

pub(super) fn embed_backward(dy: Mat<'_, CpuBuf>, tokens: &[u32], dtable: SpanMut<'_, CpuBuf>) {
    let table = &mut dtable.buf[dtable.at..dtable.at + dtable.len];
    for (i, &token) in tokens.iter().enumerate() {
        add_run(row(&dy, i), &mut table[token as usize * dy.cols..][..dy.cols]);
    }
}

pub(super) fn select_rows(x: Mat<'_, CpuBuf>, rows: &[u32], y: MatMut<'_, CpuBuf>) {
    rows_mut(y).zip(rows).with_min_len(16).for_each(|(y, &from)| y.copy_from_slice(row(&x, from as usize)));
}

pub(super) fn spread_rows(x: Mat<'_, CpuBuf>, rows: &[u32], y: MatMut<'_, CpuBuf>) {
    let mut y: Vec<&mut [f32]> = rows_mut(y).collect();
    y.iter_mut().for_each(|y| y.fill(0.0));
    for (i, &to) in rows.iter().enumerate() {
        y[to as usize].copy_from_slice(row(&x, i));
    }
}

multiversion! {
    fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
        let (first, second) = head.split_at_mut(cos.len());
        for (((a, b), &c), &s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            let (x, y, s) = (*a, *b, s * sign);
            *a = x * c - y * s;
            *b = y * c + x * s;
        }
    }
}

multiversion! {
    fn rotate_pairs(head: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
        for ((pair, &c), &s) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
            let (x, y, s) = (pair[0], pair[1], s * sign);
            pair[0] = x * c - y * s;
            pair[1] = y * c + x * s;
        }
    }
}

pub(super) fn rope(x: MatMut<'_, CpuBuf>, shape: RotaryShape, positions: &[u32], table: &[f32], inverse: bool) {
    let RotaryShape { heads, dims, pairs } = shape;
    let width = x.cols / heads;
    let sign = if inverse { -1.0 } else { 1.0 };
    rows_mut(x).zip(positions).with_min_len(16).for_each(|(x, &position)| {
        let (cos, sin) = table[position as usize * dims..][..dims].split_at(dims / 2);
        for head in x.chunks_exact_mut(width) {
            match pairs {
                true => rotate_pairs(&mut head[..dims], cos, sin, sign),
                false => rotate(&mut head[..dims], cos, sin, sign),
            }
        }
    });
}

/// Changes every element.
pub(super) fn each(x: MatMut<'_, CpuBuf>, f: impl Fn(f32) -> f32 + Sync) {
    rows_mut(x).with_min_len(8).for_each(|row| row.iter_mut().for_each(|x| *x = f(*x)));
}

/// Changes every element of `d` by one of `y`.
pub(super) fn each_with(y: Mat<'_, CpuBuf>, d: MatMut<'_, CpuBuf>, f: impl Fn(f32, f32) -> f32 + Sync) {
    rows_mut(d).enumerate().with_min_len(8).for_each(|(i, d)| {
        d.iter_mut().zip(row(&y, i)).for_each(|(d, &y)| *d = f(y, *d));
    });
}

pub(super) fn row_dots(a: Mat<'_, CpuBuf>, b: Mat<'_, CpuBuf>, y: &mut [f32]) {
    y[..a.rows].par_iter_mut().enumerate().with_min_len(16).for_each(|(i, y)| {
        *y = lane_sum(row(&a, i), row(&b, i), |a, b| a * b);
    });
}

pub(super) fn column_dots(a: Mat<'_, CpuBuf>, b: Mat<'_, CpuBuf>, y: &mut [f32]) {
    y[..a.cols].fill(0.0);
    for i in 0..a.rows {
        let products = row(&a, i).iter().zip(row(&b, i)).map(|(a, b)| a * b);
        y.iter_mut().zip(products).for_each(|(y, product)| *y += product);
    }
}

pub(super) fn add_rows(x: Mat<'_, CpuBuf>, rows: &[u32], y: MatMut<'_, CpuBuf>) {
    let mut y: Vec<&mut [f32]> = rows_mut(y).collect();
    for (i, &to) in rows.iter().enumerate() {
        add_run(row(&x, i), y[to as usize]);
    }
}

pub(super) fn add_heads(
    (x, from): (Mat<'_, CpuBuf>, HeadRuns),
    (y, to): (MatMut<'_, CpuBuf>, HeadRuns),
    heads: usize,
    width: usize,
) {
    rows_mut(y).enumerate().with_min_len(16).for_each(|(i, y)| {
        let x = row(&x, i);
        for head in 0..heads {
            add_run(&x[from.first + head * from.step..][..width], &mut y[to.first + head * to.step..][..width]);
        }
    });
}

/// Blocks of draws at a time.
const DRAWN: usize = 16;

/// What the elements of a row are multiplied with.
#[derive(Clone, Copy)]
struct Mask {
    draws: Draws,
    threshold: u16,
    factor: f32,
}

impl Mask {
    fn new(key: DropoutKey, row: usize) -> Self {
        Self { draws: Draws::new(key.key, row), threshold: key.threshold() as u16, factor: key.factor() }
    }
}

multiversion! {
    fn mask_row(x: &[f32], mask: Mask, y: &mut [f32]) {
        for (i, (y, x)) in y.chunks_mut(DRAWN * BLOCK).zip(x.chunks(DRAWN * BLOCK)).enumerate() {
            let draws = mask.draws.blocks::<DRAWN>((i * DRAWN) as u32);
            for ((y, &x), &draw) in y.iter_mut().zip(x).zip(draws.as_flattened()) {
                *y = if draw >= mask.threshold { x * mask.factor } else { 0.0 };
            }
        }
    }
}

multiversion! {
    fn mask_add_row(x: &[f32], mask: Mask, y: &mut [f32]) {
        for (i, (y, x)) in y.chunks_mut(DRAWN * BLOCK).zip(x.chunks(DRAWN * BLOCK)).enumerate() {
            let draws = mask.draws.blocks::<DRAWN>((i * DRAWN) as u32);
            for ((y, &x), &draw) in y.iter_mut().zip(x).zip(draws.as_flattened()) {
                *y += if draw >= mask.threshold { x * mask.factor } else { 0.0 };
            }
        }
    }
}

pub(super) fn dropout(x: Mat<'_, CpuBuf>, key: DropoutKey, y: MatMut<'_, CpuBuf>) {
    rows_mut(y).enumerate().with_min_len(8).for_each(|(i, y)| mask_row(row(&x, i), Mask::new(key, i), y));
}

pub(super) fn dropout_backward(dy: Mat<'_, CpuBuf>, key: DropoutKey, dx: MatMut<'_, CpuBuf>) {
    rows_mut(dx).enumerate().with_min_len(8).for_each(|(i, dx)| mask_add_row(row(&dy, i), Mask::new(key, i), dx));
}

multiversion! {
    fn square_sum(x: &[f32]) -> f64 {
        x.chunks(512).map(|x| f64::from(lane_sum(x, x, |x, y| x * y))).sum()
    }
}

pub(super) fn sum_squares(x: &[f32]) -> f64 {
    let parts: Vec<f64> = x.par_chunks(CHUNK).map(square_sum).collect();
    parts.iter().sum()
}

multiversion! {
    fn adamw_run(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], step: &AdamWStep) {
        let (b1, b2) = (step.beta1 as f32, step.beta2 as f32);
        let (c1, c2) = ((1.0 - step.beta1) as f32, (1.0 - step.beta2) as f32);
        let keep = (1.0 - step.learning_rate * step.weight_decay) as f32;
        let size = (step.learning_rate / step.correction1()) as f32;
        let root = (1.0 / step.correction2().sqrt()) as f32;
        let (epsilon, scale) = (step.epsilon as f32, step.grad_scale as f32);
        for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            let g = g * scale;
            *m = b1 * *m + c1 * g;
            *v = b2 * *v + c2 * (g * g);
            *p = *p * keep - size * (*m / (v.sqrt() * root + epsilon));
        }
    }
}

pub(super) fn adamw(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], step: &AdamWStep) {
    p.par_chunks_mut(CHUNK)
        .zip(g.par_chunks(CHUNK))
        .zip(m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)))
        .for_each(|((p, g), (m, v))| adamw_run(p, g, m, v, step));
}
