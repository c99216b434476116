//! The CPU's kernels at the sizes of real models against the same formulas in f64: what a vocabulary of 100 or a width of
//! 40 hides, such as long sums that lose their small terms.

use harness_core::Seed;
use harness_kernels::{HostTensor, cpu::attention::AttentionShape};
use harness_training::backend::{
    Activation, AttentionScores, CpuBackend, CpuBuf, Kernels, Mat, MatMut, Memory, Span, Weight,
};

/// Width, feed-forward width and vocabulary of a model of 135 million parameters.
const HIDDEN: usize = 576;
const INNER: usize = 1536;
const VOCAB: usize = 49_152;

fn normal(seed: u64, n: usize, deviation: f64) -> Vec<f32> {
    let mut rng = Seed(seed).stream("precision", 0);
    (0..n).map(|_| (deviation * rng.normal()) as f32).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// ‖found - expected‖ / ‖expected‖.
fn error(found: &[f32], expected: &[f64]) -> f64 {
    let difference: f64 = found.iter().zip(expected).map(|(&a, b)| (f64::from(a) - b).powi(2)).sum();
    (difference / expected.iter().map(|b| b * b).sum::<f64>()).sqrt()
}

/// Whether a kernel keeps what f32 can keep.
#[track_caller]
fn assert_close(what: &str, found: &[f32], expected: &[f64], bound: f64) {
    let error = error(found, expected);
    assert!(error < bound, "{what}: relative error {error:e}, expected at most {bound:e}");
}

fn matrix(buf: &CpuBuf, rows: usize) -> Mat<'_, CpuBuf> {
    Mat::new(buf, 0, rows, buf.len() / rows)
}

fn matrix_mut(buf: &mut CpuBuf, rows: usize) -> MatMut<'_, CpuBuf> {
    let cols = buf.len() / rows;
    MatMut::new(buf, 0, rows, cols)
}

/// Rows of a vocabulary as they are in trained models: much that is common to all tokens, and a part of its own.
fn vocabulary() -> Vec<f32> {
    let common = normal(1, HIDDEN, 0.1);
    let mut state = 7u64;
    let own = (0..VOCAB * HIDDEN).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 0.35
    });
    own.zip(common.iter().cycle()).map(|(own, common)| own + common).collect()
}

#[test]
fn head_and_cross_entropy_over_a_whole_vocabulary() {
    let (rows, scale) = (4, 1.0 / 64.0);
    let table = vocabulary();
    let x = normal(2, rows * HIDDEN, 1.0);
    // Early labels: almost all of the vocabulary comes after the label's own term.
    let labels = [3u32, 260, 1024, 20_000];
    let (mut loss, mut expected) = (0.0, vec![0f64; rows * HIDDEN]);
    for ((x, dx), &label) in x.chunks(HIDDEN).zip(expected.chunks_mut(HIDDEN)).zip(&labels) {
        let x = wide(x);
        let row = |token: usize| &table[token * HIDDEN..(token + 1) * HIDDEN];
        let logit = |token: usize| row(token).iter().zip(&x).map(|(&w, x)| f64::from(w) * x).sum::<f64>();
        let logits: Vec<f64> = (0..VOCAB).map(logit).collect();
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|logit| (logit - max).exp()).sum();
        loss += max + sum.ln() - logits[label as usize];
        for (token, logit) in logits.iter().enumerate() {
            let onehot = if token == label as usize { 1.0 } else { 0.0 };
            let d = scale * ((logit - max).exp() / sum - onehot);
            dx.iter_mut().zip(row(token)).for_each(|(dx, &w)| *dx += d * f64::from(w));
        }
    }
    let b = CpuBackend::new();
    let live = b.upload(&table).unwrap();
    let frozen = b.frozen(&[&HostTensor::from_f32([VOCAB, HIDDEN], table)], true).unwrap();
    let (x, labels) = (b.upload(&x).unwrap(), b.ints(&labels).unwrap());
    let mut gradients = vec![];
    for weight in [Weight::Frozen(&frozen), Weight::Live(Mat::new(&live, 0, VOCAB, HIDDEN))] {
        let (mut logits, mut dx) = (b.alloc(rows * VOCAB).unwrap(), b.alloc(rows * HIDDEN).unwrap());
        b.linear(matrix(&x, rows), weight, matrix_mut(&mut logits, rows)).unwrap();
        let span = Span { buf: &labels, at: 0, len: rows };
        let found = b.cross_entropy(matrix_mut(&mut logits, rows), span, Some(scale as f32)).unwrap();
        assert!((found - loss).abs() < 1e-6 * loss, "loss {found} {loss}");
        let sums = logits.chunks(VOCAB).map(|row| row.iter().map(|&d| f64::from(d)).sum::<f64>());
        assert!(sums.into_iter().all(|sum| sum.abs() < 2e-7 * scale), "gradients of logits sum to 0");
        b.linear_backward(matrix(&logits, rows), weight, matrix_mut(&mut dx, rows)).unwrap();
        assert_close("gradient of the head's input", &dx, &expected, 3e-6);
        gradients.push(dx.to_vec());
    }
    assert_eq!(gradients[0], gradients[1], "frozen and trained weights");
}

#[test]
fn norms_beside_massive_activations() {
    let (rows, eps) = (5, 1e-5f32);
    let mut x = normal(3, rows * HIDDEN, 1.0);
    // A few dimensions are far larger than all others, as in trained models.
    x.chunks_mut(HIDDEN).for_each(|row| (row[7], row[301]) = (900.0, -350.0));
    let (w, dy) = (normal(4, HIDDEN, 2.0), normal(5, rows * HIDDEN, 1e-3));
    let (mut y, mut dx, mut dw) = (vec![], vec![], vec![0f64; HIDDEN]);
    for (x, dy) in x.chunks(HIDDEN).zip(dy.chunks(HIDDEN)) {
        let (x, dy, w) = (wide(x), wide(dy), wide(&w));
        let n = HIDDEN as f64;
        let rstd = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / n + f64::from(eps)).sqrt();
        y.extend(x.iter().zip(&w).map(|(x, w)| x * rstd * w));
        let mean = (0..HIDDEN).map(|i| dy[i] * w[i] * x[i] * rstd).sum::<f64>() / n;
        dx.extend((0..HIDDEN).map(|i| rstd * (dy[i] * w[i] - x[i] * rstd * mean)));
        (0..HIDDEN).for_each(|i| dw[i] += dy[i] * x[i] * rstd);
    }
    let b = CpuBackend::new();
    let (x, w) = (b.upload(&x).unwrap(), b.upload(&w).unwrap());
    let span = Span { buf: &w, at: 0, len: HIDDEN };
    let (mut found, mut rstd) = (b.alloc(rows * HIDDEN).unwrap(), b.alloc(rows).unwrap());
    b.rmsnorm(matrix(&x, rows), 1, span, eps, matrix_mut(&mut found, rows), &mut rstd).unwrap();
    assert_close("norm", &found, &y, 3e-7);
    let (mut d, mut found_dw) = (b.upload(&dy).unwrap(), b.zeros(HIDDEN).unwrap());
    let to = harness_training::backend::SpanMut { buf: &mut found_dw, at: 0, len: HIDDEN };
    b.rmsnorm_backward(matrix_mut(&mut d, rows), 1, matrix(&x, rows), span, &rstd, None, Some(to)).unwrap();
    assert_close("gradient of a norm's input", &d, &dx, 5e-7);
    assert_close("gradient of a norm's weight", &found_dw, &dw, 3e-7);
}

#[test]
fn swiglu_over_gates_of_all_sizes() {
    let rows = 8;
    // Gates up to ±40: saturated on both sides.
    let (gate, up) = (normal(6, rows * INNER, 10.0), normal(7, rows * INNER, 3.0));
    let dy = normal(8, rows * INNER, 1e-3);
    let (mut y, mut gradient, mut both) = (vec![], vec![], vec![]);
    for row in 0..rows {
        let at = row * INNER..(row + 1) * INNER;
        let (g, u, d) = (wide(&gate[at.clone()]), wide(&up[at.clone()]), wide(&dy[at.clone()]));
        let sigmoid: Vec<f64> = g.iter().map(|g| 1.0 / (1.0 + (-g).exp())).collect();
        y.extend((0..INNER).map(|i| g[i] * sigmoid[i] * u[i]));
        gradient.extend((0..INNER).map(|i| d[i] * u[i] * sigmoid[i] * (1.0 + g[i] * (1.0 - sigmoid[i]))));
        gradient.extend((0..INNER).map(|i| d[i] * g[i] * sigmoid[i]));
        both.extend([&gate[at.clone()], &up[at]].concat());
    }
    let b = CpuBackend::new();
    let (mut gate_up, dy) = (b.upload(&both).unwrap(), b.upload(&dy).unwrap());
    let mut found = b.alloc(rows * INNER).unwrap();
    b.activate(Activation::Silu, matrix(&gate_up, rows), matrix_mut(&mut found, rows)).unwrap();
    assert_close("activation", &found, &y, 3e-7);
    b.activate_backward(Activation::Silu, matrix(&dy, rows), matrix_mut(&mut gate_up, rows)).unwrap();
    assert_close("gradient of gate and up", &gate_up, &gradient, 3e-7);
}

#[test]
fn attention_over_a_long_context() {
    let shape = AttentionShape { heads: 3, kv_heads: 1, head_dim: 64, window: None };
    let (rows, dim) = (400, shape.head_dim);
    let (q_cols, cols) = (shape.heads * dim, (shape.heads + 2 * shape.kv_heads) * dim);
    // Scores of deviation 3: few keys have most of the weight, and many have some.
    let mut qkv = normal(9, rows * cols, 1.0);
    qkv.chunks_mut(cols).for_each(|row| row[..q_cols].iter_mut().for_each(|q| *q *= 3.0));
    let d_o = normal(10, rows * q_cols, 1e-3);
    let (x, g, scale) = (wide(&qkv), wide(&d_o), 1.0 / (dim as f64).sqrt());
    let (mut o, mut dqkv) = (vec![0f64; rows * q_cols], vec![0f64; rows * cols]);
    for head in 0..shape.heads {
        let (q, k, v) = (head * dim, q_cols, q_cols + dim);
        for i in 0..rows {
            let dot = |a: usize, b: usize| (0..dim).map(|c| x[a + c] * x[b + c]).sum::<f64>();
            let scores: Vec<f64> = (0..=i).map(|j| dot(i * cols + q, j * cols + k) * scale).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            let p: Vec<f64> = scores.iter().map(|s| (s - max).exp() / sum).collect();
            let d = &g[i * q_cols + q..][..dim];
            let dp: Vec<f64> = (0..=i).map(|j| (0..dim).map(|c| d[c] * x[j * cols + v + c]).sum()).collect();
            let mean: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
            for j in 0..=i {
                let ds = scale * p[j] * (dp[j] - mean);
                for c in 0..dim {
                    o[i * q_cols + q + c] += p[j] * x[j * cols + v + c];
                    dqkv[i * cols + q + c] += ds * x[j * cols + k + c];
                    dqkv[j * cols + k + c] += ds * x[i * cols + q + c];
                    dqkv[j * cols + v + c] += p[j] * d[c];
                }
            }
        }
    }
    let b = CpuBackend::new();
    let (qkv, d_o, bounds) = (b.upload(&qkv).unwrap(), b.upload(&d_o).unwrap(), b.ints(&[0, rows as u32]).unwrap());
    let all = matrix(&qkv, rows);
    let views = [all.columns(0, q_cols), all.columns(q_cols, dim), all.columns(q_cols + dim, dim)];
    let (mut found, mut lse) = (b.alloc(rows * q_cols).unwrap(), b.alloc(rows * shape.heads).unwrap());
    b.attention(views, shape, AttentionScores::default(), &bounds, matrix_mut(&mut found, rows), &mut lse).unwrap();
    assert_close("attention", &found, &o, 1e-6);
    let mut d = b.alloc(rows * cols).unwrap();
    b.attention_backward(
        views,
        matrix(&found, rows),
        &lse,
        matrix(&d_o, rows),
        shape,
        AttentionScores::default(),
        &bounds,
        matrix_mut(&mut d, rows),
    )
    .unwrap();
    for (what, from, width) in [("q", 0, q_cols), ("k", q_cols, dim), ("v", q_cols + dim, dim)] {
        let found: Vec<f32> = d.chunks(cols).flat_map(|row| row[from..from + width].to_vec()).collect();
        let expected: Vec<f64> = dqkv.chunks(cols).flat_map(|row| row[from..from + width].to_vec()).collect();
        assert_close(&format!("gradient of {what}"), &found, &expected, 2e-6);
    }
}
