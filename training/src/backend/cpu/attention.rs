//! Causal attention within documents: the engine's forward, and its backward.
//!
//! With P = exp(S - lse), D = rowsum(dO * O): dV = Pᵀ dO, dS = P * (dO Vᵀ - D), dQ = scale * dS K, dK = scale * dSᵀ Q;
//! the query heads of a group add up their dK and dV. A task owns one key head of one document, so every sum has one
//! order.

use half::bf16;
use harness_kernels::cpu::{
    MatMut as Out, MatRef,
    activation::soft_limit,
    attention::{Job, Scores, Segment, Strided, attention_with},
    elementwise::exp,
    gemm,
};
use rayon::prelude::*;

use super::{
    memory::CpuBuf,
    simd::{lane_sum, multiversion},
    views::row,
};
use crate::backend::{AttentionScores, AttentionShape, Mat, MatMut};

/// Heads and mask, and what else becomes of the scores.
pub(super) type Shape<'a> = (AttentionShape, AttentionScores<'a, CpuBuf>);

/// Query rows worked on at once.
const ROWS: usize = 64;

fn view<'a>(m: &Mat<'a, CpuBuf>) -> &'a [f32] {
    &m.buf[m.at..]
}

/// Forward; `lse` is `[rows, heads]`.
pub(super) fn forward(
    [q, k, v]: [Mat<'_, CpuBuf>; 3],
    (shape, scores): Shape<'_>,
    bounds: &[u32],
    o: MatMut<'_, CpuBuf>,
    lse: &mut CpuBuf,
) {
    let jobs: Vec<Job<'_>> = bounds
        .windows(2)
        .map(|w| (w[0] as usize, (w[1] - w[0]) as usize))
        .filter(|&(_, len)| len > 0)
        .map(|(first, len)| {
            let rows = |m: &Mat<'_, CpuBuf>| m.at + first * m.pitch;
            let keys = Strided { data: &k.buf[rows(&k)..], position_stride: k.pitch, channel_stride: 1 };
            let values = Strided { data: &v.buf[rows(&v)..], position_stride: v.pitch, channel_stride: 1 };
            Job { row: first, len, position: 0, segments: vec![Segment { keys, values, len }] }
        })
        .collect();
    let (at, pitch) = (o.at, o.pitch);
    let AttentionScores { scale, cap, slopes, rounded, sinks, chunk } = scores;
    let (slopes, sinks) = (slopes.map(|values| &values[..]), sinks.map(|values| &values[..]));
    let scores = Scores { scale, cap, slopes, rounded, sinks, chunk };
    attention_with(shape, scores, view(&q), q.pitch, &jobs, &mut o.buf[at..], pitch, Some(lse));
}

/// The gradient of q, k and v, written by several tasks at disjoint places.
struct Target {
    data: *mut f32,
    pitch: usize,
}

// SAFETY: each task writes the rows of its own document and the columns of its own heads.
unsafe impl Sync for Target {}

impl Target {
    /// Writes one head's rows from a contiguous `[rows, dim]`.
    ///
    /// # Safety
    /// The place must lie inside of the matrix, and no other thread may touch it.
    unsafe fn put(&self, first: usize, column: usize, dim: usize, from: &[f32]) {
        for (i, from) in from.chunks_exact(dim).enumerate() {
            // SAFETY: as the caller promises.
            unsafe {
                std::ptr::copy_nonoverlapping(from.as_ptr(), self.data.add((first + i) * self.pitch + column), dim);
            }
        }
    }
}

multiversion! {
    /// P from scores: `exp(s - lse)` for the columns in `from..to`, 0 elsewhere; then dS = P * (dP - D) in place of dP.
    fn softmax_backward(s: &mut [f32], dp: &mut [f32], lse: f32, d: f32, from: usize, to: usize) {
        s[..from].fill(0.0);
        dp[..from].fill(0.0);
        for (s, dp) in s[from..to].iter_mut().zip(&mut dp[from..to]) {
            *s = exp(*s - lse);
            *dp = *s * (*dp - d);
        }
        s[to..].fill(0.0);
        dp[to..].fill(0.0);
    }
}

multiversion! {
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        lane_sum(a, b, |x, y| x * y)
    }
}

/// Backward into the columns of q, k and v of `dqkv`, which are overwritten.
pub(super) fn backward(
    [q, k, v]: [Mat<'_, CpuBuf>; 3],
    o: Mat<'_, CpuBuf>,
    lse: &[f32],
    d_o: Mat<'_, CpuBuf>,
    (shape, scores): Shape<'_>,
    bounds: &[u32],
    dqkv: MatMut<'_, CpuBuf>,
) {
    let dim = shape.head_dim;
    let heads = shape.kv_heads.checked_mul(2).and_then(|kv| kv.checked_add(shape.heads));
    assert!(heads.and_then(|heads| heads.checked_mul(dim)) == Some(dqkv.cols), "columns of dqkv");
    assert!(shape.kv_heads > 0 && shape.heads.is_multiple_of(shape.kv_heads), "query heads share key heads");
    // Tasks write through pointers: documents that overlap would be written by two of them.
    assert!(bounds.is_sorted(), "documents in order and apart");
    let rows = bounds.last().copied().unwrap_or(0) as usize;
    let (buf, pitch) = (&mut dqkv.buf[dqkv.at..], dqkv.pitch);
    Out::with_stride(buf, rows, dqkv.cols, pitch);
    let target = Target { data: buf.as_mut_ptr(), pitch };
    let tasks: Vec<(usize, usize, usize)> = bounds
        .windows(2)
        .flat_map(|w| (0..shape.kv_heads).map(|head| (w[0] as usize, w[1] as usize, head)))
        .filter(|(first, end, _)| end > first)
        .collect();
    tasks.into_par_iter().with_max_len(1).for_each(|(first, end, kv_head)| {
        let task = Task { q, k, v, o, lse, d_o, shape, scores, first, len: end - first };
        task.run(kv_head, &target);
    });
}

/// One document.
struct Task<'a> {
    q: Mat<'a, CpuBuf>,
    k: Mat<'a, CpuBuf>,
    v: Mat<'a, CpuBuf>,
    o: Mat<'a, CpuBuf>,
    lse: &'a [f32],
    d_o: Mat<'a, CpuBuf>,
    shape: AttentionShape,
    scores: AttentionScores<'a, CpuBuf>,
    first: usize,
    len: usize,
}

impl Task<'_> {
    /// Rows `from..from + rows` of the document, the columns of one head.
    fn head<'b>(&self, m: &Mat<'b, CpuBuf>, head: usize, from: usize, rows: usize) -> MatRef<'b> {
        let at = m.at + (self.first + from) * m.pitch + head * self.shape.head_dim;
        MatRef::with_strides(&m.buf[at..], rows, self.shape.head_dim, m.pitch, 1)
    }

    /// The first position that a row of the document sees.
    fn first_seen(&self, row: usize) -> usize {
        let by_window = self.shape.window.map_or(0, |w| (row + 1).saturating_sub(w));
        self.scores.chunk.map_or(by_window, |chunk| by_window.max(row / chunk * chunk))
    }

    /// As [`softmax_backward`], of scores that are limited, or depend on the distance. The soft limit t of a score has the
    /// derivative `1 - (t / cap)²`. `row` is the row of the document and the position of the first column.
    fn bent(
        &self,
        s: &mut [f32],
        dp: &mut [f32],
        (lse, d): (f32, f32),
        head: usize,
        (row, start): (usize, usize),
        seen: std::ops::Range<usize>,
    ) {
        let cap = self.scores.cap;
        if let Some(cap) = cap {
            soft_limit(&mut s[seen.clone()], cap);
        }
        let slope = self.scores.slopes.map(|slopes| slopes[head]);
        let slope_at = |column: usize| match (slope, self.scores.rounded) {
            (None, _) => 0.0,
            (Some(slope), Some(factor)) => bf16::from_f32(slope * (start + column) as f32).to_f32() * factor,
            (Some(slope), None) => -slope * (row - start - column) as f32,
        };
        for column in 0..s.len() {
            if !seen.contains(&column) {
                (s[column], dp[column]) = (0.0, 0.0);
                continue;
            }
            let limited = s[column];
            let p = exp(limited + slope_at(column) - lse);
            let bend = cap.map_or(1.0, |cap| 1.0 - (limited / cap) * (limited / cap));
            (s[column], dp[column]) = (p, p * (dp[column] - d) * bend);
        }
    }

    fn run(&self, kv_head: usize, target: &Target) {
        let (dim, group, len) = (self.shape.head_dim, self.shape.heads / self.shape.kv_heads, self.len);
        let scale = self.scores.scale.unwrap_or_else(|| self.shape.scale());
        let (mut dk, mut dv) = (vec![0f32; len * dim], vec![0f32; len * dim]);
        let block = ROWS.min(len);
        let (mut s, mut dp, mut dq) = (vec![0f32; block * len], vec![0f32; block * len], vec![0f32; block * dim]);
        for head in kv_head * group..(kv_head + 1) * group {
            for from in (0..len).step_by(ROWS) {
                let rows = ROWS.min(len - from);
                let seen = |i: usize| self.first_seen(from + i);
                // Columns of the context that any row of the block sees.
                let (start, context) = (seen(0), from + rows - seen(0));
                let (s, dp) = (&mut s[..rows * context], &mut dp[..rows * context]);
                let (q, d_o) = (self.head(&self.q, head, from, rows), self.head(&self.d_o, head, from, rows));
                let k = self.head(&self.k, kv_head, start, context);
                let v = self.head(&self.v, kv_head, start, context);
                gemm(scale, q, k.t(), 0.0, Out::new(s, rows, context));
                gemm(1.0, d_o, v.t(), 0.0, Out::new(dp, rows, context));
                for (i, (s, dp)) in s.chunks_exact_mut(context).zip(dp.chunks_exact_mut(context)).enumerate() {
                    let at = self.first + from + i;
                    let columns = head * dim..(head + 1) * dim;
                    let d = dot(&row(&self.d_o, at)[columns.clone()], &row(&self.o, at)[columns]);
                    let lse = self.lse[at * self.shape.heads + head];
                    let (seen, end) = (seen(i) - start, from + i + 1 - start);
                    if self.scores.is_plain() {
                        softmax_backward(s, dp, lse, d, seen, end);
                    } else {
                        self.bent(s, dp, (lse, d), head, (from + i, start), seen..end);
                    }
                }
                let (p, ds) = (MatRef::new(s, rows, context), MatRef::new(dp, rows, context));
                let part = start * dim..(start + context) * dim;
                gemm(1.0, p.t(), d_o, 1.0, Out::new(&mut dv[part.clone()], context, dim));
                gemm(scale, ds.t(), q, 1.0, Out::new(&mut dk[part], context, dim));
                gemm(scale, ds, k, 0.0, Out::new(&mut dq[..rows * dim], rows, dim));
                // SAFETY: rows of this document and columns of this query head belong to this task alone; `backward`
                // checked that they lie inside.
                unsafe { target.put(self.first + from, head * dim, dim, &dq[..rows * dim]) };
            }
        }
        let (k_column, v_column) = (self.shape.heads + kv_head, self.shape.heads + self.shape.kv_heads + kv_head);
        // SAFETY: as above, for the columns of this key head.
        unsafe {
            target.put(self.first, k_column * dim, dim, &dk);
            target.put(self.first, v_column * dim, dim, &dv);
        }
    }
}
