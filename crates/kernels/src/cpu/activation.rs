//! Activations of feed-forward blocks, gated or not.

use std::f32::consts::FRAC_2_SQRT_PI;

use rayon::prelude::*;

use super::{elementwise::exp, isa::multiversion};

/// What a feed-forward block puts between its projections, by transformers' names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x · sigmoid(x)`: `silu`, `swish`.
    Silu,
    /// The normal distribution's `x · Φ(x)`: `gelu`.
    Gelu,
    /// Its approximation by tanh: `gelu_pytorch_tanh`, `gelu_new`.
    GeluTanh,
    /// `max(x, 0)`: `relu`.
    Relu,
    /// `max(x, 0)²`: `relu2`.
    Relu2,
    /// gpt-oss: gate and up are limited to ±`limit` (the gate from above only), `(up + 1) · gate · sigmoid(alpha · gate)`.
    Clamped {
        /// Factor inside of the sigmoid.
        alpha: f32,
        /// Largest gate, and largest absolute value of up.
        limit: f32,
    },
    /// xIELU (Huang and Schlag 2024): `positive · x² + beta · x` above 0, `(expm1(min(x, eps)) − x) · negative + beta · x`
    /// elsewhere.
    Xielu {
        /// Factor of the square.
        positive: f32,
        /// Factor of the negative part.
        negative: f32,
        /// Factor of the linear part.
        beta: f32,
        /// Where the exponential is cut off.
        eps: f32,
    },
}

/// tanh within 2 units in the last place, by Cephes' polynomial below 0.625 and by the exponential above.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let z = x * x;
    let mut p = -5.704_988_7e-3;
    p = p * z + 2.063_908_8e-2;
    p = p * z - 5.373_971_6e-2;
    p = p * z + 1.333_144_2e-1;
    p = p * z - 3.333_328_3e-1;
    let small = p * z * x + x;
    let large = 1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0);
    if x.abs() < 0.625 { small } else { large.copysign(x) }
}

/// The error function within 2e-7, by Cephes' polynomials.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let z = x * x;
    let mut p = 7.853_861_4e-5;
    for c in [-8.010_194e-4, 5.188_327_7e-3, -2.685_381_2e-2, 1.128_358_5e-1, -3.761_262_7e-1, FRAC_2_SQRT_PI] {
        p = p * z + c;
    }
    let small = p * x;
    let a = x.abs();
    let w = 1.0 / if a < 1.0 { 1.0 } else { a };
    let q = w * w;
    let (mut near, mut far) = (2.326_82e-2, -1.047_766_4e1);
    for c in [
        -1.387_039_4e-1,
        3.687_424_8e-1,
        -5.824_733e-1,
        6.210_004_7e-1,
        -4.944_515_3e-1,
        3.404_88e-1,
        -2.741_127e-1,
        5.638_259_4e-1,
    ] {
        near = near * q + c;
    }
    for c in [1.297_719_9e1, -7.495_518_7, 2.921_019, -1.015_265_3, 4.218_463_4e-1, -2.820_767_4e-1, 5.641_895e-1] {
        far = far * q + c;
    }
    let large = 1.0 - exp(-z) * w * if a < 2.0 { near } else { far };
    if a < 1.0 { small } else { large.copysign(x) }
}

multiversion! {
    /// `cap · tanh(x / cap)` of each element, in place.
    pub fn soft_limit(row: &mut [f32], cap: f32) {
        row.iter_mut().for_each(|x| *x = cap * tanh(*x / cap));
    }
}

multiversion! {
    fn silu_row(row: &mut [f32]) {
        row.iter_mut().for_each(|x| *x /= 1.0 + exp(-*x));
    }
}

multiversion! {
    fn gelu_row(row: &mut [f32]) {
        row.iter_mut().for_each(|x| *x = 0.5 * *x * (1.0 + erf(*x * std::f32::consts::FRAC_1_SQRT_2)));
    }
}

multiversion! {
    fn gelu_tanh_row(row: &mut [f32]) {
        /// √(2/π)
        const FACTOR: f32 = 0.797_884_6;
        row.iter_mut().for_each(|x| *x = 0.5 * *x * (1.0 + tanh(FACTOR * (*x + 0.044_715 * *x * *x * *x))));
    }
}

multiversion! {
    fn multiply_row(row: &mut [f32], by: &[f32]) {
        row.iter_mut().zip(by).for_each(|(x, &y)| *x *= y);
    }
}

multiversion! {
    fn clamped_row(row: &mut [f32], up: &[f32], alpha: f32, limit: f32) {
        for (x, &u) in row.iter_mut().zip(up) {
            let gate = if *x > limit { limit } else { *x };
            let up = if u > limit { limit } else { u };
            let up = if up < -limit { -limit } else { up };
            *x = (up + 1.0) * (gate / (1.0 + exp(-alpha * gate)));
        }
    }
}

impl Activation {
    /// The activation of a name of transformers, as far as it has no parameters.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "silu" | "swish" => Self::Silu,
            "gelu" => Self::Gelu,
            "gelu_pytorch_tanh" | "gelu_new" => Self::GeluTanh,
            "relu" => Self::Relu,
            "relu2" => Self::Relu2,
            _ => return None,
        })
    }

    /// Changes a row in place; `up` is the other projection of a gated block, as long as the row.
    fn row(self, row: &mut [f32], up: Option<&[f32]>) {
        match self {
            Self::Silu => silu_row(row),
            Self::Gelu => gelu_row(row),
            Self::GeluTanh => gelu_tanh_row(row),
            Self::Relu => row.iter_mut().for_each(|x| *x = x.max(0.0)),
            Self::Relu2 => row.iter_mut().for_each(|x| *x = x.max(0.0) * x.max(0.0)),
            Self::Clamped { alpha, limit } => {
                return clamped_row(row, up.unwrap_or_default(), alpha, limit);
            }
            Self::Xielu { positive, negative, beta, eps } => row.iter_mut().for_each(|x| {
                let other = if *x > 0.0 { positive * *x * *x } else { (x.min(eps).exp_m1() - *x) * negative };
                *x = other + beta * *x;
            }),
        }
        if let Some(up) = up {
            multiply_row(row, up);
        }
    }

    /// `act(x)` of each element of rows `x` `[n, width]`, to `out`.
    ///
    /// # Panics
    /// If the shapes do not agree.
    pub fn plain(self, x: &[f32], width: usize, out: &mut [f32]) {
        assert!(x.len() == out.len() && out.len().is_multiple_of(width), "an activation of different lengths");
        out.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width)).with_min_len(8).for_each(|(y, row)| {
            y.copy_from_slice(row);
            self.row(y, None);
        });
    }

    /// `act(gate) · up`, with gate and up side by side in each row of `gate_up` `[n, 2·width]`; to `out` `[n, width]`.
    ///
    /// # Panics
    /// If the shapes do not agree.
    pub fn gated(self, gate_up: &[f32], width: usize, out: &mut [f32]) {
        assert!(
            gate_up.len() == 2 * out.len() && out.len().is_multiple_of(width),
            "an activation of different lengths"
        );
        out.par_chunks_exact_mut(width).zip(gate_up.par_chunks_exact(2 * width)).with_min_len(8).for_each(
            |(y, row)| {
                let (gate, up) = row.split_at(width);
                y.copy_from_slice(gate);
                self.row(y, Some(up));
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `erf` in f64 by its Taylor series, which converges everywhere.
    fn exact_erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn functions_are_accurate() {
        let (mut of_tanh, mut of_erf) = (0f64, 0f64);
        for i in -40_000..40_000 {
            let x = i as f32 / 10_000.0;
            of_tanh =
                of_tanh.max((f64::from(tanh(x)) - f64::from(x).tanh()).abs() / f64::from(x).tanh().abs().max(1e-9));
            of_erf = of_erf.max((f64::from(erf(x)) - exact_erf(f64::from(x))).abs());
        }
        assert!(of_tanh < 3e-7, "{of_tanh}");
        assert!(of_erf < 2e-7, "{of_erf}");
        for x in [20.0, 90.0, f32::INFINITY] {
            assert_eq!((tanh(x), tanh(-x), erf(x), erf(-x)), (1.0, -1.0, 1.0, -1.0));
        }
        assert!(tanh(f32::NAN).is_nan() && erf(f32::NAN).is_nan());
    }

    #[test]
    fn values_are_those_of_pytorch() {
        // torch.nn.functional.gelu and its tanh form of −1.5 and 0.75.
        let x = [-1.5f32, 0.75];
        for (activation, expected) in [
            (Activation::Gelu, [-0.100_210_8, 0.580_029_9]),
            (Activation::GeluTanh, [-0.100_428_42, 0.579_960_6]),
            (Activation::Silu, [-0.273_638_27, 0.509_384_5]),
            (Activation::Relu, [0.0, 0.75]),
            (Activation::Relu2, [0.0, 0.5625]),
        ] {
            let mut y = [0.0; 2];
            activation.plain(&x, 2, &mut y);
            assert!((0..2).all(|i| (y[i] - expected[i]).abs() < 1e-6), "{activation:?} {y:?}");
            let mut gated = [0.0; 2];
            activation.gated(&[x[0], x[1], 3.0, -2.0], 2, &mut gated);
            assert_eq!(gated, [y[0] * 3.0, y[1] * -2.0]);
        }
        let mut y = [0.0; 2];
        Activation::Clamped { alpha: 1.702, limit: 1.0 }.gated(&[2.0, -3.0, 0.5, -5.0], 2, &mut y);
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        assert!((y[0] - 1.5 * sigmoid(1.702)).abs() < 1e-6 && y[1] == 0.0, "{y:?}");
        Activation::Xielu { positive: 0.5, negative: 2.0, beta: 0.25, eps: -1e-6 }.plain(&[2.0, -1.0], 2, &mut y);
        assert!((y[0] - 2.5).abs() < 1e-6 && (y[1] - (((-1f32).exp() - 1.0 + 1.0) * 2.0 - 0.25)).abs() < 1e-6, "{y:?}");
    }
}
