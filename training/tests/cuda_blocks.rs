//! What blocks other than Llama's compute on a GPU, against the processor.
#![cfg(feature = "cuda")]
#![allow(clippy::print_stderr, reason = "tests say what they measured")]

mod device;

use device::{activations, all, compare, error, gpu, numbers};
use harness_kernels::cuda::Float;
use harness_training::backend::{
    Activation, AttentionScores, AttentionShape, CpuBackend, FrozenNorm, HeadRuns, Kernels, Mat, MatMut, Memory,
    NormKind, RotaryShape, Span,
};

#[test]
fn norms() {
    for (cols, spans, weights) in [(96, 1, 1), (96, 4, 1), (96, 4, 4), (30, 3, 0)] {
        for kind in [NormKind::Rms, NormKind::Layer] {
            compare!(format!("norm {cols} {spans} {weights} {kind:?}"), |b, float| {
                let (rows, n) = (37, cols / spans * weights);
                let (x, weight) =
                    (activations(b, &numbers(rows * cols, 1, float)), b.upload(&numbers(n, 2, Float::F32)).unwrap());
                let span = (n > 0).then_some(Span { buf: &weight, at: 0, len: n });
                let norm = FrozenNorm { kind, weight: span, bias: span, eps: 1e-5 };
                let (mut y, mut rstd) = (b.alloc(rows * cols).unwrap(), b.alloc_statistics(rows * spans).unwrap());
                b.norm(Mat::new(&x, 0, rows, cols), spans, norm, MatMut::new(&mut y, 0, rows, cols), &mut rstd)
                    .unwrap();
                let mut d = activations(b, &numbers(rows * cols, 3, float));
                let to = MatMut::new(&mut d, 0, rows, cols);
                b.norm_backward(to, spans, Mat::new(&x, 0, rows, cols), norm, &rstd).unwrap();
                vec![all(b, &y, rows * cols), all(b, &d, rows * cols)]
            });
        }
    }
}

#[test]
fn rotations_of_parts_of_heads() {
    for (dims, pairs) in [(20, true), (12, false), (12, true)] {
        compare!(format!("rotation {dims} {pairs}"), |b, float| {
            let (rows, heads, dim) = (23, 3, 20);
            let mut x = activations(b, &numbers(rows * heads * dim, 1, float));
            let positions = b.ints(&(0..rows as u32).map(|i| i * 5 % 31).collect::<Vec<_>>()).unwrap();
            let table = b.upload(&numbers(31 * dims, 2, Float::F32)).unwrap();
            let shape = RotaryShape { heads, dims, pairs };
            b.rope(MatMut::new(&mut x, 0, rows, heads * dim), shape, &positions, &table, false).unwrap();
            let rotated = all(b, &x, rows * heads * dim);
            b.rope(MatMut::new(&mut x, 0, rows, heads * dim), shape, &positions, &table, true).unwrap();
            vec![rotated, all(b, &x, rows * heads * dim)]
        });
    }
}

#[test]
fn activations_of_all_kinds() {
    let xielu = Activation::Xielu { positive: 0.7, negative: 1.3, beta: 0.5, eps: -1e-6 };
    let clamped = Activation::Clamped { alpha: 1.702, limit: 1.0 };
    let plain = [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Relu2, xielu];
    let both = plain.into_iter().flat_map(|kind| [(kind, 2), (kind, 1)]).chain([(clamped, 2)]);
    for ((kind, wide), inner) in both.flat_map(|case| [(case, 64), (case, 30)]) {
        compare!(format!("{kind:?} {wide} {inner}"), |b, float| {
            let rows = 23;
            let mut x = activations(b, &numbers(rows * wide * inner, 1, float));
            let mut y = b.alloc(rows * inner).unwrap();
            b.activate(kind, Mat::new(&x, 0, rows, wide * inner), MatMut::new(&mut y, 0, rows, inner)).unwrap();
            let dy = activations(b, &numbers(rows * inner, 2, float));
            let to = MatMut::new(&mut x, 0, rows, wide * inner);
            b.activate_backward(kind, Mat::new(&dy, 0, rows, inner), to).unwrap();
            vec![all(b, &y, rows * inner), all(b, &x, rows * wide * inner)]
        });
    }
}

#[test]
fn factors_limits_and_rows() {
    compare!("rows", |b, float| {
        let (rows, cols) = (29, 40);
        let n = rows * cols;
        let x = activations(b, &numbers(n, 1, float));
        let mut y = activations(b, &numbers(n, 2, float));
        let mut left = vec![];
        let mut dots = b.alloc_statistics(rows).unwrap();
        b.row_dots(Mat::new(&x, 0, rows, cols), Mat::new(&y, 0, rows, cols), &mut dots).unwrap();
        left.push(all(b, &dots, rows));
        let mut sums = b.alloc_statistics(cols).unwrap();
        b.column_dots(Mat::new(&x, 0, rows, cols), Mat::new(&y, 0, rows, cols), &mut sums).unwrap();
        left.push(all(b, &sums, cols));
        let columns = b.upload(&numbers(cols, 7, Float::F32)).unwrap();
        let mut z = activations(b, &numbers(n, 8, float));
        b.scale_columns(MatMut::new(&mut z, 0, rows, cols), &columns).unwrap();
        left.push(all(b, &z, n));
        let places = b.ints(&(0..9).map(|i| i * 3).collect::<Vec<_>>()).unwrap();
        b.add_rows(Mat::new(&x, 0, 9, cols), &places, MatMut::new(&mut y, 0, rows, cols)).unwrap();
        b.scale(MatMut::new(&mut y, 0, rows, cols).columns(3, 20), 0.4).unwrap();
        let factors = b.upload(&numbers(rows, 3, Float::F32)).unwrap();
        b.scale_rows(MatMut::new(&mut y, 0, rows, cols).columns(8, 16), &factors).unwrap();
        left.push(all(b, &y, n));
        // Of numbers that both sides hold exactly, as rounding may bring others over the limit.
        let mut clipped = activations(b, &numbers(n, 6, float));
        b.clip(MatMut::new(&mut clipped, 0, rows, cols), 0.75).unwrap();
        let mut d = activations(b, &numbers(n, 4, float));
        b.clip_backward(Mat::new(&clipped, 0, rows, cols), 0.75, MatMut::new(&mut d, 0, rows, cols)).unwrap();
        left.extend([all(b, &clipped, n), all(b, &d, n)]);
        let mut limited = activations(b, &numbers(n, 5, float));
        b.soft_limit(MatMut::new(&mut limited, 0, rows, cols), 1.5).unwrap();
        b.soft_limit_backward(Mat::new(&limited, 0, rows, cols), 1.5, MatMut::new(&mut d, 0, rows, cols)).unwrap();
        left.extend([all(b, &limited, n), all(b, &d, n)]);
        // Four heads of 6 from a run of their own, and from one that they share.
        let (own, shared) = (HeadRuns { first: 2, step: 9 }, HeadRuns { first: 5, step: 0 });
        for (from, to) in [(own, HeadRuns { first: 0, step: 10 }), (shared, own), (own, shared)] {
            b.add_heads((Mat::new(&x, 0, rows, cols), from), (MatMut::new(&mut d, 0, rows, cols), to), 4, 6).unwrap();
            left.push(all(b, &d, n));
        }
        left
    });
}

#[test]
fn short_convolutions() {
    compare!("convolution", |b, float| {
        let (rows, width, taps) = (31, 24, 3);
        let bounds = b.ints(&[0, 2, 2, 17, 31]).unwrap();
        let mut x = activations(b, &numbers(rows * 3 * width, 1, float));
        let factors = b.upload(&numbers(width * taps, 2, Float::F32)).unwrap();
        let bias = b.upload(&numbers(width, 3, Float::F32)).unwrap();
        let mut y = b.alloc(rows * width).unwrap();
        let from = Mat::new(&x, 0, rows, 3 * width);
        b.convolve(from, &factors, Some(&bias), &bounds, MatMut::new(&mut y, 0, rows, width)).unwrap();
        let dy = activations(b, &numbers(rows * width, 4, float));
        let to = MatMut::new(&mut x, 0, rows, 3 * width);
        b.convolve_backward(Mat::new(&dy, 0, rows, width), &factors, None, &bounds, to).unwrap();
        vec![all(b, &y, rows * width), all(b, &x, rows * 3 * width)]
    });
}

#[test]
fn attention_with_more_said_about_scores() {
    let cases = [
        (64, 4, 2, None, "cap"),
        (256, 4, 2, Some(40), "cap"),
        (20, 4, 4, None, "slopes"),
        (64, 4, 4, None, "rounded"),
        (64, 8, 2, Some(20), "sinks"),
        (24, 4, 2, None, "chunk"),
    ];
    for (dim, heads, kv_heads, window, what) in cases {
        compare!(format!("attention {dim} {heads}/{kv_heads} {window:?} {what}"), |b, float| {
            let bounds = b.ints(&[0u32, 1, 65, 65, 193, 200, 251]).unwrap();
            let rows = 251;
            let (q, kv) = (heads * dim, kv_heads * dim);
            let cols = q + 2 * kv;
            let x = activations(b, &numbers(rows * cols, 1, float));
            let qkv = Mat::new(&x, 0, rows, cols);
            let views = [qkv.columns(0, q), qkv.columns(q, kv), qkv.columns(q + kv, kv)];
            let shape = AttentionShape { heads, kv_heads, head_dim: dim, window };
            let by_head = b.upload(&(0..heads).map(|h| 0.3 / (h + 1) as f32).collect::<Vec<_>>()).unwrap();
            let slopes = ["slopes", "rounded"].contains(&what).then_some(&by_head);
            let scores = AttentionScores {
                scale: Some(0.11),
                cap: (what == "cap").then_some(1.5),
                slopes,
                rounded: (what == "rounded").then_some(0.5),
                sinks: (what == "sinks").then_some(&by_head),
                chunk: (what == "chunk").then_some(13),
            };
            let (mut o, mut lse) = (b.alloc(rows * q).unwrap(), b.alloc_statistics(rows * heads).unwrap());
            b.attention(views, shape, scores, &bounds, MatMut::new(&mut o, 0, rows, q), &mut lse).unwrap();
            let d_o = activations(b, &numbers(rows * q, 2, float));
            let mut d = b.alloc(rows * cols).unwrap();
            let (out, d_out, to) =
                (Mat::new(&o, 0, rows, q), Mat::new(&d_o, 0, rows, q), MatMut::new(&mut d, 0, rows, cols));
            b.attention_backward(views, out, &lse, d_out, shape, scores, &bounds, to).unwrap();
            vec![all(b, &o, rows * q), all(b, &lse, rows * heads), all(b, &d, rows * cols)]
        });
    }
}
