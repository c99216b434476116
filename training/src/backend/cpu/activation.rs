//! Activations of feed-forward blocks, forward by the engine's kernels, and their derivatives.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use harness_kernels::cpu::{
    activation::{Activation, erf, tanh},
    elementwise::exp,
};
use rayon::prelude::*;

use super::{
    memory::CpuBuf,
    simd::multiversion,
    views::{row, rows_mut},
};
use crate::backend::{Mat, MatMut};

/// √(2/π)
const GELU: f32 = 0.797_884_6;
/// The cubic's factor in the approximation of GELU.
const CUBIC: f32 = 0.044_715;

multiversion! {
    fn swiglu_row(gate: &[f32], up: &[f32], y: &mut [f32]) {
        for ((y, &g), &u) in y.iter_mut().zip(gate).zip(up) {
            *y = g / (1.0 + exp(-g)) * u;
        }
    }
}

multiversion! {
    /// dup = dy*silu(g), dgate = dy*up*sig(g)*(1 + g*(1 - sig(g))).
    fn swiglu_backward_row(dy: &[f32], gate: &mut [f32], up: &mut [f32]) {
        for ((&d, g), u) in dy.iter().zip(gate).zip(up) {
            let sigmoid = 1.0 / (1.0 + exp(-*g));
            let dgate = d * *u * sigmoid * (1.0 + *g * (1.0 - sigmoid));
            *u = d * (*g * sigmoid);
            *g = dgate;
        }
    }
}

/// The activation and its derivative at a point.
fn at(kind: Activation, x: f32) -> (f32, f32) {
    match kind {
        Activation::Silu | Activation::Clamped { .. } => {
            let sigmoid = 1.0 / (1.0 + exp(-x));
            (x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid)))
        }
        Activation::Gelu => {
            let below = 0.5 * (1.0 + erf(x * FRAC_1_SQRT_2));
            // The normal density: 1/√(2π) = (2/√π) / (2√2).
            (x * below, below + x * exp(-0.5 * x * x) * (0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2))
        }
        Activation::GeluTanh => {
            let t = tanh(GELU * (x + CUBIC * x * x * x));
            let inner = GELU * (1.0 + 3.0 * CUBIC * x * x);
            (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner)
        }
        Activation::Relu => (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }),
        Activation::Relu2 => (x.max(0.0) * x.max(0.0), 2.0 * x.max(0.0)),
        Activation::Xielu { positive, negative, beta, eps } => {
            if x > 0.0 {
                return (positive * x * x + beta * x, 2.0 * positive * x + beta);
            }
            let slope = if x < eps { x.exp() } else { 0.0 };
            ((x.min(eps).exp_m1() - x) * negative + beta * x, (slope - 1.0) * negative + beta)
        }
    }
}

/// Derivatives of gpt-oss's activation by gate and up.
fn clamped(gate: f32, up: f32, alpha: f32, limit: f32) -> (f32, f32) {
    let (g, u) = (gate.min(limit), up.clamp(-limit, limit));
    let sigmoid = 1.0 / (1.0 + exp(-alpha * g));
    let of_gate = (u + 1.0) * sigmoid * (1.0 + alpha * g * (1.0 - sigmoid));
    let of_up = g * sigmoid;
    (if gate <= limit { of_gate } else { 0.0 }, if up.abs() <= limit { of_up } else { 0.0 })
}

/// `y = act(x)`, or `act(gate) * up`, as the widths say.
pub(super) fn forward(kind: Activation, wide: Mat<'_, CpuBuf>, y: MatMut<'_, CpuBuf>) {
    let gated = wide.cols == 2 * y.cols;
    rows_mut(y).enumerate().with_min_len(8).for_each(|(i, y)| {
        let wide = row(&wide, i);
        match (kind, gated) {
            (Activation::Silu, true) => {
                let (gate, up) = wide.split_at(y.len());
                swiglu_row(gate, up, y);
            }
            (_, true) => kind.gated(wide, y.len(), y),
            (_, false) => kind.plain(wide, y.len(), y),
        }
    });
}

/// The gradient in place of `wide`.
pub(super) fn backward(kind: Activation, dy: Mat<'_, CpuBuf>, wide: MatMut<'_, CpuBuf>) {
    let gated = wide.cols == 2 * dy.cols;
    rows_mut(wide).enumerate().with_min_len(8).for_each(|(i, wide)| {
        let dy = row(&dy, i);
        if !gated {
            return wide.iter_mut().zip(dy).for_each(|(x, d)| *x = d * at(kind, *x).1);
        }
        let (gate, up) = wide.split_at_mut(dy.len());
        match kind {
            Activation::Silu => swiglu_backward_row(dy, gate, up),
            Activation::Clamped { alpha, limit } => {
                for ((&d, g), u) in dy.iter().zip(gate).zip(up) {
                    let (of_gate, of_up) = clamped(*g, *u, alpha, limit);
                    (*g, *u) = (d * of_gate, d * of_up);
                }
            }
            _ => {
                for ((&d, g), u) in dy.iter().zip(gate).zip(up) {
                    let (value, slope) = at(kind, *g);
                    (*g, *u) = (d * *u * slope, d * value);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{CpuBackend, Memory};

    #[test]
    fn derivatives_are_those_of_differences() {
        let xielu = Activation::Xielu { positive: 0.7, negative: 1.3, beta: 0.5, eps: -1e-6 };
        let clamped = Activation::Clamped { alpha: 1.702, limit: 2.0 };
        let backend = CpuBackend::new();
        let all =
            [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Relu2, xielu];
        for (kind, gated) in all.iter().flat_map(|&kind| [(kind, true), (kind, false)]).chain([(clamped, true)]) {
            let n = if gated { 12 } else { 6 };
            let x: Vec<f32> = (0..n).map(|i| (i as f32 * 1.7 + 0.3).sin() * 3.0).collect();
            let run = |x: &[f32]| -> Vec<f32> {
                let wide = backend.upload(x).expect("memory");
                let mut y = backend.alloc(6).expect("memory");
                forward(kind, Mat::new(&wide, 0, 2, n / 2), MatMut::new(&mut y, 0, 2, 3));
                y.to_vec()
            };
            let dy: Vec<f32> = (0..6).map(|i| (i as f32 * 0.9).cos()).collect();
            let (mut wide, d) = (backend.upload(&x).expect("memory"), backend.upload(&dy).expect("memory"));
            backward(kind, Mat::new(&d, 0, 2, 3), MatMut::new(&mut wide, 0, 2, n / 2));
            for i in 0..n {
                let moved = |by: f32| {
                    let mut x = x.clone();
                    x[i] += by;
                    run(&x).iter().zip(&dy).map(|(y, d)| f64::from(*y) * f64::from(*d)).sum::<f64>()
                };
                let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                assert!((slope - f64::from(wide[i])).abs() < 2e-3, "{kind:?} {gated} {i}: {slope} {}", wide[i]);
            }
        }
    }
}
