//! A norm or a bias as the formulas see it.

use super::sink::GradSink;
use crate::backend::{Backend, Span, SpanMut};

/// A vector of weights (norm or bias).
#[derive(Debug)]
pub struct Vector<'a, B: Backend> {
    /// The elements.
    pub span: Span<'a, B::Buf>,
    /// Place of the gradient, if it is trained.
    pub grad: Option<usize>,
}

impl<B: Backend> Clone for Vector<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Vector<'_, B> {}

impl<B: Backend> Vector<'_, B> {
    /// The place of the gradient in the sink, if the vector is trained.
    pub(super) fn grad_in<'s>(&self, sink: &'s mut dyn GradSink<B>) -> Option<SpanMut<'s, B::Buf>> {
        self.grad.map(|at| SpanMut { buf: sink.grads(), at, len: self.span.len })
    }
}
