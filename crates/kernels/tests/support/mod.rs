//! Matrices on the GPU with numbers that both sides hold exactly, and how far results differ.
#![allow(clippy::print_stderr, dead_code, reason = "tests say what they measured; not every test needs all of it")]

use harness_core::Seed;
use harness_kernels::{
    cpu::norm::NormKind,
    cuda::{Device, DeviceBuffer, Float, View},
};

/// The GPU, or nothing where there is none.
pub(crate) fn gpu() -> Option<Device> {
    Device::open(0).inspect_err(|error| eprintln!("skipped: {error}")).ok()
}

/// Numbers that a type holds exactly.
pub(crate) fn numbers(len: usize, seed: u64, float: Float) -> Vec<f32> {
    let mut rng = Seed(seed).stream("numbers", 0);
    (0..len).map(|_| rounded(rng.normal() as f32, float)).collect()
}

fn rounded(x: f32, float: Float) -> f32 {
    match float {
        Float::F32 => x,
        Float::Bf16 => half::bf16::from_f32(x).to_f32(),
        Float::F16 => half::f16::from_f32(x).to_f32(),
    }
}

/// A matrix on the GPU, whose rows may lie further apart than they are long.
pub(crate) struct Matrix<'d> {
    device: &'d Device,
    buffer: DeviceBuffer,
    rows: usize,
    cols: usize,
    pitch: usize,
}

impl<'d> Matrix<'d> {
    pub(crate) fn new(device: &'d Device, data: &[f32], rows: usize, cols: usize, float: Float) -> Self {
        Self::padded(device, data, rows, cols, 0, float)
    }

    pub(crate) fn zeros(device: &'d Device, rows: usize, cols: usize, float: Float) -> Self {
        Self::new(device, &vec![0.0; rows * cols], rows, cols, float)
    }

    /// With so many columns of other numbers behind every row.
    pub(crate) fn padded(
        device: &'d Device,
        data: &[f32],
        rows: usize,
        cols: usize,
        more: usize,
        float: Float,
    ) -> Self {
        let pitch = cols + more;
        let all: Vec<f32> = data
            .chunks_exact(cols)
            .flat_map(|row| row.iter().copied().chain((0..more).map(|i| 7.0 + i as f32)))
            .collect();
        let buffer = device.alloc(rows * pitch, float).unwrap();
        device.write(&all, buffer.row()).unwrap();
        Self { device, buffer, rows, cols, pitch }
    }

    pub(crate) fn view(&self) -> View<'_> {
        self.buffer.view(0, self.rows, self.cols, self.pitch)
    }

    /// The elements; what lies behind the rows must not have changed.
    pub(crate) fn read(&self) -> Vec<f32> {
        let all = self.device.read(self.buffer.row()).unwrap();
        all.chunks_exact(self.pitch)
            .flat_map(|row| {
                assert!(row[self.cols..].iter().enumerate().all(|(i, x)| *x == 7.0 + i as f32), "written behind a row");
                row[..self.cols].to_vec()
            })
            .collect()
    }
}

/// ‖a - b‖ / ‖b‖; infinite where a number is missing.
pub(crate) fn error(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference: f64 = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    let error = (difference / b.iter().map(|&b| f64::from(b).powi(2)).sum::<f64>().max(1e-30)).sqrt();
    if error.is_nan() { f64::INFINITY } else { error }
}

/// Asserts that results agree as far as their type allows.
pub(crate) fn close(name: &str, float: Float, found: &[f32], expected: &[f32]) {
    let error = error(found, expected);
    let tolerance = if float == Float::F32 { 1e-5 } else { 1e-2 };
    assert!(error <= tolerance, "{name} {}: relative error {error:e}", float.name());
}

/// The gradient of `Σ dy · norm(x)` by x in f64: differences of the norm in f64.
pub(crate) fn norm_gradient(kind: NormKind, x: &[f32], width: usize, weight: &[f32], dy: &[f32], eps: f32) -> Vec<f64> {
    let value = |row: usize, x: &[f64]| -> f64 {
        let n = width as f64;
        let mean = if kind == NormKind::Layer { x.iter().sum::<f64>() / n } else { 0.0 };
        let root = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n + f64::from(eps)).sqrt();
        let of = |c: usize| {
            let w = if weight.is_empty() { 1.0 } else { f64::from(weight[(row * width + c) % weight.len()]) };
            f64::from(dy[row * width + c]) * w * (x[c] - mean) / root
        };
        (0..width).map(of).sum()
    };
    let mut gradient = vec![];
    for (row, x) in x.chunks_exact(width).enumerate() {
        let mut x: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        for c in 0..width {
            let (at, step) = (x[c], 1e-5);
            x[c] = at + step;
            let up = value(row, &x);
            x[c] = at - step;
            gradient.push((up - value(row, &x)) / (2.0 * step));
            x[c] = at;
        }
    }
    gradient
}
