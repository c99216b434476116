//! What a decoder block is computed with, forward and backward.

pub use harness_kernels::cpu::{activation::Activation, attention::AttentionShape, norm::NormKind};

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

/// A frozen norm.
#[derive(Debug)]
pub struct FrozenNorm<'a, T> {
    /// What is divided by.
    pub kind: NormKind,
    /// What is multiplied by: as many elements as one norm spans, or as the whole row has.
    pub weight: Option<Span<'a, T>>,
    /// What is added, as long as `weight`.
    pub bias: Option<Span<'a, T>>,
    /// Added to the mean square, or the variance.
    pub eps: f32,
}

impl<T> Clone for FrozenNorm<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for FrozenNorm<'_, T> {}

/// How heads are rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotaryShape {
    /// Heads of a row.
    pub heads: usize,
    /// Elements of a head that are rotated, from its first on.
    pub dims: usize,
    /// Whether an element is rotated against its neighbour, and not halves against each other.
    pub pairs: bool,
}

/// What else becomes of attention scores; see [`harness_kernels::cpu::attention::Scores`].
#[derive(Debug)]
pub struct AttentionScores<'a, T> {
    /// The factor, where it is not [`AttentionShape::scale`].
    pub scale: Option<f32>,
    /// `cap · tanh(score / cap)`.
    pub cap: Option<f32>,
    /// ALiBi's slopes of the query heads.
    pub slopes: Option<&'a T>,
    /// The products of slopes and positions are rounded to bf16 and multiplied by this.
    pub rounded: Option<f32>,
    /// A further score of every query head without a value.
    pub sinks: Option<&'a T>,
    /// A row sees only positions of its own chunk of this length.
    pub chunk: Option<usize>,
}

impl<T> Clone for AttentionScores<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for AttentionScores<'_, T> {}

impl<T> Default for AttentionScores<'_, T> {
    fn default() -> Self {
        Self { scale: None, cap: None, slopes: None, rounded: None, sinks: None, chunk: None }
    }
}

impl<T> AttentionScores<'_, T> {
    /// Whether scores are `q · k / sqrt(head_dim)` and nothing else.
    pub fn is_plain(&self) -> bool {
        let Self { scale, cap, slopes, rounded, sinks, chunk } = self;
        scale.is_none() && cap.is_none() && slopes.is_none() && rounded.is_none() && sinks.is_none() && chunk.is_none()
    }
}

/// Runs of columns of a matrix, one a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadRuns {
    /// First column of the first run.
    pub first: usize,
    /// Columns from one run to the next; 0 = all heads share one.
    pub step: usize,
}

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
    /// A frozen norm of `spans` runs of equal width of every row; saves what is divided by as `[rows, spans]`.
    fn norm(
        &self,
        x: Mat<'_, Self::Buf>,
        spans: usize,
        norm: FrozenNorm<'_, Self::Buf>,
        y: MatMut<'_, Self::Buf>,
        rstd: &mut Self::Buf,
    ) -> Result<()>;
    /// Backward of [`Kernels::norm`], in place: `d` comes as dy and leaves as dx.
    fn norm_backward(
        &self,
        d: MatMut<'_, Self::Buf>,
        spans: usize,
        x: Mat<'_, Self::Buf>,
        norm: FrozenNorm<'_, Self::Buf>,
        rstd: &Self::Buf,
    ) -> Result<()>;
    /// Rotates heads of every row by the angles of its position, in place; `inverse` rotates back (the backward).
    /// The table holds for every position `dims / 2` cosines and then as many sines.
    fn rope(
        &self,
        x: MatMut<'_, Self::Buf>,
        shape: RotaryShape,
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
        scores: AttentionScores<'_, Self::Buf>,
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
        scores: AttentionScores<'_, Self::Buf>,
        bounds: &Self::Ints,
        dqkv: MatMut<'_, Self::Buf>,
    ) -> Result<()>;
    /// The activation of a feed-forward block: `y = act(x)`, or `y = act(gate) * up` where `wide` has the columns of gate
    /// and up side by side.
    fn activate(&self, kind: Activation, wide: Mat<'_, Self::Buf>, y: MatMut<'_, Self::Buf>) -> Result<()>;
    /// Backward of [`Kernels::activate`], in place: `wide` leaves as its gradient.
    fn activate_backward(&self, kind: Activation, dy: Mat<'_, Self::Buf>, wide: MatMut<'_, Self::Buf>) -> Result<()>;
    /// Limits all elements to `±limit`.
    fn clip(&self, x: MatMut<'_, Self::Buf>, limit: f32) -> Result<()>;
    /// Backward of [`Kernels::clip`], in place; `y` is what it gave.
    fn clip_backward(&self, y: Mat<'_, Self::Buf>, limit: f32, d: MatMut<'_, Self::Buf>) -> Result<()>;
    /// `x *= factor`.
    fn scale(&self, x: MatMut<'_, Self::Buf>, factor: f32) -> Result<()>;
    /// Multiplies every row with its factor; the backward is the same.
    fn scale_rows(&self, x: MatMut<'_, Self::Buf>, factors: &Self::Buf) -> Result<()>;
    /// Multiplies every column with its factor; the backward is the same.
    fn scale_columns(&self, x: MatMut<'_, Self::Buf>, factors: &Self::Buf) -> Result<()>;
    /// `y[j] = Σ a[i, j] * b[i, j]` over the rows, in f32.
    fn column_dots(&self, a: Mat<'_, Self::Buf>, b: Mat<'_, Self::Buf>, y: &mut Self::Buf) -> Result<()>;
    /// `y[i] = Σ a[i] * b[i]`, in f32.
    fn row_dots(&self, a: Mat<'_, Self::Buf>, b: Mat<'_, Self::Buf>, y: &mut Self::Buf) -> Result<()>;
    /// `y[rows[i]] += x[i]`; `rows` are distinct.
    fn add_rows(&self, x: Mat<'_, Self::Buf>, rows: &Self::Ints, y: MatMut<'_, Self::Buf>) -> Result<()>;
    /// Adds runs of `width` columns of x, a run a head, to those of y, row by row.
    fn add_heads(
        &self,
        x: (Mat<'_, Self::Buf>, HeadRuns),
        y: (MatMut<'_, Self::Buf>, HeadRuns),
        heads: usize,
        width: usize,
    ) -> Result<()>;
    /// `x = cap * tanh(x / cap)`.
    fn soft_limit(&self, x: MatMut<'_, Self::Buf>, cap: f32) -> Result<()>;
    /// Backward of [`Kernels::soft_limit`], in place; `y` is what it gave.
    fn soft_limit_backward(&self, y: Mat<'_, Self::Buf>, cap: f32, d: MatMut<'_, Self::Buf>) -> Result<()>;
    /// A gated short convolution within documents. `x` has the columns of an input gate a, an output gate b and an input c;
    /// with u = a * c, `y[t] = b[t] * (bias + Σ taps[k] * u[t - k])`, where `taps` are `[channels, taps]`, the last one for
    /// the present row.
    fn convolve(
        &self,
        x: Mat<'_, Self::Buf>,
        taps: &Self::Buf,
        bias: Option<&Self::Buf>,
        bounds: &Self::Ints,
        y: MatMut<'_, Self::Buf>,
    ) -> Result<()>;
    /// Backward of [`Kernels::convolve`], in place: `x` leaves as its gradient.
    fn convolve_backward(
        &self,
        dy: Mat<'_, Self::Buf>,
        taps: &Self::Buf,
        bias: Option<&Self::Buf>,
        bounds: &Self::Ints,
        x: MatMut<'_, Self::Buf>,
    ) -> Result<()>;
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
