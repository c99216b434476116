//! What a decoder block is computed with, forward and backward.

pub use harness_kernels::cpu::attention::AttentionShape;

use super::{
    dropout::DropoutKey,
    error::Result,
    memory::Memory,
    views::{Mat, MatMut, Span, SpanMut},
};

/// A matrix `[out, in]` that multiplies activations: frozen, in the form the backend likes best, or a part of the
/// buffer of trained parameters.
#[derive(Debug)]
pub enum Weight<'a, B: Memory> {
    /// Never changes.
    Frozen(&'a B::Frozen),
    /// Changes with every update.
    Live(Mat<'a, B::Buf>),
}

impl<B: Memory> Clone for Weight<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Memory> Copy for Weight<'_, B> {}

/// Arithmetic of a device. All results are the same for any number of threads.
///
/// Shapes are the caller's duty; a mismatch is a bug of this crate and may panic.
///
/// # Errors
/// As those of [`Memory`]: kernels may need memory of their own.
pub trait Kernels: Memory {
    /// `c = beta * c + alpha * a * b`.
    fn gemm(
        &self,
        alpha: f32,
        a: Mat<'_, Self::Buf>,
        b: Mat<'_, Self::Buf>,
        beta: f32,
        c: MatMut<'_, Self::Buf>,
    ) -> Result<()>;
    /// `y = x * Wᵀ`.
    fn linear(&self, x: Mat<'_, Self::Buf>, w: Weight<'_, Self>, y: MatMut<'_, Self::Buf>) -> Result<()>
    where
        Self: Sized;
    /// `dx = dy * W`.
    fn linear_backward(&self, dy: Mat<'_, Self::Buf>, w: Weight<'_, Self>, dx: MatMut<'_, Self::Buf>) -> Result<()>
    where
        Self: Sized;

    /// Adds a bias to every row.
    fn add_bias(&self, bias: Span<'_, Self::Buf>, y: MatMut<'_, Self::Buf>) -> Result<()>;
    /// Adds the sum of the rows of `dy` to the bias's gradient.
    fn bias_backward(&self, dy: Mat<'_, Self::Buf>, db: SpanMut<'_, Self::Buf>) -> Result<()>;
    /// `y += x`.
    fn add(&self, x: &Self::Buf, y: &mut Self::Buf) -> Result<()>;

    /// Rows of the table, one a token.
    fn embed(&self, table: Weight<'_, Self>, tokens: &Self::Ints, y: MatMut<'_, Self::Buf>) -> Result<()>
    where
        Self: Sized;
    /// Adds the rows of `dy` to the rows of the table's gradient that the tokens name.
    fn embed_backward(&self, dy: Mat<'_, Self::Buf>, tokens: &Self::Ints, dtable: SpanMut<'_, Self::Buf>)
    -> Result<()>;
    /// `y[i] = x[rows[i]]`.
    fn select_rows(&self, x: Mat<'_, Self::Buf>, rows: &Self::Ints, y: MatMut<'_, Self::Buf>) -> Result<()>;
    /// `y[rows[i]] = x[i]`, all other rows 0; `rows` are distinct.
    fn spread_rows(&self, x: Mat<'_, Self::Buf>, rows: &Self::Ints, y: MatMut<'_, Self::Buf>) -> Result<()>;

    /// RMS norm of every head of every row: `y = x * rstd * w`, `rstd = 1 / sqrt(mean(x²) + eps)` saved as `[rows, heads]`.
    fn rmsnorm(
        &self,
        x: Mat<'_, Self::Buf>,
        heads: usize,
        w: Span<'_, Self::Buf>,
        eps: f32,
        y: MatMut<'_, Self::Buf>,
        rstd: &mut Self::Buf,
    ) -> Result<()>;
    /// Backward of [`Kernels::rmsnorm`], in place: `d` comes as dy and leaves as dx, plus `add` where given. `dw`
    /// collects the gradient of the weight.
    #[allow(clippy::too_many_arguments, reason = "one kernel call")]
    fn rmsnorm_backward(
        &self,
        d: MatMut<'_, Self::Buf>,
        heads: usize,
        x: Mat<'_, Self::Buf>,
        w: Span<'_, Self::Buf>,
        rstd: &Self::Buf,
        add: Option<Mat<'_, Self::Buf>>,
        dw: Option<SpanMut<'_, Self::Buf>>,
    ) -> Result<()>;
    /// `y += x`, then the RMS norm of the rows of `y` as by [`Kernels::rmsnorm`] with one head.
    #[allow(clippy::too_many_arguments, reason = "one kernel call")]
    fn add_rmsnorm(
        &self,
        x: &Self::Buf,
        y: &mut Self::Buf,
        shape: (usize, usize),
        w: Span<'_, Self::Buf>,
        eps: f32,
        normed: MatMut<'_, Self::Buf>,
        rstd: &mut Self::Buf,
    ) -> Result<()> {
        self.add(x, y)?;
        self.rmsnorm(Mat::new(y, 0, shape.0, shape.1), 1, w, eps, normed, rstd)
    }
    /// Rotates every head of every row by the angles of its position, in place; `inverse` rotates back (the backward).
    /// The table holds for every position `head_dim / 2` cosines and then as many sines.
    fn rope(
        &self,
        x: MatMut<'_, Self::Buf>,
        heads: usize,
        positions: &Self::Ints,
        table: &Self::Buf,
        inverse: bool,
    ) -> Result<()>;
    /// Causal attention within documents; `qkv` are three matrices of as many rows. `bounds` are the documents' first
    /// rows and the number of rows. Saves the log of the sum of exponentials as `[rows, heads]`.
    fn attention(
        &self,
        qkv: [Mat<'_, Self::Buf>; 3],
        shape: AttentionShape,
        bounds: &Self::Ints,
        o: MatMut<'_, Self::Buf>,
        lse: &mut Self::Buf,
    ) -> Result<()>;
    /// Backward of [`Kernels::attention`]: `dqkv` has the columns of q, k and v side by side and is overwritten.
    #[allow(clippy::too_many_arguments, reason = "one kernel call")]
    fn attention_backward(
        &self,
        qkv: [Mat<'_, Self::Buf>; 3],
        o: Mat<'_, Self::Buf>,
        lse: &Self::Buf,
        d_o: Mat<'_, Self::Buf>,
        shape: AttentionShape,
        bounds: &Self::Ints,
        dqkv: MatMut<'_, Self::Buf>,
    ) -> Result<()>;
    /// `y = silu(gate) * up`; `gate_up` has the columns of gate and up side by side.
    fn swiglu(&self, gate_up: Mat<'_, Self::Buf>, y: MatMut<'_, Self::Buf>) -> Result<()>;
    /// Backward of [`Kernels::swiglu`], in place: `gate_up` leaves as its gradient.
    fn swiglu_backward(&self, dy: Mat<'_, Self::Buf>, gate_up: MatMut<'_, Self::Buf>) -> Result<()>;
    /// `y = x * mask / (1 - p)`.
    fn dropout(&self, x: Mat<'_, Self::Buf>, key: DropoutKey, y: MatMut<'_, Self::Buf>) -> Result<()>;
    /// `dx += dy * mask / (1 - p)`.
    fn dropout_backward(&self, dy: Mat<'_, Self::Buf>, key: DropoutKey, dx: MatMut<'_, Self::Buf>) -> Result<()>;
    /// Elements of logits to compute at once. The default is below the size from which the C library maps memory anew
    /// for every call, and about what a last-level cache holds.
    fn logit_elements(&self) -> usize {
        7 << 20
    }
    /// Sum over the rows of `-log softmax(logits)[label]`; with `scale` the logits leave as their gradient,
    /// `scale * (softmax - onehot)`.
    fn cross_entropy(
        &self,
        logits: MatMut<'_, Self::Buf>,
        labels: Span<'_, Self::Ints>,
        scale: Option<f32>,
    ) -> Result<f64>;
}
