//! The two products of attention for one token, over keys and values where they lie.

use super::{MatMut, Segment};
use crate::cpu::gemm::{FEW, multiply_strided};

/// Whether keys lie channel by channel and values position by position.
pub(super) fn can_read(segments: &[Segment<'_>]) -> bool {
    segments.iter().all(|segment| segment.keys.position_stride == 1 && segment.values.channel_stride == 1)
}

/// The segments with the positions of each before `context`: where they begin, and how many they are.
fn positions<'a, 'b>(
    segments: &'a [Segment<'b>],
    context: usize,
) -> impl Iterator<Item = (usize, usize, &'a Segment<'b>)> {
    segments.iter().scan(0, move |position, segment| {
        let first = *position;
        let len = segment.len.min(context - first);
        *position += len;
        Some((first, len, segment))
    })
}

/// Rows `[rows, width]` step by step, times a factor: `[width, rows]`.
fn turn(to: &mut Vec<f32>, factor: f32, from: &[f32], width: usize) {
    to.clear();
    to.extend((0..width).flat_map(|step| from[step..].iter().step_by(width).map(move |x| factor * x)));
}

/// `scores[rows, context] = scale · queries[rows, dim] · keys` of the channels from `channel` on.
pub(super) fn scores(
    turned: &mut Vec<f32>,
    scale: f32,
    queries: &[f32],
    segments: &[Segment<'_>],
    (channel, dim): (usize, usize),
    context: usize,
    scores: &mut [f32],
) {
    let blocks = queries.chunks(FEW * dim).zip(scores.chunks_mut(FEW * context));
    for (queries, scores) in blocks {
        let rows = queries.len() / dim;
        turn(turned, scale, queries, dim);
        for (first, len, Segment { keys, .. }) in positions(segments, context).filter(|(_, len, _)| *len > 0) {
            let mut to = MatMut::with_stride(&mut scores[first..], rows, len, context);
            let keys = (&keys.data[channel * keys.channel_stride..], keys.channel_stride, len);
            multiply_strided((rows, turned), keys, false, &mut to);
        }
    }
}

/// `output[rows, dim] = weights[rows, context] · values` of the channels from `channel` on.
pub(super) fn mix(
    turned: &mut Vec<f32>,
    weights: &[f32],
    segments: &[Segment<'_>],
    (channel, dim): (usize, usize),
    context: usize,
    output: &mut [f32],
) {
    let blocks = weights.chunks(FEW * context).zip(output.chunks_mut(FEW * dim));
    for (weights, output) in blocks {
        let rows = weights.len() / context;
        turn(turned, 1.0, weights, context);
        for (first, len, Segment { values, .. }) in positions(segments, context).filter(|(_, len, _)| *len > 0) {
            let weights = &turned[first * rows..(first + len) * rows];
            let values = (&values.data[channel..], values.position_stride, dim);
            multiply_strided((rows, weights), values, first > 0, &mut MatMut::new(output, rows, dim));
        }
    }
}

#[cfg(test)]
mod tests {
    use harness_core::Seed;

    use super::*;
    use crate::cpu::attention::{AttentionShape, Job, Scores, Strided, attention_with};

    fn random(seed: u64, n: usize) -> Vec<f32> {
        let mut rng = Seed(seed).stream("attention of one token", 0);
        (0..n).map(|_| rng.normal() as f32).collect()
    }

    /// Keys and values of so many positions, as caches hold them.
    fn cache(seed: u64, len: usize, channels: usize, capacity: usize) -> (Vec<f32>, Vec<f32>) {
        (random(seed, channels * capacity), random(seed + 1, len * channels))
    }

    #[test]
    fn one_token_gets_the_bits_that_it_gets_among_others() {
        for (heads, kv_heads, dim) in [(9, 3, 64), (4, 4, 40), (10, 1, 20), (2, 1, 7)] {
            let (channels, width) = (kv_heads * dim, heads * dim);
            for lens in [[3, 1], [40, 1], [33, 17], [200, 9]] {
                let held: Vec<_> = (0..2).map(|i| cache(10 * i as u64, lens[i], channels, lens[i] + 5 * i)).collect();
                let segments: Vec<Segment<'_>> = held
                    .iter()
                    .zip(lens)
                    .enumerate()
                    .map(|(i, ((keys, values), len))| Segment {
                        keys: Strided { data: keys, position_stride: 1, channel_stride: len + 5 * i },
                        values: Strided { data: values, position_stride: channels, channel_stride: 1 },
                        len,
                    })
                    .collect();
                let context = lens[0] + lens[1];
                for window in [None, Some(30)] {
                    let shape = AttentionShape { heads, kv_heads, head_dim: dim, window };
                    let rows = 3;
                    let q = random(7, rows * width);
                    let run = |row: usize, len: usize| {
                        let position = context - rows + row;
                        let job = Job { row: 0, len, position, segments: segments.clone() };
                        let mut out = vec![0.0; len * width];
                        let q = &q[row * width..(row + len) * width];
                        attention_with(shape, Scores::default(), q, width, &[job], &mut out, width, None);
                        out
                    };
                    let all = run(0, rows);
                    for row in 0..rows {
                        assert_eq!(run(row, 1), all[row * width..(row + 1) * width], "{shape:?} {lens:?} row {row}");
                    }
                }
            }
        }
    }

    #[test]
    fn other_layouts_are_not_read_directly() {
        let data = [0.0; 4];
        let rows = Strided { data: &data, position_stride: 2, channel_stride: 1 };
        assert!(!can_read(&[Segment { keys: rows, values: rows, len: 2 }]));
        let keys = Strided { data: &data, position_stride: 1, channel_stride: 2 };
        assert!(can_read(&[Segment { keys, values: rows, len: 2 }]));
    }
}
