//! Launches of the kernels that end a step: losses, log-probabilities, norms of gradients, the optimizer.

use super::{
    Device, DeviceBuffer, Float, View,
    driver::{Shape, args},
    ops::{Done, contiguous, of},
};
use crate::KernelError;

/// What an AdamW update multiplies with, in the kernel's f32.
#[derive(Clone, Copy, Debug)]
pub struct AdamWConstants {
    /// On the gradient (clipping).
    pub grad_scale: f32,
    /// Decay of the mean.
    pub beta1: f32,
    /// Decay of the mean square.
    pub beta2: f32,
    /// On the value (weight decay).
    pub keep: f32,
    /// Learning rate over the correction of the mean.
    pub step_size: f32,
    /// On the root: one over the root of the correction of the mean square.
    pub inverse_root: f32,
    /// Added to the root.
    pub epsilon: f32,
}

impl Device {
    /// Queues the cross-entropy of rows of logits; with `scale` they become `scale * (softmax - onehot)`. `losses` gets a
    /// float a row.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn cross_entropy(
        &self,
        logits: View<'_>,
        labels: &DeviceBuffer,
        first: usize,
        scale: Option<f32>,
        losses: View<'_>,
    ) -> Done {
        assert!(labels.len() >= 4 * (first + logits.rows) && losses.cols >= logits.rows, "a label a row");
        let args = args![[logits], logits.cols, labels.ptr() + 4 * first as u64, scale.unwrap_or(0.0), losses.ptr];
        let shape = Shape { grid: (logits.rows, 1), block: (512, 1), shared: 0 };
        self.launch(of!(logits.float, "cross_entropy"), shape, &args)
    }

    /// The sum of contiguous f32 elements, or of their squares, in f64 and in an order that depends on their number only.
    ///
    /// # Errors
    /// If work before failed.
    pub fn sum(&self, x: View<'_>, squares: bool) -> Result<f64, KernelError> {
        assert!(x.float == Float::F32 && contiguous(&x), "contiguous f32 elements");
        const BLOCKS: usize = 512;
        let n = x.rows * x.cols;
        let parts = self.alloc_bytes(8 * (BLOCKS + 1))?;
        let blocks = n.div_ceil(1024).clamp(1, BLOCKS);
        let shape = Shape { grid: (blocks, 1), block: (256, 1), shared: 0 };
        let name = if squares { "partial_squares" } else { "partial_total" };
        self.launch(name, shape, &args![x.ptr, n, parts.ptr()])?;
        let total = parts.ptr() + 8 * BLOCKS as u64;
        let shape = Shape { grid: (1, 1), block: (256, 1), shared: 0 };
        self.launch("total", shape, &args![parts.ptr(), blocks, total])?;
        Ok(self.read_doubles(&parts, BLOCKS + 1)?[BLOCKS])
    }

    /// One AdamW update of four equally long runs of f32; `image` gets the new values in 16 bits.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn adamw(
        &self,
        [value, grad, mean, square]: [View<'_>; 4],
        image: Option<View<'_>>,
        c: &AdamWConstants,
    ) -> Done {
        let n = value.cols;
        assert!([grad, mean, square].iter().all(|v| v.cols == n && v.float == Float::F32), "runs of one length");
        assert!(image.is_none_or(|image| image.cols == n), "runs of one length");
        let args = args![
            value.ptr,
            grad.ptr,
            mean.ptr,
            square.ptr,
            image.map_or(0, |image| image.ptr),
            n,
            c.grad_scale,
            c.beta1,
            c.beta2,
            c.keep,
            c.step_size,
            c.inverse_root,
            c.epsilon
        ];
        let float = image.map_or(Float::F32, |image| image.float);
        self.launch(of!(float, "adamw"), self.spread(n), &args)
    }

    /// Per row of f32 logits the log-sum-exp and the first largest element.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn read_logits(&self, logits: View<'_>, lse: &DeviceBuffer, best: &DeviceBuffer) -> Done {
        assert!(logits.float == Float::F32 && lse.len() >= logits.rows && best.len() >= 4 * logits.rows, "rows");
        let args = args![[logits], logits.cols, lse.ptr(), best.ptr()];
        self.launch("read_logits", Shape { grid: (logits.rows, 1), block: (512, 1), shared: 0 }, &args)
    }

    /// The first largest logit of every row and its log-probability, as two words of 32 bits.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn read_best(&self, logits: View<'_>, best: &DeviceBuffer) -> Done {
        assert!(logits.float == Float::F32 && best.len() >= 8 * logits.rows, "rows");
        let args = args![[logits], logits.cols, best.ptr()];
        self.launch("read_best", Shape { grid: (logits.rows, 1), block: (512, 1), shared: 0 }, &args)
    }

    /// Log-probabilities of `(row, token)` pairs and whether the token is the row's first largest.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn read_targets(
        &self,
        logits: View<'_>,
        [lse, best]: [&DeviceBuffer; 2],
        [rows, tokens]: [&DeviceBuffer; 2],
        [logprobs, greedy]: [&DeviceBuffer; 2],
    ) -> Done {
        let n = rows.len() / 4;
        assert!(tokens.len() >= 4 * n && logprobs.len() >= n && greedy.len() >= 4 * n, "targets");
        let args = args![[logits], lse.ptr(), best.ptr(), rows.ptr(), tokens.ptr(), n, logprobs.ptr(), greedy.ptr()];
        self.launch("read_targets", Shape { grid: (n.div_ceil(128), 1), block: (128, 1), shared: 0 }, &args)
    }
}
