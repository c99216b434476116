//! The GPU's kernels for blocks other than Llama's against the processor's, in f32, bf16 and f16. Skipped with a message where
//! there is no GPU.
#![cfg(feature = "cuda")]
#![allow(clippy::print_stderr, reason = "tests say what they measured")]

mod support;

use harness_kernels::{
    cpu::{
        activation::{Activation, soft_limit},
        norm::{NormKind, norm_in_place},
        rope::RopeTable,
    },
    cuda::{By, Float, HeadNorm, LatentParts},
};
use support::{Matrix, close, gpu, numbers};

const FLOATS: [Float; 3] = [Float::F32, Float::Bf16, Float::F16];

#[test]
fn norms() {
    let Some(device) = gpu() else { return };
    for float in FLOATS {
        for (kind, heads, width, weighted, biased, own) in [
            (NormKind::Layer, 1, 96, true, true, false),
            (NormKind::Layer, 1, 1030, true, false, false),
            (NormKind::Layer, 1, 515, false, false, false),
            (NormKind::Rms, 1, 300, false, false, false),
            (NormKind::Rms, 3, 32, true, true, false),
            (NormKind::Layer, 5, 24, true, false, true),
            (NormKind::Rms, 5, 24, true, false, true),
            (NormKind::Rms, 2, 7, true, false, true),
        ] {
            let (rows, cols, eps) = (19, heads * width, 1e-5);
            let len = if own { cols } else { width };
            let weight = if weighted { numbers(len, 2, Float::F32) } else { vec![] };
            let bias = if biased { numbers(len, 3, Float::F32) } else { vec![] };
            let x = numbers(rows * cols, 1, float);
            let mut expected = x.clone();
            norm_in_place(kind, &mut expected, width, &weight, &bias, eps);
            let name = format!("norm {kind:?} {heads} {width} {weighted} {biased} {own}");
            let (w, b) = (device.floats(&weight).unwrap(), device.floats(&bias).unwrap());
            let norm = HeadNorm { kind, heads, weight: weighted.then(|| w.row()), bias: biased.then(|| b.row()), eps };
            // Among other columns, and in place.
            let (wide, y) =
                (Matrix::padded(&device, &x, rows, cols, 8, float), Matrix::zeros(&device, rows, cols, float));
            device.norm(wide.view(), norm, y.view()).unwrap();
            close(&name, float, &y.read(), &expected);
            device.norm(wide.view(), norm, wide.view()).unwrap();
            close(&name, float, &wide.read(), &expected);

            // The gradient against differences of the processor's norm.
            let (dy, add) = (numbers(rows * cols, 4, float), numbers(rows * cols, 5, float));
            let x = Matrix::new(&device, &x, rows, cols, float);
            for add in [None, Some(&add)] {
                let d = Matrix::new(&device, &dy, rows, cols, float);
                let added = add.map(|add| Matrix::new(&device, add, rows, cols, float));
                device.norm_backward(d.view(), x.view(), norm, added.as_ref().map(Matrix::view)).unwrap();
                let exact = support::norm_gradient(kind, &x.read(), width, &weight, &dy, eps);
                let exact: Vec<f32> =
                    (0..exact.len()).map(|i| exact[i] as f32 + add.map_or(0.0, |add| add[i])).collect();
                close(&format!("{name} backward"), float, &d.read(), &exact);
            }
        }
    }
}

#[test]
fn rotations() {
    let Some(device) = gpu() else { return };
    let (rows, heads, width, positions) = (23, 3, 20, 50);
    for float in FLOATS {
        for (planes, pairs) in [(10, false), (10, true), (4, false), (3, true)] {
            let frequencies: Vec<f32> = (0..planes).map(|i| 0.7f32.powi(i)).collect();
            let host = RopeTable::new(&frequencies, positions, 1.1).with_heads(width, pairs);
            let table: Vec<f32> = (0..positions).flat_map(|p| [host.angles(p).0, host.angles(p).1].concat()).collect();
            let at: Vec<u32> = (0..rows as u32).map(|i| i * 7 % positions as u32).collect();
            let (table, places) = (device.floats(&table).unwrap(), device.bytes(&at).unwrap());
            for inverse in [false, true] {
                let mut x = numbers(rows * heads * width, 1, float);
                let on = Matrix::padded(&device, &x, rows, heads * width, 8, float);
                let dims = 2 * planes as usize;
                device.rotate(on.view(), heads, dims, pairs, &places, &table, inverse).unwrap();
                host.rotate(&mut x, heads * width, heads, &at, inverse);
                close(&format!("rotation {planes} {pairs} {inverse}"), float, &on.read(), &x);
            }
        }
    }
}

#[test]
fn activations() {
    let Some(device) = gpu() else { return };
    let kinds = [
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Relu,
        Activation::Relu2,
        Activation::Clamped { alpha: 1.702, limit: 1.25 },
        Activation::Xielu { positive: 0.6, negative: 1.3, beta: 0.5, eps: -1e-6 },
    ];
    for float in FLOATS {
        for activation in kinds {
            for (rows, inner) in [(13, 40), (7, 9)] {
                for gated in [false, true] {
                    if !gated && matches!(activation, Activation::Clamped { .. }) {
                        continue;
                    }
                    let cols = if gated { 2 * inner } else { inner };
                    // Away from where functions bend.
                    let bends = |x: f32| [0.0, 1.25, -1.25].iter().any(|at| (x - at).abs() < 0.06);
                    let mut x = numbers(rows * cols, 1, float);
                    x.iter_mut().filter(|x| bends(**x)).for_each(|x| *x += 0.125);
                    let run = |x: &[f32]| {
                        let mut y = vec![0.0; rows * inner];
                        if gated {
                            activation.gated(x, inner, &mut y)
                        } else {
                            activation.plain(x, inner, &mut y)
                        }
                        y
                    };
                    let name = format!("{activation:?} {inner} gated {gated}");
                    let on = Matrix::new(&device, &x, rows, cols, float);
                    let y = Matrix::zeros(&device, rows, inner, float);
                    device.activation(activation, on.view(), y.view()).unwrap();
                    close(&name, float, &y.read(), &run(&x));
                    let dy = numbers(rows * inner, 2, float);
                    let d = Matrix::new(&device, &dy, rows, inner, float);
                    device.activation_backward(activation, d.view(), on.view()).unwrap();
                    let step = 1f32 / 64.0;
                    let part = |from: usize, cols: usize| {
                        let moved = |by: f32| {
                            let of = |(i, x): (usize, &f32)| {
                                if (from..from + cols).contains(&(i % (2 * inner))) { x + by } else { *x }
                            };
                            run(&x.iter().enumerate().map(of).collect::<Vec<_>>())
                        };
                        let (up, down) = (moved(step), moved(-step));
                        (0..rows * inner).map(|i| dy[i] * (up[i] - down[i]) / (2.0 * step)).collect::<Vec<f32>>()
                    };
                    let expected: Vec<f32> = if gated {
                        let (gate, up) = (part(0, inner), part(inner, inner));
                        let both = gate.chunks_exact(inner).zip(up.chunks_exact(inner));
                        both.flat_map(|(gate, up)| [gate, up].concat()).collect()
                    } else {
                        part(0, 2 * inner)
                    };
                    let worst = support::error(&on.read(), &expected);
                    assert!(worst < if float == Float::F32 { 1e-3 } else { 1e-2 }, "{name} backward: {worst:e}");
                }
            }
        }
    }
}

#[test]
fn factors_and_limits() {
    let Some(device) = gpu() else { return };
    for float in FLOATS {
        for (rows, cols) in [(11, 36), (5, 7)] {
            let (x, y) = (numbers(rows * cols, 1, float), numbers(rows * cols, 2, float));
            let on = |data: &[f32]| Matrix::padded(&device, data, rows, cols, 4, float);
            let check = |name: &str, run: &dyn Fn(&Matrix<'_>), expected: &dyn Fn(usize) -> f32| {
                let at = on(&y);
                run(&at);
                let expected: Vec<f32> = (0..rows * cols).map(expected).collect();
                close(name, float, &at.read(), &expected);
            };
            let source = on(&x);
            check("scale", &|m| device.scale(0.3, m.view()).unwrap(), &|i| y[i] * 0.3);
            check("clip", &|m| device.clip(0.5, m.view()).unwrap(), &|i| y[i].clamp(-0.5, 0.5));
            let mut limited = y.clone();
            soft_limit(&mut limited, 1.5);
            check("soft limit", &|m| device.soft_limit(1.5, m.view()).unwrap(), &|i| limited[i]);
            check("add", &|m| device.add_scaled(-0.7, source.view(), m.view()).unwrap(), &|i| y[i] - 0.7 * x[i]);
            let bounded = on(&x.iter().map(|x| x.clamp(-1.0, 1.0)).collect::<Vec<_>>());
            let held = |i: usize| if x[i].abs() < 1.0 { y[i] } else { 0.0 };
            check("clip backward", &|m| device.clip_backward(1.0, bounded.view(), m.view()).unwrap(), &held);
            let factors = numbers(rows.max(cols), 3, Float::F32);
            let by = device.floats(&factors).unwrap();
            let logistic = |x: f32| 1.0 / (1.0 + (-x).exp());
            check("rows", &|m| device.scale_by(&by, By::Row, m.view()).unwrap(), &|i| y[i] * factors[i / cols]);
            check("columns", &|m| device.scale_by(&by, By::Column, m.view()).unwrap(), &|i| y[i] * factors[i % cols]);
            check("sigmoids", &|m| device.scale_by(&by, By::RowSigmoid, m.view()).unwrap(), &|i| {
                y[i] * logistic(factors[i / cols])
            });
        }
    }
    let x = numbers(6 * 300, 1, Float::F32);
    let (on, norms) = (Matrix::new(&device, &x, 6, 300, Float::F32), device.alloc(6, Float::F32).unwrap());
    device.row_norms(on.view(), &norms).unwrap();
    let expected: Vec<f32> = x.chunks_exact(300).map(|row| row.iter().map(|x| x * x).sum::<f32>().sqrt()).collect();
    close("lengths", Float::F32, &device.read(norms.row()).unwrap(), &expected);
}

#[test]
fn mixtures_latents_and_convolutions() {
    let Some(device) = gpu() else { return };
    for float in FLOATS {
        let (rows, cols, all) = (9, 20, 40);
        let x = numbers(all * cols, 1, float);
        let places: Vec<u32> = (0..3 * rows as u32).map(|i| i * 13 % all as u32).collect();
        let weights = numbers(3 * rows, 2, Float::F32);
        let (on, y) = (Matrix::new(&device, &x, all, cols, float), Matrix::zeros(&device, rows, cols, float));
        let (at, by) = (device.bytes(&places).unwrap(), device.floats(&weights).unwrap());
        device.combine(on.view(), &at, &by, y.view()).unwrap();
        let sum = |i: usize| -> f32 {
            (0..3).map(|k| i / cols * 3 + k).map(|p| weights[p] * x[places[p] as usize * cols + i % cols]).sum()
        };
        close("mixture", float, &y.read(), &(0..rows * cols).map(sum).collect::<Vec<_>>());

        let parts = LatentParts { heads: 3, nope: 10, rope: 4, value: 12 };
        let (head, width) = (14, 3 * 14);
        let (q, shared, kv) =
            (numbers(rows * width, 3, float), numbers(rows * 4, 4, float), numbers(rows * 3 * 22, 5, float));
        let views = [(&q, width), (&shared, 4), (&kv, 66)]
            .map(|(data, cols)| Matrix::padded(&device, data, rows, cols, 8, float));
        let out = Matrix::zeros(&device, rows, 3 * width, float);
        device.latent_heads([views[0].view(), views[1].view(), views[2].view()], parts, out.view()).unwrap();
        let expected = (0..rows * 3 * width).map(|i| {
            let (row, part, h, c) = (i / (3 * width), i / width % 3, i % width / head, i % head);
            let (q, kv) = (&q[row * width + h * head..], &kv[row * 66 + h * 22..]);
            match part {
                0 => {
                    if c < 4 {
                        q[10 + c]
                    } else {
                        q[c - 4]
                    }
                }
                1 => {
                    if c < 4 {
                        shared[row * 4 + c]
                    } else {
                        kv[c - 4]
                    }
                }
                _ => {
                    if c < 12 {
                        kv[10 + c]
                    } else {
                        0.0
                    }
                }
            }
        });
        close("latent heads", float, &out.read(), &expected.collect::<Vec<_>>());

        let (width, taps, slots) = (10, 3, 30);
        let (x, held) = (numbers(rows * 3 * width, 6, float), numbers(slots * width, 7, float));
        let own: Vec<u32> = (0..rows as u32).map(|i| i * 3 + 1).collect();
        let (on, values) =
            (Matrix::new(&device, &x, rows, 3 * width, float), Matrix::new(&device, &held, slots, width, float));
        device.convolution_input(on.view(), &device.bytes(&own).unwrap(), values.view()).unwrap();
        let stored = values.read();
        let expected: Vec<f32> = (0..slots * width)
            .map(|i| {
                let row = own.iter().position(|&slot| slot as usize == i / width);
                row.map_or(held[i], |row| x[row * 3 * width + i % width] * x[row * 3 * width + 2 * width + i % width])
            })
            .collect();
        close("convolution's input", float, &stored, &expected);
        let places: Vec<u32> =
            (0..(rows * taps) as u32).map(|i| if i % 5 == 0 { u32::MAX } else { i * 11 % slots as u32 }).collect();
        let (factors, bias) = (numbers(width * taps, 8, Float::F32), numbers(width, 9, Float::F32));
        for biased in [false, true] {
            let y = Matrix::zeros(&device, rows, width, float);
            let (at, by, add) =
                (device.bytes(&places).unwrap(), device.floats(&factors).unwrap(), device.floats(&bias).unwrap());
            device.convolution(values.view(), &at, &by, biased.then_some(&add), on.view(), y.view()).unwrap();
            let expected = (0..rows * width).map(|i| {
                let (row, c) = (i / width, i % width);
                let seen = (0..taps).filter(|t| places[row * taps + t] != u32::MAX);
                let sum: f32 =
                    seen.map(|t| factors[c * taps + t] * stored[places[row * taps + t] as usize * width + c]).sum();
                (sum + if biased { bias[c] } else { 0.0 }) * x[row * 3 * width + width + c]
            });
            close("convolution", float, &y.read(), &expected.collect::<Vec<_>>());
        }
    }
}
