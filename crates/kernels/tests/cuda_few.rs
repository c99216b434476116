//! Products of few rows with the norm before them and the rotation, activation or sum after them, against sums in f64.
//! Skipped with a message where there is no GPU.
#![cfg(feature = "cuda")]

mod support;

use harness_kernels::{
    HostTensor,
    cpu::{activation::Activation, rope::RopeTable},
    cuda::{Device, DeviceBuffer, DeviceMatrix, FewKeys, FewLinear, FewRows, Float, Rotation},
};
use support::{Matrix, gpu, numbers};

const EPS: f32 = 1e-5;

/// Rows, a matrix and a norm, on the host and on the GPU.
struct Given<'d> {
    x: Vec<f32>,
    w: Vec<f32>,
    norm: Vec<f32>,
    bias: Vec<f32>,
    rows: Matrix<'d>,
    weight: DeviceMatrix,
    short: DeviceBuffer,
    added: DeviceBuffer,
    cols: usize,
}

impl<'d> Given<'d> {
    fn new(device: &'d Device, rows: usize, cols: usize, out: usize) -> Self {
        let bf16 = |n, seed| numbers(n, seed, Float::Bf16);
        let (x, w) = (bf16(rows * cols, 1), bf16(out * cols, 2));
        let norm: Vec<f32> =
            bf16(cols, 3).iter().map(|w| 1.0 + w / 2.0).map(|w| f32::from_bits(w.to_bits() & !0xffff)).collect();
        let bias = numbers(out, 4, Float::F32);
        let short = device.alloc(cols, Float::Bf16).unwrap();
        device.write(&norm, short.row()).unwrap();
        let weight = DeviceMatrix::new(device, Float::Bf16, &[&HostTensor::from_f32([out, cols], w.clone())]).unwrap();
        let (on, added) = (Matrix::padded(device, &x, rows, cols, 8, Float::Bf16), device.floats(&bias).unwrap());
        Self { x, w, norm, bias, rows: on, weight, short, added, cols }
    }

    fn rows(&self, normed: bool) -> FewRows<'_> {
        FewRows { rows: self.rows.view(), norm: normed.then_some((&self.short, EPS)) }
    }

    fn linear(&self, bias: bool) -> FewLinear<'_> {
        FewLinear { weight: &self.weight, bias: bias.then_some(&self.added) }
    }

    /// How large sums mostly are.
    fn usual(&self) -> f64 {
        (self.cols as f64).sqrt()
    }

    /// All products in f64.
    fn expected(&self, normed: bool, bias: bool) -> Vec<f64> {
        let of_row = |x: &[f32]| {
            let squares: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            let factor = if normed { 1.0 / (squares / self.cols as f64 + f64::from(EPS)).sqrt() } else { 1.0 };
            let weight = |c: usize| if normed { f64::from(self.norm[c]) } else { 1.0 };
            let x: Vec<f64> = x.iter().enumerate().map(|(c, &x)| f64::from(x) * factor * weight(c)).collect();
            let product = |w: &[f32]| w.iter().zip(&x).map(|(&w, x)| f64::from(w) * x).sum::<f64>();
            let bias = |i: usize| if bias { f64::from(self.bias[i]) } else { 0.0 };
            self.w.chunks_exact(self.cols).enumerate().map(|(i, w)| product(w) + bias(i)).collect::<Vec<f64>>()
        };
        self.x.chunks_exact(self.cols).flat_map(of_row).collect()
    }
}

/// Asserts that numbers agree as far as they are large, or as `usual` ones are. Rows times the norm's weights are rounded to 8 bits
/// before they are multiplied, sums before they are rotated, and results.
fn check(name: &str, found: &[f32], usual: f64, expected: impl IntoIterator<Item = f64>) {
    let (mut worst, mut count) = (0.0, 0);
    for (&found, expected) in found.iter().zip(expected) {
        let error = (f64::from(found) - expected).abs() / (expected.abs() + usual);
        assert!(error.is_finite(), "{name}: {found}, expected {expected}");
        worst = f64::max(worst, error);
        count += 1;
    }
    assert!(count == found.len() && worst < 1.5e-2, "{name}: {worst} in {count} of {}", found.len());
}

/// Numbers of rows, and of columns: also such as are no multiple of what a warp or a block takes.
const SIZES: [(usize, usize); 9] =
    [(1, 576), (7, 104), (16, 576), (17, 8), (32, 768), (33, 576), (64, 576), (5, 960), (32, 1016)];

#[test]
fn linears_are_sums() {
    let Some(device) = gpu() else { return };
    for (rows, cols) in [&SIZES[..], &[(19, 1536), (3, 3072)]].concat() {
        for out in [1, 61, 128] {
            let given = Given::new(&device, rows, cols, out);
            for (normed, bias) in [(false, false), (true, false), (true, true)] {
                let name = format!("{rows} x {cols} x {out} {normed} {bias}");
                let y = Matrix::zeros(&device, rows, out, Float::Bf16);
                device.few_linear(given.rows(normed), given.linear(bias), false, y.view()).unwrap();
                check(&name, &y.read(), given.usual(), given.expected(normed, bias));
            }
            let before = numbers(rows * out, 5, Float::Bf16);
            let y = Matrix::new(&device, &before, rows, out, Float::Bf16);
            device.few_linear(given.rows(false), given.linear(false), true, y.view()).unwrap();
            let expected = given.expected(false, false).into_iter().zip(&before).map(|(x, &y)| x + f64::from(y));
            check("sum", &y.read(), given.usual(), expected);
        }
    }
}

/// What becomes of a row does not depend on how many stand beside it.
#[test]
fn rows_are_the_same_alone() {
    let Some(device) = gpu() else { return };
    for cols in [576, 960] {
        let given = Given::new(&device, 40, cols, 72);
        let all = Matrix::zeros(&device, 40, 72, Float::Bf16);
        device.few_linear(given.rows(true), given.linear(true), false, all.view()).unwrap();
        let all = all.read();
        for (first, count) in [(0, 1), (3, 16), (20, 20), (39, 1)] {
            let part = Matrix::zeros(&device, count, 72, Float::Bf16);
            let rows = FewRows { rows: given.rows.view().rows(first, count), ..given.rows(true) };
            device.few_linear(rows, given.linear(true), false, part.view()).unwrap();
            assert_eq!(part.read(), all[first * 72..][..count * 72], "{cols} {first} {count}");
        }
    }
}

#[test]
fn gates_are_activated() {
    let Some(device) = gpu() else { return };
    for (rows, cols) in SIZES {
        for inner in [8, 40, 104] {
            for activation in [Activation::Silu, Activation::Gelu] {
                let given = Given::new(&device, rows, cols, 2 * inner);
                let y = Matrix::zeros(&device, rows, inner, Float::Bf16);
                device.few_gated(given.rows(true), &given.weight, activation, y.view()).unwrap();
                let products = given.expected(true, false);
                let products: Vec<f32> = products.into_iter().map(|x| x as f32).collect();
                let mut expected = vec![0.0; rows * inner];
                activation.gated(&products, inner, &mut expected);
                let (usual, expected) = (given.usual().powi(2), expected.into_iter().map(f64::from));
                check(&format!("{rows} x {cols} x {inner}"), &y.read(), usual, expected);
            }
        }
    }
}

#[test]
fn heads_are_rotated_on_their_way() {
    let Some(device) = gpu() else { return };
    for (rows, cols) in SIZES {
        for (heads, kv_heads, width) in [(9, 3, 64), (2, 1, 16)] {
            let (q_dim, kv_dim, places) = (heads * width, kv_heads * width, 100);
            let given = Given::new(&device, rows, cols, q_dim + 2 * kv_dim);
            let frequencies: Vec<f32> = (0..width as i32 / 2).map(|i| 0.7f32.powi(i)).collect();
            let host = RopeTable::new(&frequencies, 50, 1.1).with_heads(width, false);
            let table: Vec<f32> = (0..50).flat_map(|p| [host.angles(p).0, host.angles(p).1].concat()).collect();
            let positions: Vec<u32> = (0..rows as u32).map(|i| i * 7 % 50).collect();
            let slots: Vec<u32> = (0..rows as u32).map(|i| i * 3 % places as u32).collect();
            let table_on = device.floats(&table).unwrap();
            let (positions_on, slots_on) = (device.bytes(&positions).unwrap(), device.bytes(&slots).unwrap());
            let cache = || Matrix::zeros(&device, places, kv_dim, Float::Bf16);
            let (q, keys, values) = (Matrix::zeros(&device, rows, q_dim, Float::Bf16), cache(), cache());
            let to = FewKeys {
                rotation: Rotation { table: &table_on, dims: width, pairs: false },
                positions: &positions_on,
                slots: &slots_on,
                cache: [keys.view(), values.view()],
            };
            device.few_project(given.rows(true), given.linear(true), [heads, kv_heads], to, q.view()).unwrap();
            let mut products = given.expected(true, true);
            for (row, &position) in products.chunks_exact_mut(q_dim + 2 * kv_dim).zip(&positions) {
                let (cos, sin) = host.angles(position as usize);
                for head in row[..q_dim + kv_dim].chunks_exact_mut(width) {
                    for i in 0..width / 2 {
                        let (a, b, c, s) = (head[i], head[i + width / 2], f64::from(cos[i]), f64::from(sin[i]));
                        (head[i], head[i + width / 2]) = (a * c - b * s, b * c + a * s);
                    }
                }
            }
            let part = |from: usize, len: usize| {
                products.chunks_exact(q_dim + 2 * kv_dim).flat_map(move |row| row[from..from + len].to_vec())
            };
            let stored = |cache: Vec<f32>| -> Vec<f32> {
                slots.iter().flat_map(|&slot| cache[slot as usize * kv_dim..][..kv_dim].to_vec()).collect()
            };
            let name = format!("{rows} x {cols}, {heads} heads");
            check(&name, &q.read(), given.usual(), part(0, q_dim));
            check(&name, &stored(keys.read()), given.usual(), part(q_dim, kv_dim));
            check(&name, &stored(values.read()), given.usual(), part(q_dim + kv_dim, kv_dim));
        }
    }
}
