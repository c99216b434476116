//! Norms of rows, in place or not, by what a decoder says of them.

use rayon::prelude::*;

use super::{elementwise::lane_sum, isa::multiversion};

/// Elements for which a second thread is worth waking.
const PARALLEL: usize = 1 << 15;

multiversion! {
    fn layer_norm_row(row: &mut [f32], eps: f32) {
        let mean = lane_sum(row, |x| x) / row.len() as f32;
        row.iter_mut().for_each(|x| *x -= mean);
        let rstd = 1.0 / (lane_sum(row, |x| x * x) / row.len() as f32 + eps).sqrt();
        row.iter_mut().for_each(|x| *x *= rstd);
    }
}

multiversion! {
    fn l2_norm_row(row: &mut [f32], eps: f32) {
        let rstd = 1.0 / (lane_sum(row, |x| x * x) / row.len() as f32 + eps).sqrt();
        row.iter_mut().for_each(|x| *x *= rstd);
    }
}

multiversion! {
    fn affine_row(row: &mut [f32], weight: &[f32], bias: &[f32]) {
        row.iter_mut().zip(weight).for_each(|(x, &w)| *x *= w);
        row.iter_mut().zip(bias).for_each(|(x, &b)| *x += b);
    }
}

/// What rows are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NormKind {
    /// Root of the mean square (Zhang and Sennrich 2019).
    #[default]
    Rms,
    /// Standard deviation, after the mean is subtracted (Ba et al. 2016).
    Layer,
}

/// Norms each row of `x` `[n, width]` in place. `weight` and `bias` have a whole number of widths and are gone through from
/// row to row, again and again; empty, they change nothing.
///
/// # Panics
/// If the shapes do not agree.
pub fn norm_in_place(kind: NormKind, x: &mut [f32], width: usize, weight: &[f32], bias: &[f32], eps: f32) {
    assert!(x.len().is_multiple_of(width), "a norm of {} elements in rows of {width}", x.len());
    let fits = |values: &[f32]| values.len().is_multiple_of(width);
    assert!(fits(weight) && fits(bias), "a norm of rows of {width} with {} weights", weight.len());
    let of_row = |values: &[f32], row: usize| match values.len() / width {
        0 => 0..0,
        rows => row % rows * width..(row % rows + 1) * width,
    };
    x.par_chunks_exact_mut(width).enumerate().with_min_len(PARALLEL / width + 1).for_each(|(row, x)| {
        match kind {
            NormKind::Rms => l2_norm_row(x, eps),
            NormKind::Layer => layer_norm_row(x, eps),
        }
        affine_row(x, &weight[of_row(weight, row)], &bias[of_row(bias, row)]);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_by_hand() {
        let mut x = [1.0, 3.0, -2.0, 0.0];
        norm_in_place(NormKind::Layer, &mut x, 2, &[], &[], 0.0);
        assert_eq!(x, [-1.0, 1.0, -1.0, 1.0]);
        let mut x = [3.0, 4.0, 3.0, 4.0];
        norm_in_place(NormKind::Rms, &mut x, 2, &[1.0, 2.0, 10.0, 20.0], &[0.0, 1.0], 0.0);
        let r = 1.0 / 12.5f32.sqrt();
        assert_eq!(x, [3.0 * r, 4.0 * r * 2.0 + 1.0, 3.0 * r * 10.0, 4.0 * r * 20.0 + 1.0], "weights by row");
    }
}
