//! Causal attention of query rows over keys and values that lie in segments.
//!
//! One kernel serves scoring (a suffix over the cached keys of its shared prefix), decoding (one row over a cache) and
//! training (a document over itself). Every row adds up its context in order of position, so the result does not
//! depend on how the context is cut into segments, nor on which rows are computed together.

mod decode;

use std::cell::RefCell;

use half::bf16;
use rayon::prelude::*;

use super::{
    MatMut, MatRef,
    activation::soft_limit,
    elementwise::{exp, exp_row, max_row},
    gemm::{Depth, NR, SerialGemm},
};

/// Query tokens in one parallel task.
const ROWS: usize = 64;

/// Heads and mask of an attention, wherever it is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, a divisor of `heads`; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// A row sees only this many positions, itself included; `None` = all before it.
    pub window: Option<usize>,
}

impl AttentionShape {
    /// The factor on the scores, `1 / sqrt(head_dim)`: rounded once, from f64, as transformers' `head_dim**-0.5` is.
    pub fn scale(&self) -> f32 {
        (1.0 / (self.head_dim as f64).sqrt()) as f32
    }
}

/// What else becomes of the scores `scale · q · k` before and in the softmax. The default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scores<'a> {
    /// The factor, where it is not [`AttentionShape::scale`].
    pub scale: Option<f32>,
    /// `cap · tanh(score / cap)`.
    pub cap: Option<f32>,
    /// ALiBi (Press et al. 2022): what a score loses for every position between query and key, by query head.
    pub slopes: Option<&'a [f32]>,
    /// Scores gain the product of slope and the key's position instead, rounded to bf16, times this.
    pub rounded: Option<f32>,
    /// A further score of every query head that takes part in the softmax and has no value.
    pub sinks: Option<&'a [f32]>,
    /// A row sees only positions of its own chunk of this length.
    pub chunk: Option<usize>,
}

/// A tensor `[position, kv_heads · head_dim]` with any strides.
#[derive(Clone, Copy, Debug)]
pub struct Strided<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Distance between positions.
    pub position_stride: usize,
    /// Distance between channels.
    pub channel_stride: usize,
}

/// Keys and values of consecutive positions.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Keys, already rotated.
    pub keys: Strided<'a>,
    /// Values.
    pub values: Strided<'a>,
    /// Number of positions.
    pub len: usize,
}

/// A run of consecutive query rows over one context.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// First row in the query and output buffers.
    pub row: usize,
    /// Number of rows.
    pub len: usize,
    /// Position of the first row: how many positions of the segments lie before it.
    pub position: usize,
    /// The context from position 0 to the last row's own position.
    pub segments: Vec<Segment<'a>>,
}

/// A matrix of rows with a stride, written by several threads at disjoint places.
struct Rows {
    data: *mut f32,
    stride: usize,
}

// SAFETY: each task writes the columns of its own heads in its own rows.
unsafe impl Sync for Rows {}

/// Attention for all jobs: `q` and `out` hold rows of `heads · head_dim` at their strides. `lse`, where wanted, gets the
/// log of each row's softmax denominator, `[row, heads]`.
///
/// # Panics
/// If the jobs overlap, reach outside of the buffers, or a context is shorter than its rows need.
pub fn attention(
    shape: AttentionShape,
    q: &[f32],
    q_stride: usize,
    jobs: &[Job<'_>],
    out: &mut [f32],
    out_stride: usize,
    lse: Option<&mut [f32]>,
) {
    attention_with(shape, Scores::default(), q, q_stride, jobs, out, out_stride, lse);
}

/// As [`attention`], with more said about the scores.
///
/// # Panics
/// As [`attention`], and if there are not as many slopes or sinks as query heads.
#[allow(clippy::too_many_arguments, reason = "buffers with their strides")]
pub fn attention_with(
    shape: AttentionShape,
    with: Scores<'_>,
    q: &[f32],
    q_stride: usize,
    jobs: &[Job<'_>],
    out: &mut [f32],
    out_stride: usize,
    mut lse: Option<&mut [f32]>,
) {
    let by_head = [with.slopes, with.sinks].into_iter().flatten().all(|values| values.len() == shape.heads);
    assert!(by_head && with.chunk != Some(0), "attention scores of another shape: {with:?}");
    let shared = shape.kv_heads > 0 && shape.heads.is_multiple_of(shape.kv_heads);
    assert!(shared, "{} query heads cannot share {} key heads", shape.heads, shape.kv_heads);
    let width = shape.heads.checked_mul(shape.head_dim).expect("a width");
    let mut end = 0;
    for job in jobs {
        assert!(job.row >= end, "attention jobs must be in order and apart");
        end = job.row.checked_add(job.len).expect("a last row");
        let context = job.segments.iter().try_fold(0_usize, |sum, segment| sum.checked_add(segment.len));
        let needed = job.position.checked_add(job.len);
        assert!(
            context.is_some() && context >= needed,
            "context of {context:?} for {} rows at {}",
            job.len,
            job.position
        );
    }
    // Tasks write through pointers: rows that overlap, or a product that wraps, would be written by two of them.
    MatRef::with_strides(q, end, width, q_stride, 1);
    MatMut::with_stride(out, end, width, out_stride);
    if let Some(lse) = &mut lse {
        MatMut::new(lse, end, shape.heads);
    }
    let out = Rows { data: out.as_mut_ptr(), stride: out_stride };
    let lse = lse.map(|lse| Rows { data: lse.as_mut_ptr(), stride: shape.heads });
    let tasks: Vec<(&Job<'_>, usize, usize)> = jobs
        .iter()
        .flat_map(|job| (0..job.len).step_by(ROWS).map(move |first| (job, first)))
        .flat_map(|(job, first)| (0..shape.kv_heads).map(move |head| (job, first, head)))
        .collect();
    tasks.into_par_iter().for_each(|(job, first, head)| {
        WORKSPACE.with_borrow_mut(|space| space.run(shape, with, q, q_stride, job, first, head, &out, lse.as_ref()));
    });
}

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::default();
}

#[derive(Default)]
struct Workspace {
    queries: Vec<f32>,
    scores: Vec<f32>,
    /// Rows of a product step by step.
    turned: Vec<f32>,
    output: Vec<f32>,
    sums: Vec<f32>,
    gemm: SerialGemm,
}

impl Workspace {
    /// Up to [`ROWS`] rows of a job from its row `first`, for one key head and all query heads that share it.
    #[allow(clippy::too_many_arguments, reason = "the coordinates of one task")]
    fn run(
        &mut self,
        shape: AttentionShape,
        with: Scores<'_>,
        q: &[f32],
        q_stride: usize,
        job: &Job<'_>,
        first: usize,
        kv_head: usize,
        out: &Rows,
        lse: Option<&Rows>,
    ) {
        let (dim, group) = (shape.head_dim, shape.heads / shape.kv_heads);
        let tokens = ROWS.min(job.len - first);
        let start = job.position + first;
        let context = start + tokens;
        let rows = tokens * group;
        let column = kv_head * group * dim;

        self.queries.clear();
        for token in 0..tokens {
            let from = (job.row + first + token) * q_stride + column;
            self.queries.extend_from_slice(&q[from..from + group * dim]);
        }
        self.scores.resize(rows * context, 0.0);
        self.output.resize(rows * dim, 0.0);
        let (queries, scores, output) = (&self.queries[..], &mut self.scores[..], &mut self.output[..]);

        // One token reads keys and values where they lie; several are worth a copy in the kernel's order.
        let direct = tokens == 1 && decode::can_read(&job.segments);
        let visible = |row: usize| start + row / group + 1;
        let scale = with.scale.unwrap_or_else(|| shape.scale());
        if direct {
            decode::scores(&mut self.turned, scale, queries, &job.segments, (kv_head * dim, dim), context, scores);
        } else {
            pack_keys(self.gemm.b_mut(), &job.segments, kv_head * dim, dim, context);
            let (queries, scores) = (MatRef::new(queries, rows, dim), MatMut::new(scores, rows, context));
            self.gemm.multiply(scale, queries, context, scores, Depth::Columns(&visible));
        }
        self.sums.clear();
        for (row, scores) in scores.chunks_exact_mut(context).enumerate() {
            let end = visible(row);
            let begin = shape.window.map_or(0, |window| end.saturating_sub(window));
            let begin = with.chunk.map_or(begin, |chunk| begin.max((end - 1) / chunk * chunk));
            scores[..begin].fill(f32::NEG_INFINITY);
            let head = kv_head * group + row % group;
            if let Some(cap) = with.cap {
                soft_limit(&mut scores[begin..end], cap);
            }
            if let (Some(slopes), Some(factor)) = (with.slopes, with.rounded) {
                let gain = |position: usize| bf16::from_f32(slopes[head] * position as f32).to_f32() * factor;
                scores[begin..end].iter_mut().zip(begin..).for_each(|(x, position)| *x += gain(position));
            } else if let Some(slopes) = with.slopes {
                let distances = (0..end - begin).rev();
                scores[begin..end].iter_mut().zip(distances).for_each(|(x, far)| *x -= slopes[head] * far as f32);
            }
            let mut max = max_row(&scores[begin..end]);
            if let Some(sinks) = with.sinks {
                max = max.max(sinks[head]);
            }
            let mut sum = exp_row(&mut scores[..end], max);
            if let Some(sinks) = with.sinks {
                sum += exp(sinks[head] - max);
            }
            scores[end..].fill(0.0);
            self.sums.push(sum);
            if let Some(lse) = lse {
                let token = job.row + first + row / group;
                // SAFETY: inside of the buffer, which was checked, and only this task writes these heads of this row.
                unsafe { *lse.data.add(token * lse.stride + head) = max + sum.ln() };
            }
        }
        if direct {
            decode::mix(&mut self.turned, scores, &job.segments, (kv_head * dim, dim), context, output);
        } else {
            pack_values(self.gemm.b_mut(), &job.segments, kv_head * dim, dim, context);
            let (scores, output) = (MatRef::new(scores, rows, context), MatMut::new(output, rows, dim));
            self.gemm.multiply(1.0, scores, dim, output, Depth::Inner(&visible));
        }
        for (row, values) in output.chunks_exact(dim).enumerate() {
            let (token, head) = (job.row + first + row / group, kv_head * group + row % group);
            // SAFETY: as above.
            let to = unsafe { std::slice::from_raw_parts_mut(out.data.add(token * out.stride + head * dim), dim) };
            let scale = 1.0 / self.sums[row];
            for (y, &x) in to.iter_mut().zip(values) {
                *y = x * scale;
            }
        }
    }
}

/// Lays the keys of one head out as the right operand `[head_dim, context]`.
fn pack_keys(out: &mut Vec<f32>, segments: &[Segment<'_>], channel: usize, dim: usize, context: usize) {
    out.resize(context.div_ceil(NR) * dim * NR, 0.0);
    let mut position = 0;
    for segment in segments {
        let len = segment.len.min(context - position);
        let keys = segment.keys;
        let base = channel * keys.channel_stride;
        let mut done = 0;
        while done < len {
            let at = position + done;
            let run = (NR - at % NR).min(len - done);
            let panel = &mut out[at / NR * dim * NR..][..dim * NR];
            for i in 0..dim {
                let to = &mut panel[i * NR + at % NR..][..run];
                let from = base + i * keys.channel_stride + done * keys.position_stride;
                if keys.position_stride == 1 {
                    to.copy_from_slice(&keys.data[from..from + run]);
                } else {
                    for (j, x) in to.iter_mut().enumerate() {
                        *x = keys.data[from + j * keys.position_stride];
                    }
                }
            }
            done += run;
        }
        position += len;
    }
    // Columns beyond the context are computed along with the last panel and never read; keep them finite.
    if !context.is_multiple_of(NR) {
        let panel = &mut out[context / NR * dim * NR..];
        panel.chunks_exact_mut(NR).for_each(|row| row[context % NR..].fill(0.0));
    }
}

/// Lays the values of one head out as the right operand `[context, head_dim]`.
fn pack_values(out: &mut Vec<f32>, segments: &[Segment<'_>], channel: usize, dim: usize, context: usize) {
    out.resize(dim.div_ceil(NR) * context * NR, 0.0);
    for (panel, out) in out.chunks_exact_mut(context * NR).enumerate() {
        let width = NR.min(dim - panel * NR);
        let mut position = 0;
        for segment in segments {
            let len = segment.len.min(context - position);
            let values = segment.values;
            let base = (channel + panel * NR) * values.channel_stride;
            for (j, to) in out[position * NR..].chunks_exact_mut(NR).enumerate().take(len) {
                let from = base + j * values.position_stride;
                if values.channel_stride == 1 {
                    to[..width].copy_from_slice(&values.data[from..from + width]);
                } else {
                    for (c, x) in to[..width].iter_mut().enumerate() {
                        *x = values.data[from + c * values.channel_stride];
                    }
                }
                to[width..].fill(0.0);
            }
            position += len;
        }
    }
}

#[cfg(test)]
mod tests {
    use harness_core::Seed;

    use super::*;

    fn random(seed: u64, n: usize) -> Vec<f32> {
        let mut rng = Seed(seed).stream("attention test", 0);
        (0..n).map(|_| rng.normal() as f32).collect()
    }

    fn rows<'a>(data: &'a [f32], width: usize) -> Strided<'a> {
        Strided { data, position_stride: width, channel_stride: 1 }
    }

    /// Softmax attention in f64.
    fn naive(shape: AttentionShape, q: &[f32], k: &[f32], v: &[f32], context: usize, position: usize) -> Vec<f64> {
        let (dim, kv) = (shape.head_dim, shape.kv_heads * shape.head_dim);
        let mut out = vec![];
        for (t, row) in q.chunks_exact(shape.heads * dim).enumerate() {
            let end = position + t + 1;
            let begin = shape.window.map_or(0, |w| end.saturating_sub(w));
            assert!(end <= context);
            for (h, q) in row.chunks_exact(dim).enumerate() {
                let column = h / (shape.heads / shape.kv_heads) * dim;
                let dot = |j: usize| -> f64 {
                    (0..dim).map(|i| f64::from(q[i]) * f64::from(k[j * kv + column + i])).sum::<f64>()
                };
                let weights: Vec<f64> = (begin..end).map(|j| (dot(j) * f64::from(shape.scale())).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for i in 0..dim {
                    let mix: f64 = (begin..end).map(|j| weights[j - begin] * f64::from(v[j * kv + column + i])).sum();
                    out.push(mix / sum);
                }
            }
        }
        out
    }

    #[test]
    fn agrees_with_softmax_in_f64_and_any_segmentation() {
        for (heads, kv_heads, head_dim, window) in
            [(4, 2, 8, None), (6, 2, 64, None), (3, 3, 33, Some(17)), (9, 3, 64, Some(40))]
        {
            let shape = AttentionShape { heads, kv_heads, head_dim, window };
            let (context, position) = (150, 41);
            let (width, kv) = (heads * head_dim, kv_heads * head_dim);
            let len = context - position;
            let (q, k, v) = (random(1, len * width), random(2, context * kv), random(3, context * kv));
            let expected = naive(shape, &q, &k, &v, context, position);
            let run = |cuts: &[usize], splits: &[usize]| {
                let segments: Vec<_> = cuts
                    .windows(2)
                    .map(|w| Segment {
                        keys: rows(&k[w[0] * kv..], kv),
                        values: rows(&v[w[0] * kv..], kv),
                        len: w[1] - w[0],
                    })
                    .collect();
                let jobs: Vec<_> = splits
                    .windows(2)
                    .map(|w| Job { row: w[0], len: w[1] - w[0], position: position + w[0], segments: segments.clone() })
                    .collect();
                let mut out = vec![0.0; len * width];
                attention(shape, &q, width, &jobs, &mut out, width, None);
                out
            };
            let whole = run(&[0, context], &[0, len]);
            for (x, y) in whole.iter().zip(&expected) {
                assert!((f64::from(*x) - y).abs() < 2e-6 * y.abs().max(1.0), "{x} {y}");
            }
            assert_eq!(whole, run(&[0, 41, context], &[0, len]), "segments change no bits");
            assert_eq!(whole, run(&[0, 1, 40, 99, context], &[0, 1, 5, 77, len]), "rows change no bits");
        }
    }

    #[test]
    fn caps_slopes_sinks_and_chunks() {
        let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 8, window: Some(9) };
        let (len, width, kv) = (30, 32, 16);
        let (q, k, v) = (random(1, len * width), random(2, len * kv), random(3, len * kv));
        let (slopes, sinks) = ([0.5, 0.25, 0.1, 0.0], [-1.0, 0.5, 2.0, -30.0]);
        let with = Scores {
            scale: Some(0.7),
            cap: Some(1.5),
            slopes: Some(&slopes),
            rounded: None,
            sinks: Some(&sinks),
            chunk: Some(7),
        };
        let segments = vec![Segment { keys: rows(&k, kv), values: rows(&v, kv), len }];
        let mut out = vec![0.0; len * width];
        let job = Job { row: 0, len, position: 0, segments };
        attention_with(shape, with, &q, width, &[job], &mut out, width, None);
        for t in 0..len {
            let begin = (t + 1usize).saturating_sub(9).max(t / 7 * 7);
            for h in 0..4 {
                let score = |j: usize| {
                    let dot: f64 = (0..8)
                        .map(|i| f64::from(q[t * width + h * 8 + i]) * f64::from(k[j * kv + h / 2 * 8 + i]))
                        .sum();
                    1.5 * (0.7 * dot / 1.5).tanh() - f64::from(slopes[h]) * (t - j) as f64
                };
                let sum: f64 = (begin..=t).map(|j| score(j).exp()).sum::<f64>() + f64::from(sinks[h]).exp();
                for i in 0..8 {
                    let mix: f64 = (begin..=t).map(|j| score(j).exp() * f64::from(v[j * kv + h / 2 * 8 + i])).sum();
                    let found = f64::from(out[t * width + h * 8 + i]);
                    assert!((found - mix / sum).abs() < 2e-6, "{t} {h}: {found} {}", mix / sum);
                }
            }
        }
    }

    #[test]
    fn calls_that_would_write_elsewhere_are_refused() {
        let data = vec![0.0; 64];
        let context = |len: usize| vec![Segment { keys: rows(&data, 8), values: rows(&data, 8), len }];
        let job = |row, len, position| Job { row, len, position, segments: context(4) };
        let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 4, window: None };
        let refuses = |shape: AttentionShape, jobs: &[Job<'_>], stride: usize, lse: usize| {
            std::panic::catch_unwind(|| {
                let (mut out, mut lse) = (vec![0.0; 32], vec![0.0; lse]);
                attention(shape, &data, 8, jobs, &mut out, stride, Some(&mut lse));
            })
            .is_err()
        };
        assert!(!refuses(shape, &[job(0, 2, 0), job(2, 2, 1)], 8, 8));
        assert!(refuses(shape, &[job(0, 2, 0), job(1, 2, 1)], 8, 8), "a row of two jobs");
        assert!(refuses(shape, &[job(0, 4, 0)], 7, 8), "rows that overlap");
        assert!(refuses(shape, &[job(1, 4, 0)], 8, 10), "a row beyond the end");
        assert!(refuses(shape, &[job(0, 4, 0)], usize::MAX / 2, 8), "a place that wraps");
        assert!(refuses(shape, &[job(0, 2, usize::MAX - 1)], 8, 8), "a position that wraps");
        assert!(refuses(shape, &[job(0, 4, 0)], 8, 7), "no room for the denominators");
        assert!(refuses(AttentionShape { heads: 3, kv_heads: 2, ..shape }, &[job(0, 1, 0)], 16, 8), "a head too many");
        let wraps = AttentionShape { heads: usize::MAX / 2 + 2, head_dim: 2, ..shape };
        assert!(refuses(wraps, &[job(0, 1, 0)], 8, 8), "a width that wraps");
    }

    #[test]
    fn scales_are_those_of_transformers() {
        // Bits of `numpy.float32(head_dim ** -0.5)`. In f32 alone, 72, 96 and 112 would end in another bit.
        let recorded = [
            (16, 0x3e80_0000u32),
            (64, 0x3e00_0000),
            (72, 0x3df1_5bef),
            (80, 0x3de4_f92e),
            (96, 0x3dd1_05ec),
            (112, 0x3dc1_848f),
            (128, 0x3db5_04f3),
        ];
        for (head_dim, bits) in recorded {
            let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim, window: None };
            assert_eq!(shape.scale().to_bits(), bits, "{head_dim}");
        }
    }

    #[test]
    fn position_major_and_channel_major_keys_agree() {
        let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 16, window: None };
        let len = 50;
        let (q, k, v) = (random(4, len * 32), random(5, len * 16), random(6, len * 16));
        let transposed: Vec<f32> = (0..16 * len).map(|i| k[i % len * 16 + i / len]).collect();
        let run = |keys| {
            let segments = vec![Segment { keys, values: rows(&v, 16), len }];
            let (mut out, mut lse) = (vec![0.0; len * 32], vec![0.0; len * 2]);
            let job = Job { row: 0, len, position: 0, segments };
            attention(shape, &q, 32, &[job], &mut out, 32, Some(&mut lse));
            (out, lse)
        };
        let (a, lse) = run(rows(&k, 16));
        assert_eq!(a, run(Strided { data: &transposed, position_stride: 1, channel_stride: len }).0);
        // The first row sees itself only.
        let score: f32 = (0..16).map(|i| q[i] * k[i]).sum::<f32>() * 0.25;
        assert!((lse[0] - score).abs() < 1e-5);
        assert_eq!(a[..16], v[..16]);
    }
}
