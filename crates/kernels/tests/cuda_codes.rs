//! Matrices in codes on the GPU: their elements against the processor's, bit for bit, and products straight from the codes.
//! Skipped with a message where there is no GPU.
#![cfg(feature = "cuda")]
#![allow(clippy::print_stderr, reason = "tests say what they measured")]

mod support;

use harness_core::Seed;
use harness_kernels::{
    CodeKind, CodedTensor, HostData, HostTensor, Nf4Tensor, Quantization, Scales, Zeros,
    cuda::{DeviceMatrix, Float},
    gguf::{BlockTensor, BlockType},
};
use support::{Matrix, close, gpu, numbers};

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = Seed(seed).stream("bytes", 0);
    (0..len).map(|_| rng.below(256) as u8).collect()
}

/// Blocks of any codes, whose scales are small numbers.
fn blocks(kind: BlockType, rows: usize, cols: usize) -> HostTensor {
    let halves: &[usize] = match kind {
        BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q4K | BlockType::Q5K => &[0, 2],
        BlockType::Q2K => &[80, 82],
        BlockType::Q3K => &[108],
        BlockType::Q6K => &[208],
        BlockType::Q8K => &[],
        _ => &[0],
    };
    let mut all = bytes(rows * cols / kind.elements() * kind.bytes(), kind.code().into());
    for (number, block) in all.chunks_exact_mut(kind.bytes()).enumerate() {
        let scale = 0.004 * (1 + number % 7) as f32;
        for (i, &at) in halves.iter().enumerate() {
            let scale = if i == 0 { scale } else { -0.6 * scale };
            block[at..at + 2].copy_from_slice(&half::f16::from_f32(scale).to_le_bytes());
        }
        if kind == BlockType::Q8K {
            block[..4].copy_from_slice(&scale.to_le_bytes());
        }
    }
    let data = BlockTensor { kind, bytes: all.into(), len: rows * cols };
    HostTensor { shape: vec![rows, cols], data: HostData::Blocks(data) }
}

/// Codes with scales in each type, for groups of columns, blocks and the whole, with zeros and orders.
fn coded(rows: usize, cols: usize) -> Vec<(String, HostTensor)> {
    let scale = |i: usize| 0.01 + 0.001 * (i * 37 % 50) as f32;
    let mut all = vec![];
    for kind in [CodeKind::Nibble, CodeKind::E2m1, CodeKind::Unsigned, CodeKind::Signed, CodeKind::E4m3] {
        let stride = if matches!(kind, CodeKind::Nibble | CodeKind::E2m1) { cols / 2 } else { cols };
        // NaN is no weight.
        let codes: Vec<u8> =
            bytes(rows * stride, 7).iter().map(|b| if b & 0x7f == 0x7f { b - 1 } else { *b }).collect();
        let blocks = [[1, 32], [16, 64], [rows, cols], [1, cols], [1, 48]];
        for (number, block) in blocks.into_iter().enumerate() {
            let groups = cols.div_ceil(block[1]);
            let count = rows.div_ceil(block[0]) * groups;
            let numbers = || (0..count).map(scale);
            let scales = match number {
                0 => Scales::F32(numbers().collect::<Vec<_>>().into()),
                1 => Scales::Bf16(numbers().map(half::bf16::from_f32).collect::<Vec<_>>().into()),
                2 => Scales::Exponents((0..count).map(|i| (117 + i % 5) as u8).collect::<Vec<_>>().into()),
                _ => Scales::F16(numbers().map(half::f16::from_f32).collect::<Vec<_>>().into()),
            };
            let zeros = match (kind, number) {
                (CodeKind::E2m1 | CodeKind::E4m3, _) => Zeros::Same(0),
                (CodeKind::Nibble, 0) => Zeros::Each((0..count).map(|i| (i % 16) as u8).collect::<Vec<_>>().into()),
                (_, 0) => Zeros::Each(bytes(count, 9).into()),
                (CodeKind::Nibble, _) => Zeros::Same(8),
                (CodeKind::Unsigned, _) => Zeros::Same(128),
                (CodeKind::Signed, _) => Zeros::Same(-3),
            };
            let ordered = number == 0 && kind != CodeKind::E4m3;
            let orders = if ordered { vec![false, true] } else { vec![false] };
            for ordered in orders {
                let order = ordered.then(|| (0..cols).map(|col| (col * 7 % groups) as u32).collect::<Vec<_>>().into());
                let tensor = CodedTensor {
                    kind,
                    codes: codes.clone().into(),
                    stride,
                    rows,
                    cols,
                    scales: scales.clone(),
                    block,
                    zeros: zeros.clone(),
                    order,
                    divisor: if kind == CodeKind::Signed { 127.0 } else { 1.0 },
                };
                let name = format!("{kind:?} in {block:?} ordered {ordered}");
                all.push((name, HostTensor { shape: vec![rows, cols], data: HostData::Coded(tensor) }));
            }
        }
    }
    all
}

fn nf4(rows: usize, cols: usize, double: bool) -> HostTensor {
    let options = Quantization { double, ..Quantization::default() };
    let tensor = Nf4Tensor::quantise(&numbers(rows * cols, 3, Float::F32), &options).unwrap();
    HostTensor { shape: vec![rows, cols], data: HostData::Nf4(tensor) }
}

/// Matrices in all formats, of this shape; columns are a multiple of 256.
fn all(rows: usize, cols: usize) -> Vec<(String, HostTensor)> {
    let kinds = (0..40).filter_map(BlockType::from_code).filter(|kind| kind.elements() > 1);
    let mut all: Vec<_> = kinds.map(|kind| (kind.name().to_owned(), blocks(kind, rows, cols))).collect();
    all.extend(coded(rows, cols));
    all.extend([true, false].map(|double| (format!("nf4 double {double}"), nf4(rows, cols, double))));
    all
}

fn rounded(x: f32, float: Float) -> f32 {
    match float {
        Float::F32 => x,
        Float::Bf16 => half::bf16::from_f32(x).to_f32(),
        Float::F16 => half::f16::from_f32(x).to_f32(),
    }
}

#[test]
fn codes_are_widened_as_on_the_processor() {
    let Some(device) = gpu() else { return };
    let (rows, cols) = (37, 512);
    let mut cases = all(rows, cols);
    // Rows that do not begin with eight elements, and fewer than eight in all.
    cases.extend([(9, 7), (1, 5)].map(|(rows, cols)| (format!("nf4 {rows} x {cols}"), nf4(rows, cols, true))));
    for (name, tensor) in cases {
        let (rows, cols) = (tensor.rows(), tensor.cols());
        let expected = tensor.to_f32();
        for float in [Float::F32, Float::Bf16, Float::F16] {
            let matrix = DeviceMatrix::new(&device, float, &[&tensor, &tensor]).unwrap();
            let stored = tensor.data.bytes();
            assert!(
                name.contains("48]") || matrix.bytes() < 2 * stored + 2100,
                "{name}: {} of {stored}",
                matrix.bytes()
            );
            let out = Matrix::zeros(&device, 2 * rows, cols, float);
            matrix.with(&device, |w| device.cast(w, out.view())).unwrap();
            let found = out.read();
            assert_eq!(found.len(), 2 * expected.len());
            for (at, (a, b)) in found.iter().zip(expected.iter().chain(expected.iter())).enumerate() {
                assert_eq!(a.to_bits(), rounded(*b, float).to_bits(), "{name} {} {at}: {a} {b}", float.name());
            }
            let table = DeviceMatrix::new(&device, float, &[&tensor]).unwrap();
            let list: Vec<u32> = [rows - 1, 0, rows / 2, 0].map(|row| row as u32).into();
            let some = Matrix::zeros(&device, list.len(), cols, float);
            table.look_up(&device, &device.bytes(&list).unwrap(), some.view()).unwrap();
            for (found, &row) in some.read().chunks_exact(cols).zip(&list) {
                let row = &expected[row as usize * cols..][..cols];
                assert!(found.iter().zip(row).all(|(a, b)| a.to_bits() == rounded(*b, float).to_bits()), "{name}");
            }
        }
    }
}

#[test]
fn products_with_codes() {
    let Some(device) = gpu() else { return };
    for (rows, cols, most) in [(50, 512, 33), (9000, 256, 32)] {
        for (name, tensor) in all(rows, cols) {
            let wide = tensor.to_f32();
            for float in [Float::Bf16, Float::F16] {
                let matrix = DeviceMatrix::new(&device, float, &[&tensor, &tensor]).unwrap();
                let x = numbers(most * cols, 5, float);
                let product = |n: usize, out: Float| {
                    // Rows of x and y lie further apart than they are long.
                    let x = Matrix::padded(&device, &x[..n * cols], n, cols, 8, float);
                    let y = Matrix::padded(&device, &vec![0.0; n * 2 * rows], n, 2 * rows, 4, out);
                    matrix.multiply(&device, x.view(), y.view()).unwrap();
                    y.read()
                };
                let weights: Vec<f32> = wide.iter().map(|&w| rounded(w, float)).collect();
                let by_row = |x: &[f32]| -> Vec<f32> {
                    let dot = |w: &[f32]| w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum::<f64>();
                    weights.chunks_exact(cols).map(|w| dot(w) as f32).collect()
                };
                let expected: Vec<f32> = x.chunks_exact(cols).take(3).flat_map(|x| by_row(x).repeat(2)).collect();
                let whole = product(most, Float::F32);
                close(&name, Float::F32, &whole[..expected.len()], &expected);
                // A row does not depend on the others, as long as codes are not widened first, or when they are uploaded.
                if name.contains("48]") {
                    continue;
                }
                let few = product(most.min(32), float);
                for n in [1, 8, 11, 17] {
                    let some = product(n.min(most), float);
                    assert!(some.iter().zip(&few).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}: {n} rows");
                }
            }
        }
    }
}
