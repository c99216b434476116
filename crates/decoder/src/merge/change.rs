//! What an adapter does to one stored tensor.

use std::ops::Range;

use harness_kernels::HostTensor;
use rayon::prelude::*;

use crate::LoraPair;

/// A change of one stored tensor.
pub(super) enum Change<'a> {
    /// Rows of a matrix, or of several that are stacked, get low-rank additions. Runs are in order and do not overlap.
    Sum { runs: Vec<Run<'a>>, transposed: bool },
    /// Elements of a bias get a vector added, by their first.
    Bias(Vec<(usize, Vec<f32>)>),
    /// Another tensor.
    Replaced(&'a HostTensor),
}

/// Rows that get the rows of a pair from `from` on.
pub(super) struct Run<'a> {
    pub(super) at: Range<usize>,
    pub(super) pair: &'a LoraPair,
    pub(super) from: usize,
}

/// Changes rows of `cols` columns, the first of which is `first`.
pub(super) fn sum(runs: &[Run<'_>], first: usize, cols: usize, values: &mut [f32]) {
    values.par_chunks_mut(cols).enumerate().for_each_init(
        || vec![0f32; cols],
        |delta, (index, row)| {
            let number = first + index;
            let run = runs.partition_point(|run| run.at.end <= number);
            if let Some(run) = runs.get(run).filter(|run| run.at.contains(&number)) {
                change_row(run.pair, run.from + number - run.at.start, delta, row);
            }
        },
    );
}

/// `w + scale * B A`, a row of it, with DoRA scaled to the row's magnitude; `delta` is room for a row.
fn change_row(pair: &LoraPair, row: usize, delta: &mut [f32], w: &mut [f32]) {
    let LoraPair { a, b, rank, scale, magnitude, bias: _ } = pair;
    delta.fill(0.0);
    for (b, a) in b[row * rank..(row + 1) * rank].iter().zip(a.chunks_exact(delta.len())) {
        delta.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
    }
    w.iter_mut().zip(&*delta).for_each(|(w, delta)| *w += scale * delta);
    if let Some(magnitude) = magnitude {
        let square: f64 = w.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
        let factor = (f64::from(magnitude[row]) / square.sqrt()) as f32;
        w.iter_mut().for_each(|w| *w *= factor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_get_their_rows_of_the_product() {
        let plain = LoraPair::new(vec![1.0, 2.0], vec![3.0, 5.0, 7.0], 1, 0.5);
        let dora = LoraPair { magnitude: Some(vec![1.0, 1.0, 10.0]), ..plain.clone() };
        let runs = [Run { at: 1..3, pair: &plain, from: 1 }, Run { at: 4..5, pair: &dora, from: 2 }];
        let mut values = vec![0.0; 10];
        sum(&runs, 0, 2, &mut values);
        let row = [3.5, 7.0].map(|x: f32| x * 10.0 / (3.5f32 * 3.5 + 49.0).sqrt());
        let expected = [0.0, 0.0, 2.5, 5.0, 3.5, 7.0, 0.0, 0.0, row[0], row[1]];
        assert!(values.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{values:?} {expected:?}");
        let mut later = vec![0.0; 4];
        sum(&runs, 3, 2, &mut later);
        assert_eq!(later, values[6..], "a part of the rows is changed as all are");
    }
}
