//! AdamW with decoupled weight decay and clipping of the global gradient norm.

pub use crate::backend::AdamWStep;
use crate::{
    backend::{Backend, Result, Span},
    params::ParamStore,
};

/// The constants of AdamW (Loshchilov and Hutter 2019), as in PyTorch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the running mean of gradients.
    pub beta1: f64,
    /// Decay of the running mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the corrected mean squared gradient.
    pub epsilon: f64,
    /// Decoupled decay; parameters that are not decayed get none.
    pub weight_decay: f64,
    /// Largest global L2 norm of the gradient; 0 = not clipped.
    pub max_grad_norm: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0, max_grad_norm: 1.0 }
    }
}

/// The factor that brings a gradient of this norm down to the largest allowed one: `min(1, max / (norm + 1e-6))`, as
/// PyTorch's `clip_grad_norm_`.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 }
}

impl AdamW {
    /// Updates all parameters whose moments are here from their gradients; `number` counts updates from 1. `norm` is the
    /// global norm of the gradient; the gradients in the store are `loss_scale` times as large.
    ///
    /// # Errors
    /// If the device fails.
    pub fn update<B: Backend>(
        &self,
        backend: &B,
        store: &mut ParamStore<B>,
        number: u64,
        learning_rate: f64,
        norm: f64,
        loss_scale: f64,
    ) -> Result<()> {
        let grad_scale = clip_factor(norm, self.max_grad_norm) / loss_scale;
        for (range, decayed) in store.decay_ranges() {
            let step = AdamWStep {
                learning_rate,
                beta1: self.beta1,
                beta2: self.beta2,
                epsilon: self.epsilon,
                weight_decay: if decayed { self.weight_decay } else { 0.0 },
                grad_scale,
                number,
            };
            let moments = store.moments();
            let range = range.start.max(moments.start)..range.end.min(moments.end);
            if range.is_empty() {
                continue;
            }
            let first = store.held().start;
            let range = range.start - first..range.end - first;
            let ParamStore { values, grads, mean, square, .. } = store;
            backend.adamw(values, grads, [mean, square], moments.start - first, range, &step)?;
        }
        Ok(())
    }
}

/// The L2 norm of all gradients together.
///
/// # Errors
/// If the device fails.
pub fn gradient_norm<B: Backend>(backend: &B, store: &ParamStore<B>) -> Result<f64> {
    Ok(backend.sum_squares(Span { buf: &store.grads, at: 0, len: store.len() })?.sqrt())
}
