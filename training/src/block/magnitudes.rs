//! Magnitudes of the rows of changed weights that are trained apart (DoRA, Liu et al. 2024), forward and backward.

use std::sync::OnceLock;

use super::{context::BlockContext, places::LoraPart, sink::GradSink};
use crate::backend::{Backend, Mat, MatMut, Result, Span, SpanMut, Weight};

/// Rows of a weight that are looked at together.
const ROWS: usize = 1024;

/// What the outputs of a linear are multiplied with.
pub(super) struct Magnitudes {
    /// m / |W + s B A| of every output; 1 where nothing is trained apart.
    pub factors: Vec<f32>,
    /// |W + s B A|.
    norms: Vec<f32>,
}

/// A weight `[out, inp]` with its additions.
pub(super) struct Apart<'a, B: Backend> {
    pub weight: Weight<'a, B>,
    pub parts: &'a [LoraPart],
    pub out: usize,
    pub inp: usize,
    /// Sums of squares of the rows of a frozen weight, once they were asked for.
    pub squares: Option<&'a OnceLock<Vec<f32>>>,
}

impl<B: Backend> Apart<'_, B> {
    fn apart(&self) -> impl Iterator<Item = (&LoraPart, usize)> {
        self.parts.iter().filter_map(|part| Some((part, part.magnitude?)))
    }

    /// The lengths of the weight's rows.
    pub(super) fn row_norms(&self, b: &B) -> Result<Vec<f32>> {
        Ok(self.squares(b)?.iter().map(|square| square.sqrt()).collect())
    }

    /// Sums of squares of the weight's rows.
    fn squares(&self, b: &B) -> Result<Vec<f32>> {
        if let Some(known) = self.squares.and_then(OnceLock::get) {
            return Ok(known.clone());
        }
        let mut squares = Vec::with_capacity(self.out);
        for first in (0..self.out).step_by(ROWS) {
            let n = ROWS.min(self.out - first);
            let ids = b.ints(&(first as u32..(first + n) as u32).collect::<Vec<_>>())?;
            let (mut rows, mut sums) = (b.alloc(n * self.inp)?, b.alloc_statistics(n)?);
            b.embed(self.weight, &ids, MatMut::new(&mut rows, 0, n, self.inp))?;
            let view = Mat::new(&rows, 0, n, self.inp);
            b.row_dots(view, view, &mut sums)?;
            squares.extend(b.read(Span { buf: &sums, at: 0, len: n })?);
        }
        if let Some(place) = self.squares {
            let _ = place.set(squares.clone());
        }
        Ok(squares)
    }

    /// What outputs are multiplied with, where magnitudes are trained apart. With Z = A Wᵀ the squared norm of row i is
    /// `|W_i|² + 2 s Σ_k B_ik Z_ki + s² B_i (A Aᵀ) B_iᵀ`.
    pub(super) fn magnitudes(&self, ctx: &BlockContext<'_, B>) -> Result<Option<Magnitudes>> {
        let b = ctx.backend;
        if self.apart().next().is_none() {
            return Ok(None);
        }
        let (mut factors, mut norms) = (vec![1.0; self.out], vec![1.0; self.out]);
        let squares = self.squares(b)?;
        for (part, place) in self.apart() {
            let read = |at, len| b.read(Span { buf: ctx.params, at, len });
            let (rank, out) = (part.rank, part.out);
            let (first, second) = (read(part.a, rank * self.inp)?, read(part.b, rank * out)?);
            let magnitude = read(place, out)?;
            let (mut a, mut z) = (b.alloc(rank * self.inp)?, b.alloc(rank * self.out)?);
            b.write(&first, SpanMut { buf: &mut a, at: 0, len: rank * self.inp })?;
            b.linear(Mat::new(&a, 0, rank, self.inp), self.weight, MatMut::new(&mut z, 0, rank, self.out))?;
            let z = b.read(Span { buf: &z, at: 0, len: rank * self.out })?;
            let row = |k: usize| &first[k * self.inp..(k + 1) * self.inp];
            let dot = |k, l| row(k).iter().zip(row(l)).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let gram: Vec<f64> = (0..rank * rank).map(|at| dot(at / rank, at % rank)).collect();
            let scale = f64::from(part.scale);
            for i in 0..out {
                let second = |k: usize| f64::from(second[k * out + i]);
                let along = (0..rank).map(|k| second(k) * f64::from(z[k * self.out + part.column + i])).sum::<f64>();
                let within = (0..rank * rank).map(|at| second(at / rank) * gram[at] * second(at % rank)).sum::<f64>();
                let square = f64::from(squares[part.column + i]) + 2.0 * scale * along + scale * scale * within;
                norms[part.column + i] = square.max(0.0).sqrt() as f32;
                factors[part.column + i] = magnitude[i] / norms[part.column + i];
            }
        }
        Ok(Some(Magnitudes { factors, norms }))
    }

    /// The gradient before the multiplication. Those of the magnitudes go to the sink, from the output before it, `y`.
    pub(super) fn backward(
        &self,
        ctx: &BlockContext<'_, B>,
        Magnitudes { factors, norms }: Magnitudes,
        (dy, rows): (&B::Buf, usize),
        y: Option<&B::Buf>,
        sink: &mut dyn GradSink<B>,
    ) -> Result<B::Buf> {
        let b = ctx.backend;
        if let Some(y) = y {
            let mut dots = b.alloc_statistics(self.out)?;
            b.column_dots(Mat::new(dy, 0, rows, self.out), Mat::new(y, 0, rows, self.out), &mut dots)?;
            let mut grads = b.read(Span { buf: &dots, at: 0, len: self.out })?;
            grads.iter_mut().zip(norms).for_each(|(grad, norm)| *grad /= norm);
            let grads = b.upload(&grads)?;
            for (part, at) in self.apart() {
                let from = Span { buf: &grads, at: part.column, len: part.out };
                b.accumulate(from, SpanMut { buf: sink.grads(), at, len: part.out })?;
            }
        }
        let mut d = b.duplicate(dy)?;
        b.scale_columns(MatMut::new(&mut d, 0, rows, self.out), &b.upload(&factors)?)?;
        Ok(d)
    }
}
