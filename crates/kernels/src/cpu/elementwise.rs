//! Row-wise and element-wise kernels: RMSNorm, SwiGLU, sums, exponential.

use rayon::prelude::*;

use super::isa::multiversion;

/// Lanes of the fixed summation order: element i of a row is added to lane i mod 16.
const LANES: usize = 16;
/// Elements for which a second thread is worth waking.
const PARALLEL: usize = 1 << 15;

/// e^x for f32, within 2 units in the last place, by Cephes' polynomial on [−ln2/2, ln2/2]. Below −87 the result is 0;
/// NaN stays NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    let clamped = if x < -87.0 { -87.0 } else { x };
    let clamped = if clamped > 88.0 { 88.0 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = clamped - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut y = 1.987_569_1e-4;
    y = y * r + 1.398_2e-3;
    y = y * r + 8.333_452e-3;
    y = y * r + 4.166_579_6e-2;
    y = y * r + 1.666_666_5e-1;
    y = y * r + 5e-1;
    y = y * (r * r) + r + 1.0;
    let exponent = (shifted.to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32);
    let scale = f32::from_bits((exponent.wrapping_add(127) << 23) as u32);
    let value = y * scale;
    if x < -87.0 { 0.0 } else { value }
}

/// Adds up 16 lanes in a fixed tree.
#[inline(always)]
fn reduce(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Σ f(x) over a row, element i in lane i mod 16.
#[inline(always)]
pub(super) fn lane_sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let mut chunks = row.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane += f(x);
    }
    reduce(lanes)
}

multiversion! {
    fn rms_norm_row(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) -> f32 {
        let mean = lane_sum(x, |x| x * x) / x.len() as f32;
        let rstd = 1.0 / (mean + eps).sqrt();
        for ((y, &x), &w) in out.iter_mut().zip(x).zip(weight) {
            *y = x * rstd * w;
        }
        rstd
    }
}

/// RMSNorm (Zhang and Sennrich 2019) of each row of `x` `[n, d]`: `x / sqrt(mean(x²) + eps) · weight`. The reciprocal
/// root of each row goes to `rstd` `[n]` where wanted, for the backward pass.
///
/// # Panics
/// If the shapes do not agree.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32], rstd: Option<&mut [f32]>) {
    let width = weight.len();
    assert!(
        x.len() == out.len() && x.len().is_multiple_of(width),
        "RMSNorm of {} elements in rows of {width}",
        x.len()
    );
    let rows = x.par_chunks_exact(width).zip(out.par_chunks_exact_mut(width)).with_min_len(PARALLEL / width + 1);
    match rstd {
        Some(rstd) => {
            rows.zip(rstd.par_iter_mut()).for_each(|((x, y), r)| *r = rms_norm_row(x, weight, eps, y));
        }
        None => rows.for_each(|(x, y)| {
            rms_norm_row(x, weight, eps, y);
        }),
    }
}

/// RMSNorm of each row in place (the query and key norms of Qwen 3).
///
/// # Panics
/// If `x` is no whole number of rows.
pub fn rms_norm_inplace(x: &mut [f32], weight: &[f32], eps: f32) {
    assert!(x.len().is_multiple_of(weight.len()), "RMSNorm of {} elements in rows of {}", x.len(), weight.len());
    x.par_chunks_exact_mut(weight.len()).with_min_len(PARALLEL / weight.len() + 1).for_each(|row| {
        scale_row(row, weight, eps);
    });
}

multiversion! {
    fn scale_row(row: &mut [f32], weight: &[f32], eps: f32) {
        let mean = lane_sum(row, |x| x * x) / row.len() as f32;
        let rstd = 1.0 / (mean + eps).sqrt();
        for (x, &w) in row.iter_mut().zip(weight) {
            *x = *x * rstd * w;
        }
    }
}

multiversion! {
    fn swiglu_chunk(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((y, &g), &u) in out.iter_mut().zip(gate).zip(up) {
            *y = g / (1.0 + exp(-g)) * u;
        }
    }
}

/// SwiGLU (Shazeer 2020): `silu(gate) · up`, element by element.
///
/// # Panics
/// If the lengths differ.
pub fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == up.len() && gate.len() == out.len(), "SwiGLU of different lengths");
    out.par_chunks_mut(PARALLEL)
        .zip(gate.par_chunks(PARALLEL).zip(up.par_chunks(PARALLEL)))
        .for_each(|(y, (g, u))| swiglu_chunk(g, u, y));
}

/// As [`swiglu`] with gate and up side by side in each row of `gate_up` `[n, 2·width]`; the result goes to `out`
/// `[n, width]`.
///
/// # Panics
/// If the shapes do not agree.
pub fn swiglu_rows(gate_up: &[f32], width: usize, out: &mut [f32]) {
    assert!(gate_up.len() == 2 * out.len() && out.len().is_multiple_of(width), "SwiGLU of different lengths");
    out.par_chunks_exact_mut(width)
        .zip(gate_up.par_chunks_exact(2 * width))
        .with_min_len(PARALLEL / width + 1)
        .for_each(|(y, row)| swiglu_chunk(&row[..width], &row[width..], y));
}

multiversion! {
    fn add_chunk(x: &mut [f32], y: &[f32]) {
        for (x, &y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }
}

multiversion! {
    fn add_scaled_chunk(x: &mut [f32], scale: f32, y: &[f32]) {
        for (x, &y) in x.iter_mut().zip(y) {
            *x += scale * y;
        }
    }
}

/// `x += scale · y`.
///
/// # Panics
/// If the lengths differ.
pub fn add_scaled(x: &mut [f32], scale: f32, y: &[f32]) {
    assert_eq!(x.len(), y.len(), "a sum of different lengths");
    add_scaled_chunk(x, scale, y);
}

/// Rounds to the nearest bf16, ties to even, and keeps the result as f32.
pub fn round_to_bf16(x: &mut [f32]) {
    x.par_chunks_mut(PARALLEL).for_each(|chunk| {
        for value in chunk {
            *value = half::bf16::from_f32(*value).to_f32();
        }
    });
}

/// `x += y`.
///
/// # Panics
/// If the lengths differ.
pub fn add_assign(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "sum of different lengths");
    x.par_chunks_mut(PARALLEL).zip(y.par_chunks(PARALLEL)).for_each(|(x, y)| add_chunk(x, y));
}

/// Adds `bias` `[d]` to each row of `x` `[n, d]`.
///
/// # Panics
/// If `x` is no whole number of rows.
pub fn add_bias(x: &mut [f32], bias: &[f32]) {
    assert!(x.len().is_multiple_of(bias.len()), "bias of {} for {} elements", bias.len(), x.len());
    x.par_chunks_exact_mut(bias.len()).with_min_len(PARALLEL / bias.len() + 1).for_each(|row| add_chunk(row, bias));
}

multiversion! {
    /// `exp(x − shift)` for each element in place; returns the sum, element i in lane i mod 16.
    pub(super) fn exp_row(row: &mut [f32], shift: f32) -> f32 {
        for x in row.iter_mut() {
            *x = exp(*x - shift);
        }
        lane_sum(row, |x| x)
    }
}

multiversion! {
    /// The largest element; NaN if there is one.
    pub(super) fn max_row(row: &[f32]) -> f32 {
        let larger = |a: f32, b: f32| if b > a || b.is_nan() { b } else { a };
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let mut chunks = row.chunks_exact(LANES);
        for chunk in &mut chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane = larger(*lane, x);
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(chunks.remainder()) {
            *lane = larger(*lane, x);
        }
        lanes.into_iter().fold(f32::NEG_INFINITY, |a, b| if a.is_nan() { a } else { larger(a, b) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_accurate() {
        let mut worst = 0f64;
        for i in -87_000..88_000 {
            let x = i as f32 / 1000.0;
            let exact = f64::from(x).exp();
            worst = worst.max(((f64::from(exp(x)) - exact) / exact).abs());
        }
        assert!(worst < 2.5e-7, "relative error {worst}");
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn rms_norm_by_hand() {
        let (x, w) = ([3.0f32, 4.0, 0.0, 0.0], [1.0f32, 2.0]);
        let (mut y, mut rstd) = ([0.0; 4], [0.0; 2]);
        rms_norm(&x, &w, 1e-6, &mut y, Some(&mut rstd));
        let r = 1.0 / (12.5f32 + 1e-6).sqrt();
        assert_eq!(y, [3.0 * r, 4.0 * r * 2.0, 0.0, 0.0]);
        assert_eq!(rstd[0], r);
        let mut z = x;
        rms_norm_inplace(&mut z, &w, 1e-6);
        assert_eq!(z, y);
    }

    #[test]
    fn swiglu_by_hand() {
        let (gate, up) = ([0.0f32, 1.0, -2.0], [5.0f32, 3.0, 1.0]);
        let mut out = [0.0; 3];
        swiglu(&gate, &up, &mut out);
        for i in 0..3 {
            let expected = gate[i] / (1.0 + (-gate[i]).exp()) * up[i];
            assert!((out[i] - expected).abs() < 1e-6, "{} {expected}", out[i]);
        }
        let mut rows = [0.0; 3];
        swiglu_rows(&[0.0, 1.0, -2.0, 5.0, 3.0, 1.0], 3, &mut rows);
        assert_eq!(rows, out);
    }

    #[test]
    fn maximum_sees_nan() {
        assert_eq!(max_row(&[1.0, 7.0, 3.0]), 7.0);
        let mut row = [0.0; 40];
        row[21] = f32::NAN;
        assert!(max_row(&row).is_nan());
    }
}
