//! Products with matrices in codes on a GPU, for few rows, against the same in bf16: `cargo bench -p harness-kernels
//! --features cuda --bench gpu_codes [ROWS ...]`. One line a product: microseconds, and the bytes of the matrix a second.
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::time::Instant;

use harness_core::Seed;
use harness_kernels::{
    HostData, HostTensor, KernelError, Nf4Tensor, Quantization,
    cuda::{Device, DeviceMatrix, Float},
    gguf::{BlockTensor, BlockType},
};

const SHAPES: [(usize, usize); 3] = [(4096, 4096), (22016, 4096), (2048, 2048)];
const ROWS: [usize; 6] = [1, 4, 8, 16, 32, 64];
const REPEATS: usize = 40;

fn tensor(values: &[f32], shape: [usize; 2], stored: &str) -> HostTensor {
    let kind = (0..40).filter_map(BlockType::from_code).find(|kind| kind.name() == stored);
    let data = match (stored, kind) {
        ("nf4", _) => HostData::Nf4(Nf4Tensor::quantise(values, &Quantization::default()).expect("finite values")),
        (_, Some(kind)) => {
            let bytes = kind.quantise(values).expect("whole blocks");
            HostData::Blocks(BlockTensor { kind, bytes: bytes.into(), len: values.len() })
        }
        _ => HostData::F32(values.to_vec().into()),
    };
    HostTensor { shape: shape.to_vec(), data }
}

fn run(rows_of_x: &[usize]) -> Result<(), KernelError> {
    let device = Device::open(0)?;
    for (rows, cols) in SHAPES {
        let mut rng = Seed(1).stream("bench", 0);
        let values: Vec<f32> = (0..rows * cols).map(|_| rng.normal() as f32 * 0.02).collect();
        for stored in ["float", "nf4", "q4_k", "q6_k"] {
            // Several copies, so that none is in the cache from the time before.
            let host = tensor(&values, [rows, cols], stored);
            let copies = (200 << 20) / host.data.bytes() + 2;
            let all: Vec<DeviceMatrix> =
                (0..copies).map(|_| DeviceMatrix::new(&device, Float::Bf16, &[&host])).collect::<Result<_, _>>()?;
            for &n in rows_of_x {
                let (x, y) = (device.alloc(n * cols, Float::Bf16)?, device.alloc(n * rows, Float::Bf16)?);
                device.write(&values[..n * cols], x.row())?;
                let (x, y) = (x.view(0, n, cols, cols), y.view(0, n, rows, rows));
                let mut times = vec![];
                for _ in 0..5 {
                    device.synchronize()?;
                    let start = Instant::now();
                    for i in 0..REPEATS {
                        all[i % copies].multiply(&device, x, y)?;
                    }
                    device.synchronize()?;
                    times.push(start.elapsed().as_secs_f64() / REPEATS as f64);
                }
                times.sort_by(f64::total_cmp);
                let rate = all[0].bytes() as f64 / times[2] / 1e12;
                println!("{rows} x {cols} {stored} {n}: {:.1} us, {rate:.2} TB/s", times[2] * 1e6);
            }
        }
    }
    Ok(())
}

fn main() {
    let given: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    if let Err(error) = run(if given.is_empty() { &ROWS } else { &given }) {
        println!("{error}");
    }
}
