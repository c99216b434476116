//! A projection with its bias and low-rank additions, forward and backward.
//!
//! Where the magnitudes of the changed weight's rows are trained apart (DoRA, Liu et al. 2024), the output is multiplied by
//! m / |W + s B A| before the bias; as in PEFT the norm has no gradient.
//!
//! With U = X Aᵀ: Y = X Wᵀ + s U Bᵀ; dU = s dY B, dX = dY W + dU A, dA = dUᵀ X, dB = s dYᵀ U. Products stay in rank
//! space, so the additions cost O(rows * rank * (in + out)).

use std::sync::OnceLock;

use super::{
    context::BlockContext,
    magnitudes::{Apart, Magnitudes},
    places::{GroupPlaces, LoraPart},
    sink::GradSink,
    vector::Vector,
};
use crate::backend::{Backend, Mat, MatMut, Result, SpanMut, Weight};

/// One projection, or several that share their input.
pub struct Linear<'a, B: Backend> {
    pub(super) weight: Weight<'a, B>,
    pub(super) bias: Option<Vector<'a, B>>,
    pub(super) places: &'a GroupPlaces,
    pub(super) out: usize,
    pub(super) inp: usize,
    /// Sums of squares of the rows of a frozen weight, once they were asked for.
    pub(super) squares: Option<&'a OnceLock<Vec<f32>>>,
}

impl<B: Backend> Linear<'_, B> {
    /// Whether the backward needs the input: a matrix or a low-rank addition is trained.
    pub(super) fn has_trained_factor(&self) -> bool {
        self.places.weight.is_some() || !self.places.lora.is_empty()
    }

    /// Whether anything is trained.
    pub fn is_trained(&self) -> bool {
        self.has_trained_factor() || self.bias.is_some_and(|bias| bias.grad.is_some())
    }

    /// Sum of the ranks.
    fn ranks(&self) -> usize {
        self.places.lora.iter().map(|part| part.rank).sum()
    }

    /// All `A` of the group, one after another.
    fn all_a<'p>(&self, params: &'p B::Buf) -> Mat<'p, B::Buf> {
        let at = self.places.lora.first().map_or(0, |part| part.a);
        Mat::new(params, at, self.ranks(), self.inp)
    }

    /// The output, and the rank-space products where there are low-rank additions.
    pub(super) fn forward(
        &self,
        ctx: &BlockContext<'_, B>,
        x: &B::Buf,
        rows: usize,
    ) -> Result<(B::Buf, Option<B::Buf>)> {
        let b = ctx.backend;
        let x = Mat::new(x, 0, rows, self.inp);
        let mut y = b.alloc(rows * self.out)?;
        b.linear(x, self.weight, MatMut::new(&mut y, 0, rows, self.out))?;
        let magnitudes = self.apart().magnitudes(ctx)?;
        let bias = self.bias.map(|bias| bias.span);
        if let Some(bias) = bias.filter(|_| magnitudes.is_none()) {
            b.add_bias(bias, MatMut::new(&mut y, 0, rows, self.out))?;
        }
        let Some(u) = self.low_rank(ctx, x.buf, rows)? else { return Ok((y, None)) };
        self.add_low_rank(ctx, &u, &mut y, rows)?;
        if let Some(Magnitudes { factors, .. }) = magnitudes {
            b.scale_columns(MatMut::new(&mut y, 0, rows, self.out), &b.upload(&factors)?)?;
            if let Some(bias) = bias {
                b.add_bias(bias, MatMut::new(&mut y, 0, rows, self.out))?;
            }
        }
        Ok((y, Some(u)))
    }

    fn apart(&self) -> Apart<'_, B> {
        let Self { weight, places, out, inp, squares, .. } = self;
        Apart { weight: *weight, parts: &places.lora, out: *out, inp: *inp, squares: *squares }
    }

    /// The lengths of the weight's rows.
    pub(crate) fn row_norms(&self, b: &B) -> Result<Vec<f32>> {
        self.apart().row_norms(b)
    }

    /// The gradient before magnitudes that are trained apart, where there are some; `input` are the input and the rank-space
    /// products.
    fn within(
        &self,
        ctx: &BlockContext<'_, B>,
        (dy, rows): (&B::Buf, usize),
        input: Option<(&B::Buf, &B::Buf)>,
        sink: &mut dyn GradSink<B>,
    ) -> Result<Option<B::Buf>> {
        let (apart, b) = (self.apart(), ctx.backend);
        let Some(magnitudes) = apart.magnitudes(ctx)? else { return Ok(None) };
        let y = match input {
            Some((x, u)) => {
                let mut y = b.alloc(rows * self.out)?;
                b.linear(Mat::new(x, 0, rows, self.inp), self.weight, MatMut::new(&mut y, 0, rows, self.out))?;
                self.add_low_rank(ctx, u, &mut y, rows)?;
                Some(y)
            }
            None => None,
        };
        Ok(Some(apart.backward(ctx, magnitudes, (dy, rows), y.as_ref(), sink)?))
    }

    /// Adds what the low-rank products give to the output.
    fn add_low_rank(&self, ctx: &BlockContext<'_, B>, u: &B::Buf, y: &mut B::Buf, rows: usize) -> Result<()> {
        let ranks = self.ranks();
        self.each_part(|part, column| {
            let u = Mat::new(u, 0, rows, ranks).columns(column, part.rank);
            let to = MatMut::new(y, 0, rows, self.out).columns(part.column, part.out);
            ctx.backend.gemm(part.scale, u, Mat::new(ctx.params, part.b, part.rank, part.out), 1.0, to)
        })
    }

    /// The rank-space products, where there are low-rank additions.
    pub(super) fn low_rank(&self, ctx: &BlockContext<'_, B>, x: &B::Buf, rows: usize) -> Result<Option<B::Buf>> {
        let (b, ranks) = (ctx.backend, self.ranks());
        if ranks == 0 {
            return Ok(None);
        }
        let x = Mat::new(x, 0, rows, self.inp);
        let mut u = b.alloc(rows * ranks)?;
        match ctx.dropout {
            None => b.gemm(1.0, x, self.all_a(ctx.params).t(), 0.0, MatMut::new(&mut u, 0, rows, ranks))?,
            Some(plan) => {
                let mut dropped = b.alloc(rows * self.inp)?;
                self.each_part(|part, column| {
                    let mask = plan.mask(ctx.layer, part.projection);
                    b.dropout(x, mask, MatMut::new(&mut dropped, 0, rows, self.inp))?;
                    let a = Mat::new(ctx.params, part.a, part.rank, self.inp);
                    let to = MatMut::new(&mut u, 0, rows, ranks).columns(column, part.rank);
                    b.gemm(1.0, Mat::new(&dropped, 0, rows, self.inp), a.t(), 0.0, to)
                })?;
            }
        }
        Ok(Some(u))
    }

    /// Adds the gradients to the sink; the gradient of the input if it is needed. `x` is the input, needed where
    /// something is trained.
    pub(super) fn backward(
        &self,
        ctx: &BlockContext<'_, B>,
        (dy, rows): (&B::Buf, usize),
        x: Option<&B::Buf>,
        u: Option<B::Buf>,
        input_needed: bool,
        sink: &mut dyn GradSink<B>,
    ) -> Result<Option<B::Buf>> {
        let b = ctx.backend;
        let within = self.within(ctx, (dy, rows), x.zip(u.as_ref()), sink)?;
        let dy = Mat::new(within.as_ref().unwrap_or(dy), 0, rows, self.out);
        let mut dx = if input_needed { Some(b.alloc(rows * self.inp)?) } else { None };
        if let Some(dx) = &mut dx {
            b.linear_backward(dy, self.weight, MatMut::new(dx, 0, rows, self.inp))?;
        }
        if let Some((bias, at)) = self.bias.and_then(|bias| Some((bias, bias.grad?))) {
            b.bias_backward(dy, SpanMut { buf: sink.grads(), at, len: bias.span.len })?;
        }
        let Some(x) = x.map(|x| Mat::new(x, 0, rows, self.inp)) else { return Ok(dx) };
        if let Some((at, ..)) = self.places.weight {
            b.gemm(1.0, dy.t(), x, 1.0, MatMut::new(sink.grads(), at, self.out, self.inp))?;
        }
        let Some(u) = u else { return Ok(dx) };
        let ranks = self.ranks();
        let mut du = b.alloc(rows * ranks)?;
        self.each_part(|part, column| {
            let dy = dy.columns(part.column, part.out);
            let to = MatMut::new(&mut du, 0, rows, ranks).columns(column, part.rank);
            b.gemm(part.scale, dy, Mat::new(ctx.params, part.b, part.rank, part.out).t(), 0.0, to)?;
            let u = Mat::new(&u, 0, rows, ranks).columns(column, part.rank);
            b.gemm(part.scale, u.t(), dy, 1.0, MatMut::new(sink.grads(), part.b, part.rank, part.out))
        })?;
        let du = Mat::new(&du, 0, rows, ranks);
        let Some(plan) = ctx.dropout else {
            let a = self.all_a(ctx.params);
            b.gemm(1.0, du.t(), x, 1.0, MatMut::new(sink.grads(), a.at, ranks, self.inp))?;
            if let Some(dx) = &mut dx {
                b.gemm(1.0, du, a, 1.0, MatMut::new(dx, 0, rows, self.inp))?;
            }
            return Ok(dx);
        };
        let mut dropped = b.alloc(rows * self.inp)?;
        self.each_part(|part, column| {
            let (mask, du) = (plan.mask(ctx.layer, part.projection), du.columns(column, part.rank));
            b.dropout(x, mask, MatMut::new(&mut dropped, 0, rows, self.inp))?;
            let to = MatMut::new(sink.grads(), part.a, part.rank, self.inp);
            b.gemm(1.0, du.t(), Mat::new(&dropped, 0, rows, self.inp), 1.0, to)?;
            if let Some(dx) = &mut dx {
                let a = Mat::new(ctx.params, part.a, part.rank, self.inp);
                b.gemm(1.0, du, a, 0.0, MatMut::new(&mut dropped, 0, rows, self.inp))?;
                let d = Mat::new(&dropped, 0, rows, self.inp);
                b.dropout_backward(d, mask, MatMut::new(dx, 0, rows, self.inp))?;
            }
            Ok(())
        })?;
        Ok(dx)
    }

    /// Calls with every low-rank addition and its first column in rank space.
    fn each_part(&self, mut f: impl FnMut(&LoraPart, usize) -> Result<()>) -> Result<()> {
        let mut column = 0;
        for part in &self.places.lora {
            f(part, column)?;
            column += part.rank;
        }
        Ok(())
    }
}
