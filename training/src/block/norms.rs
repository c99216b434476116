//! Norms of a block, forward and backward, with the kernel that fits their weights.

use super::{
    context::BlockContext,
    key::VectorKey::{self, KNorm, KNormBias, QNorm, QNormBias},
    sink::GradSink,
    vector::Vector,
    view::LayerView,
};
use crate::backend::{Backend, FrozenNorm, Mat, MatMut, NormKind, Result};

/// Which norm a step takes.
#[derive(Clone, Copy)]
pub(super) struct NormStep {
    pub kind: NormKind,
    /// Weight and bias.
    pub keys: [Option<VectorKey>; 2],
    pub eps: f32,
    /// Runs of a row that are normed apart.
    pub spans: usize,
}

impl NormStep {
    /// Weight and bias, as far as the block has them.
    fn vectors<'b, B: Backend>(&self, view: &LayerView<'b, B>) -> [Option<Vector<'b, B>>; 2] {
        self.keys.map(|key| key.and_then(|key| view.vector(key)))
    }

    fn frozen<'b, B: Backend>(&self, view: &LayerView<'b, B>) -> FrozenNorm<'b, B::Buf> {
        let [weight, bias] = self.vectors(view).map(|vector| vector.map(|vector| vector.span));
        FrozenNorm { kind: self.kind, weight, bias, eps: self.eps }
    }

    /// The weight, if the norm of rows of this width is the one that devices have in one pass with a sum: an RMS norm
    /// with a weight for every element of a run.
    pub(super) fn plain<'b, B: Backend>(&self, view: &LayerView<'b, B>, width: usize) -> Option<Vector<'b, B>> {
        let [weight, bias] = self.vectors(view);
        let fits = self.kind == NormKind::Rms && bias.is_none();
        weight.filter(|weight| fits && weight.span.len == width / self.spans)
    }

    /// Whether its weight or bias is trained.
    pub(super) fn is_trained<B: Backend>(&self, view: &LayerView<'_, B>) -> bool {
        self.vectors(view).into_iter().flatten().any(|vector| vector.grad.is_some())
    }

    /// `y = norm(x)`; what the backward needs goes to `rstd`.
    pub(super) fn forward<B: Backend>(
        &self,
        (b, view): (&B, &LayerView<'_, B>),
        x: Mat<'_, B::Buf>,
        y: MatMut<'_, B::Buf>,
        rstd: &mut B::Buf,
    ) -> Result<()> {
        match self.plain(view, x.cols) {
            Some(weight) => b.rmsnorm(x, self.spans, weight.span, self.eps, y, rstd),
            None => b.norm(x, self.spans, self.frozen(view), y, rstd),
        }
    }

    /// Makes the gradient of y in `d` that of x. A gradient that x has already may be added for plain norms.
    pub(super) fn backward<B: Backend>(
        &self,
        (b, view): (&B, &LayerView<'_, B>),
        d: MatMut<'_, B::Buf>,
        (x, rstd): (Mat<'_, B::Buf>, &B::Buf),
        add: Option<Mat<'_, B::Buf>>,
        sink: &mut dyn GradSink<B>,
    ) -> Result<()> {
        match self.plain(view, x.cols) {
            Some(weight) => b.rmsnorm_backward(d, self.spans, x, weight.span, rstd, add, weight.grad_in(sink)),
            None => b.norm_backward(d, self.spans, x, self.frozen(view), rstd),
        }
    }
}

impl<B: Backend> BlockContext<'_, B> {
    /// The norms of queries and of keys, where there are some: first column, width, and the norm.
    pub(super) fn head_norms(&self) -> Option<[(usize, usize, NormStep); 2]> {
        let (c, norm) = (self.config, self.config.block.qk_norm?);
        let of = |heads, weight, bias| {
            let spans = if norm.span == harness_decoder::Span::Whole { 1 } else { heads };
            NormStep { kind: norm.norm.kind, keys: [Some(weight), Some(bias)], eps: c.norm_eps, spans }
        };
        let (q, kv) = (of(c.num_heads, QNorm, QNormBias), of(c.num_kv_heads, KNorm, KNormBias));
        Some([(0, c.q_dim(), q), (c.q_dim(), c.kv_dim(), kv)])
    }
}
