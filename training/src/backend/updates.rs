//! What an optimizer is computed with.

use std::ops::Range;

use super::{
    error::Result,
    memory::Memory,
    views::{Span, SpanMut},
};

/// One update of AdamW, as the kernel sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// Learning rate of this update.
    pub learning_rate: f64,
    /// Decay of the running mean of gradients.
    pub beta1: f64,
    /// Decay of the running mean of squared gradients.
    pub beta2: f64,
    /// Added to the root.
    pub epsilon: f64,
    /// Decoupled decay of these elements.
    pub weight_decay: f64,
    /// What gradients are multiplied with first (clipping).
    pub grad_scale: f64,
    /// Number of this update, from 1.
    pub number: u64,
}

impl AdamWStep {
    /// Bias correction of the mean, `1 - beta1^t`.
    pub fn correction1(&self) -> f64 {
        1.0 - self.beta1.powf(self.number as f64)
    }

    /// Bias correction of the mean square, `1 - beta2^t`.
    pub fn correction2(&self) -> f64 {
        1.0 - self.beta2.powf(self.number as f64)
    }
}

/// Sums of gradients and updates of parameters on a device, all in f32.
///
/// # Errors
/// As those of [`Memory`].
pub trait Updates: Memory {
    /// A buffer of zeros for an optimizer's running means, which is used once an update: a device may keep it in the host's
    /// memory, and it changes no result.
    fn moments(&self, len: usize) -> Result<Self::Buf> {
        self.zeros(len)
    }
    /// `to += from`, of parameters or their gradients.
    fn accumulate(&self, from: Span<'_, Self::Buf>, to: SpanMut<'_, Self::Buf>) -> Result<()> {
        let mut sum = self.read(Span { buf: to.buf, at: to.at, len: to.len })?;
        sum.iter_mut().zip(self.read(from)?).for_each(|(sum, x)| *sum += x);
        self.write(&sum, to)
    }
    /// Sum of squares.
    fn sum_squares(&self, x: Span<'_, Self::Buf>) -> Result<f64>;
    /// One AdamW update of the elements in `range` of values and gradients; the moments' buffers begin with element
    /// `moments_at`.
    #[allow(clippy::too_many_arguments, reason = "one kernel call")]
    fn adamw(
        &self,
        values: &mut Self::Buf,
        grads: &Self::Buf,
        moments: [&mut Self::Buf; 2],
        moments_at: usize,
        range: Range<usize>,
        step: &AdamWStep,
    ) -> Result<()>;
}
