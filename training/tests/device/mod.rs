//! The same operations on the processor and on a GPU.

use harness_core::Seed;
use harness_kernels::cuda::Float;
use harness_training::backend::{Backend, CudaBackend, Span, SpanMut};

/// The GPU, or nothing where there is none.
pub(crate) fn gpu(float: Float) -> Option<CudaBackend> {
    CudaBackend::new(0, float).inspect_err(|error| eprintln!("skipped: {error}")).ok()
}

/// Numbers that a type holds exactly, so that both sides begin with the same ones.
pub(crate) fn numbers(len: usize, seed: u64, float: Float) -> Vec<f32> {
    let mut rng = Seed(seed).stream("numbers", 0);
    let draw = (0..len).map(|_| rng.normal() as f32);
    match float {
        Float::F32 => draw.collect(),
        Float::Bf16 => draw.map(|x| half::bf16::from_f32(x).to_f32()).collect(),
        Float::F16 => draw.map(|x| half::f16::from_f32(x).to_f32()).collect(),
    }
}

/// A buffer of activations.
pub(crate) fn activations<B: Backend>(b: &B, data: &[f32]) -> B::Buf {
    let mut buf = b.alloc(data.len()).unwrap();
    b.write(data, SpanMut { buf: &mut buf, at: 0, len: data.len() }).unwrap();
    buf
}

pub(crate) fn all<B: Backend>(b: &B, buf: &B::Buf, len: usize) -> Vec<f32> {
    b.read(Span { buf, at: 0, len }).unwrap()
}

/// ‖a - b‖ / ‖b‖.
pub(crate) fn error(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference: f64 = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    (difference / b.iter().map(|&b| f64::from(b).powi(2)).sum::<f64>().max(1e-30)).sqrt()
}

/// Runs the same operations on both sides and compares what they leave.
macro_rules! compare {
    ($name:expr, |$b:ident, $float:ident| $body:expr) => {
        for $float in [Float::F32, Float::Bf16, Float::F16] {
            let Some(device) = gpu($float) else { return };
            let expected: Vec<Vec<f32>> = {
                let $b = &CpuBackend::new();
                $body
            };
            let found: Vec<Vec<f32>> = {
                let $b = &device;
                $body
            };
            let tolerance = if $float == Float::F32 { 1e-5 } else { 1e-2 };
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let error = error(found, expected);
                eprintln!("{} {} [{i}]: {error:.1e}", $name, $float.name());
                assert!(error <= tolerance, "{} {} [{i}]: relative error {error:e}", $name, $float.name());
            }
        }
    };
}
pub(crate) use compare;
