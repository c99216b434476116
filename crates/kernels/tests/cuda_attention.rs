//! The GPU's attention, forward and backward, with everything that scores may have: against the processor's, and against f64.
//! Skipped with a message where there is no GPU.
#![cfg(feature = "cuda")]
#![allow(clippy::print_stderr, reason = "tests say what they measured")]

mod support;

use harness_kernels::{
    cpu::attention::{AttentionShape, Job, Scores, Segment, Strided, attention_with},
    cuda::{AttentionWork, Device, DeviceBuffer, DeviceScores, Float, KeySegment, Query},
};
use support::{Matrix, error, gpu, numbers};

const SLOPES: [f32; 4] = [0.5, 0.25, 0.1, 0.02];
const SINKS: [f32; 4] = [-1.0, 0.5, 2.0, -30.0];

/// Everything that scores may have, in turn and together.
fn variants() -> Vec<(Scores<'static>, Option<usize>)> {
    let plain = Scores::default();
    vec![
        (plain, None),
        (Scores { scale: Some(0.3), ..plain }, Some(50)),
        (Scores { cap: Some(1.5), ..plain }, None),
        (Scores { slopes: Some(&SLOPES), ..plain }, None),
        (Scores { slopes: Some(&SLOPES), rounded: Some(0.25), ..plain }, None),
        (Scores { sinks: Some(&SINKS), ..plain }, Some(30)),
        (Scores { chunk: Some(37), ..plain }, None),
        (
            Scores {
                scale: Some(0.2),
                cap: Some(3.0),
                slopes: Some(&SLOPES),
                rounded: None,
                sinks: Some(&SINKS),
                chunk: Some(70),
            },
            Some(61),
        ),
    ]
}

/// Numbers by head on the device.
struct ByHead {
    slopes: Option<DeviceBuffer>,
    sinks: Option<DeviceBuffer>,
}

impl ByHead {
    fn new(device: &Device, scores: &Scores<'_>) -> Self {
        let upload = |data: Option<&[f32]>| data.map(|data| device.floats(data).unwrap());
        Self { slopes: upload(scores.slopes), sinks: upload(scores.sinks) }
    }

    fn scores(&self, with: &Scores<'_>) -> DeviceScores<'_> {
        DeviceScores {
            scale: with.scale,
            cap: with.cap,
            slopes: self.slopes.as_ref(),
            rounded: with.rounded,
            sinks: self.sinks.as_ref(),
            chunk: with.chunk,
        }
    }
}

fn tolerance(float: Float) -> f64 {
    if float == Float::F32 { 1e-5 } else { 1e-2 }
}

#[test]
fn forward() {
    let Some(device) = gpu() else { return };
    let (heads, kv_heads, context, first) = (4, 2, 200, 90);
    let len = context - first;
    for dim in [16, 64, 80, 96, 112, 128, 192, 256] {
        for float in [Float::F32, Float::Bf16, Float::F16] {
            let (width, kv) = (heads * dim, kv_heads * dim);
            let (q, k, v) =
                (numbers(len * width, 1, float), numbers(context * kv, 2, float), numbers(context * kv, 3, float));
            // The keys lie in three runs of a pool, the last one first.
            let runs = [(0usize, 70usize, 300usize), (70, 99, 128), (169, 31, 0)];
            let pool = |data: &[f32]| {
                let mut all = vec![9.0; 400 * kv];
                for (at, len, place) in runs {
                    all[place * kv..(place + len) * kv].copy_from_slice(&data[at * kv..(at + len) * kv]);
                }
                Matrix::new(&device, &all, 400, kv, float)
            };
            let (on_q, on_k, on_v) = (Matrix::new(&device, &q, len, width, float), pool(&k), pool(&v));
            let segments: Vec<_> = runs.iter().map(|r| KeySegment { start: r.2 as i32, len: r.1 as i32 }).collect();
            let query = Query { row: 0, rows: len, position: first, segments };
            let work = AttentionWork::cached(&device, &[query], [heads, kv_heads]).unwrap();
            for (with, window) in variants() {
                let shape = AttentionShape { heads, kv_heads, head_dim: dim, window };
                let rows = |data| Strided { data, position_stride: kv, channel_stride: 1 };
                let segments = vec![Segment { keys: rows(&k), values: rows(&v), len: context }];
                let (mut expected, mut sums) = (vec![0.0; len * width], vec![0.0; len * heads]);
                let job = Job { row: 0, len, position: first, segments };
                attention_with(shape, with, &q, width, &[job], &mut expected, width, Some(&mut sums));
                let (on, o) = (ByHead::new(&device, &with), Matrix::zeros(&device, len, width, float));
                let lse = device.alloc(len * heads, Float::F32).unwrap();
                let views = [on_q.view(), on_k.view(), on_v.view()];
                device.attention_with(views, shape, on.scores(&with), &work, o.view(), Some(&lse)).unwrap();
                let found = error(&o.read(), &expected);
                let of_sums = error(&device.read(lse.row()).unwrap(), &sums);
                let name = format!("{dim} {} {with:?} {window:?}", float.name());
                assert!(found <= tolerance(float), "{name}: {found:e}");
                assert!(of_sums <= tolerance(float), "sums of {name}: {of_sums:e}");
            }
        }
    }
}

/// Single rows of several sequences, which begin alike or not, as when tokens are generated.
#[test]
fn single_rows() {
    let Some(device) = gpu() else { return };
    let places = 6000;
    for (heads, kv_heads, dim) in [(4, 2, 64), (8, 8, 128), (16, 1, 128), (9, 3, 64), (4, 2, 96), (32, 1, 64)] {
        for float in [Float::Bf16, Float::F16] {
            let (width, kv) = (heads * dim, kv_heads * dim);
            let (k, v) = (numbers(places * kv, 2, float), numbers(places * kv, 3, float));
            // Eighteen sequences begin alike; of one all is shared, and two begin otherwise, one of them with one key.
            let mut contexts: Vec<Vec<(usize, usize)>> =
                (0..18).map(|i| vec![(100, 1500), (1600, 70), (2000 + 64 * i, i)]).collect();
            contexts.extend([vec![(4000, 1)], vec![(4100, 64), (3400, 333)]]);
            // A row behind the queries is nobody's.
            let (len, all) = (contexts.len(), contexts.len() + 1);
            let q = numbers(all * width, 1, float);
            let queries = contexts.iter().enumerate().map(|(row, context)| {
                let segments = context.iter().filter(|(_, len)| *len > 0);
                let segments = segments.map(|&(start, len)| KeySegment { start: start as i32, len: len as i32 });
                let position = context.iter().map(|(_, len)| len).sum::<usize>() - 1;
                Query { row, rows: 1, position, segments: segments.collect() }
            });
            let queries: Vec<Query> = queries.collect();
            let matrix = |data: &[f32], rows, cols| Matrix::padded(&device, data, rows, cols, 8, float);
            let (on_q, on_k, on_v) = (matrix(&q, all, width), matrix(&k, places, kv), matrix(&v, places, kv));
            let work = AttentionWork::cached(&device, &queries, [heads, kv_heads]).unwrap();
            for window in [None, Some(100)] {
                let shape = AttentionShape { heads, kv_heads, head_dim: dim, window };
                let o = matrix(&vec![0.0; all * width], all, width);
                device.attention([on_q.view(), on_k.view(), on_v.view()], shape, &work, o.view(), None).unwrap();
                let rows = |data| Strided { data, position_stride: kv, channel_stride: 1 };
                let jobs = contexts.iter().zip(&queries).map(|(context, query)| {
                    let segments = context.iter().map(|&(start, len)| {
                        let (keys, values) = (rows(&k[start * kv..]), rows(&v[start * kv..]));
                        Segment { keys, values, len }
                    });
                    Job { row: query.row, len: 1, position: query.position, segments: segments.collect() }
                });
                let mut expected = vec![0.0; len * width];
                let jobs: Vec<_> = jobs.collect();
                attention_with(shape, Scores::default(), &q, width, &jobs, &mut expected, width, None);
                let found = error(&o.read()[..len * width], &expected);
                let name = format!("{heads} {kv_heads} {dim} {} {window:?}", float.name());
                assert!(found <= tolerance(float), "{name}: {found:e}");
            }
        }
    }
}

/// The gradients of `Σ d_o · attention` of one document in f64.
struct Exact {
    o: Vec<f32>,
    lse: Vec<f32>,
    dqkv: Vec<f32>,
}

fn exact(shape: AttentionShape, with: &Scores<'_>, qkv: &[f32], d_o: &[f32], rows: usize) -> Exact {
    let AttentionShape { heads, kv_heads, head_dim: dim, window } = shape;
    let stride = (heads + 2 * kv_heads) * dim;
    let at = |row: usize, head: usize, c: usize| f64::from(qkv[row * stride + head * dim + c]);
    let scale = f64::from(with.scale.unwrap_or_else(|| shape.scale()));
    let (mut o, mut lse, mut dqkv) = (vec![0f64; rows * heads * dim], vec![], vec![0f64; rows * stride]);
    for t in 0..rows {
        let begin = window.map_or(0, |w| (t + 1).saturating_sub(w)).max(with.chunk.map_or(0, |c| t / c * c));
        for h in 0..heads {
            let (kh, vh) = (heads + h / (heads / kv_heads), heads + kv_heads + h / (heads / kv_heads));
            let mut by = vec![];
            let scores: Vec<f64> = (begin..=t)
                .map(|j| {
                    let dot = (0..dim).map(|c| at(t, h, c) * at(j, kh, c)).sum::<f64>() * scale;
                    let (mut score, mut slope) = (dot, scale);
                    if let Some(cap) = with.cap.map(f64::from) {
                        score = cap * (dot / cap).tanh();
                        slope = scale * (1.0 - (score / cap).powi(2));
                    }
                    by.push(slope);
                    match (with.slopes, with.rounded) {
                        (Some(slopes), Some(factor)) => {
                            score + f64::from(half::bf16::from_f32(slopes[h] * j as f32).to_f32() * factor)
                        }
                        (Some(slopes), None) => score - f64::from(slopes[h]) * (t - j) as f64,
                        _ => score,
                    }
                })
                .collect();
            let sink = with.sinks.map_or(0.0, |sinks| f64::from(sinks[h]).exp());
            let sum = scores.iter().map(|s| s.exp()).sum::<f64>() + sink;
            lse.push(sum.ln() as f32);
            let p: Vec<f64> = scores.iter().map(|s| s.exp() / sum).collect();
            let d = |c: usize| f64::from(d_o[(t * heads + h) * dim + c]);
            let dp: Vec<f64> = (begin..=t).map(|j| (0..dim).map(|c| d(c) * at(j, vh, c)).sum()).collect();
            let mean: f64 = p.iter().zip(&dp).map(|(p, d)| p * d).sum();
            for (i, j) in (begin..=t).enumerate() {
                let ds = p[i] * (dp[i] - mean) * by[i];
                for c in 0..dim {
                    o[(t * heads + h) * dim + c] += p[i] * at(j, vh, c);
                    dqkv[t * stride + h * dim + c] += ds * at(j, kh, c);
                    dqkv[j * stride + kh * dim + c] += ds * at(t, h, c);
                    dqkv[j * stride + vh * dim + c] += p[i] * d(c);
                }
            }
        }
    }
    let narrow = |data: Vec<f64>| data.into_iter().map(|x| x as f32).collect();
    Exact { o: narrow(o), lse, dqkv: narrow(dqkv) }
}

#[test]
fn backward() {
    let Some(device) = gpu() else { return };
    let (heads, kv_heads, bounds) = (4, 2, [0u32, 40, 41, 150]);
    let rows = 150;
    for dim in [24, 64, 80, 96, 128, 192, 256] {
        for float in [Float::F32, Float::Bf16, Float::F16] {
            let stride = (heads + 2 * kv_heads) * dim;
            let (qkv, d_o) = (numbers(rows * stride, 1, float), numbers(rows * heads * dim, 2, float));
            let on = Matrix::new(&device, &qkv, rows, stride, float);
            let on_d = Matrix::new(&device, &d_o, rows, heads * dim, float);
            let (q_dim, kv_dim) = (heads * dim, kv_heads * dim);
            let columns = |from, cols| on.view().columns(from, cols);
            let views = [columns(0, q_dim), columns(q_dim, kv_dim), columns(q_dim + kv_dim, kv_dim)];
            let work = AttentionWork::documents(&device, &bounds, true).unwrap();
            for (with, window) in variants() {
                let shape = AttentionShape { heads, kv_heads, head_dim: dim, window };
                let (mut o, mut lse, mut expected) = (vec![], vec![], vec![]);
                for w in bounds.windows(2) {
                    let (from, to) = (w[0] as usize, w[1] as usize);
                    let (qkv, d_o) = (&qkv[from * stride..to * stride], &d_o[from * q_dim..to * q_dim]);
                    let own = exact(shape, &with, qkv, d_o, to - from);
                    o.extend(own.o);
                    lse.extend(own.lse);
                    expected.extend(own.dqkv);
                }
                let by_head = ByHead::new(&device, &with);
                let (out, sums) =
                    (Matrix::zeros(&device, rows, q_dim, float), device.alloc(rows * heads, Float::F32).unwrap());
                let scores = by_head.scores(&with);
                device.attention_with(views, shape, scores, &work, out.view(), Some(&sums)).unwrap();
                let name = format!("{dim} {} {with:?} {window:?}", float.name());
                let of = [error(&out.read(), &o), error(&device.read(sums.row()).unwrap(), &lse)];
                assert!(of.iter().all(|error| *error <= tolerance(float)), "{name}: {of:?}");
                let d = Matrix::zeros(&device, rows, stride, float);
                device
                    .attention_backward_with(views, shape, scores, &work, out.view(), &sums, on_d.view(), d.view())
                    .unwrap();
                let found = d.read();
                for (part, range) in [("q", 0..q_dim), ("k", q_dim..q_dim + kv_dim), ("v", q_dim + kv_dim..stride)] {
                    let part_of = |all: &[f32]| -> Vec<f32> {
                        all.chunks_exact(stride).flat_map(|row| row[range.clone()].to_vec()).collect()
                    };
                    let error = error(&part_of(&found), &part_of(&expected));
                    let most = if float == Float::F32 { 2e-5 } else { 2e-2 };
                    assert!(error <= most, "gradient of {part}, {name}: {error:e}");
                }
            }
        }
    }
}
