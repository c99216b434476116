//! The kernels a decoder block needs, forward and backward, apart from where they run.
//!
//! A [`Backend`] owns the memory and the arithmetic; [`crate::block`] and [`crate::model`] own the formulas. Buffers are
//! flat runs of floats; matrices are views into them with a row pitch, so that merged projections (q, k and v in one
//! product) need no copies.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod dropout;

pub use cpu::{CpuBackend, CpuBuf};
#[cfg(feature = "cuda")]
pub use cuda::{CudaBackend, CudaBuf, CudaInts, DeviceFailure};
pub use dropout::DropoutKey;
pub(crate) use dropout::{BLOCK, Draws};
use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
};

pub use harness_engine::kernels::attention::AttentionShape;
use harness_engine::{HostTensor, LayerWeights};

use crate::{
    TrainingError, memory,
    model::WeightSource,
    optimizer::AdamWStep,
    parallel::{Collective, Exchange, Sharded},
};

/// What an operation unwinds with that finds no memory: operations cannot return errors.
#[derive(Clone, Copy, Debug)]
pub struct OutOfMemory {
    /// Bytes that were asked for.
    pub asked: usize,
    /// Bytes of buffers in use.
    pub used: usize,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let (asked, used) = (mib(self.asked), mib(self.used));
        write!(f, "{asked:.1} MiB more are needed beside {used:.1} MiB of buffers in use")
    }
}

/// The result of `f`; what is said of memory, in words, if it ran out.
pub(crate) fn with_memory<B: Backend, T>(f: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| match B::out_of_memory(&*payload) {
        Some(message) => message,
        None => resume_unwind(payload),
    })
}

/// A run of `len` elements from `at` of a buffer.
#[derive(Debug)]
pub struct Span<'a, T> {
    /// The buffer.
    pub buf: &'a T,
    /// First element.
    pub at: usize,
    /// Number of elements.
    pub len: usize,
}

impl<T> Clone for Span<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Span<'_, T> {}

/// A writable run of `len` elements from `at` of a buffer.
#[derive(Debug)]
pub struct SpanMut<'a, T> {
    /// The buffer.
    pub buf: &'a mut T,
    /// First element.
    pub at: usize,
    /// Number of elements.
    pub len: usize,
}

/// A matrix in a buffer: element `(i, j)` is at `at + i * pitch + j`, or at `at + j * pitch + i` if `transposed`.
#[derive(Debug)]
pub struct Mat<'a, T> {
    /// The buffer.
    pub buf: &'a T,
    /// First element.
    pub at: usize,
    /// Rows of the matrix as seen (after the transposition).
    pub rows: usize,
    /// Columns of the matrix as seen.
    pub cols: usize,
    /// Distance between adjacent stored rows.
    pub pitch: usize,
    /// Whether the stored matrix is seen transposed.
    pub transposed: bool,
}

impl<T> Clone for Mat<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Mat<'_, T> {}

impl<'a, T> Mat<'a, T> {
    /// A contiguous row-major matrix from element `at`.
    pub fn new(buf: &'a T, at: usize, rows: usize, cols: usize) -> Self {
        Self { buf, at, rows, cols, pitch: cols, transposed: false }
    }

    /// `cols` columns from column `from` (of a matrix that is not transposed).
    pub fn columns(self, from: usize, cols: usize) -> Self {
        debug_assert!(!self.transposed && from + cols <= self.cols);
        Self { at: self.at + from, cols, ..self }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }
}

/// A writable row-major matrix in a buffer.
#[derive(Debug)]
pub struct MatMut<'a, T> {
    /// The buffer.
    pub buf: &'a mut T,
    /// First element.
    pub at: usize,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Distance between adjacent rows.
    pub pitch: usize,
}

impl<'a, T> MatMut<'a, T> {
    /// A contiguous row-major matrix from element `at`.
    pub fn new(buf: &'a mut T, at: usize, rows: usize, cols: usize) -> Self {
        Self { buf, at, rows, cols, pitch: cols }
    }

    /// `cols` columns from column `from`.
    pub fn columns(self, from: usize, cols: usize) -> Self {
        debug_assert!(from + cols <= self.cols);
        Self { at: self.at + from, cols, ..self }
    }
}

/// A matrix `[out, in]` that multiplies activations: frozen, in the form the backend likes best, or a part of the
/// buffer of trained parameters.
#[derive(Debug)]
pub enum Weight<'a, B: Backend> {
    /// Never changes.
    Frozen(&'a B::Frozen),
    /// Changes with every update.
    Live(Mat<'a, B::Buf>),
}

impl<B: Backend> Clone for Weight<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Weight<'_, B> {}

/// Finaliser of SplitMix64 (Steele, Lea and Flood 2014).
pub(crate) fn mix64(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Memory and arithmetic of a device. All results are the same for any number of threads.
///
/// Shapes are the caller's duty; a mismatch is a bug of this crate and may panic.
pub trait Backend: Send + Sync + 'static {
    /// A flat run of floats on the device.
    type Buf: Send + Sync + std::fmt::Debug;
    /// A flat run of `u32` on the device.
    type Ints: Send + Sync + std::fmt::Debug;
    /// A frozen matrix `[out, in]`, prepared for products.
    type Frozen: Send + Sync + std::fmt::Debug;
    /// Whether the device has memory of its own, apart from the host's.
    const OWN_MEMORY: bool = false;

    /// A buffer whose contents are unspecified.
    fn alloc(&self, len: usize) -> Self::Buf;
    /// A buffer whose contents are unspecified, for sums that are kept in f32 whatever activations are kept in.
    fn alloc_statistics(&self, len: usize) -> Self::Buf {
        self.alloc(len)
    }
    /// A buffer of zeros.
    fn zeros(&self, len: usize) -> Self::Buf;
    /// A buffer of zeros for an optimizer's running means, which is used once an update: a device may keep it in the host's
    /// memory, and it changes no result.
    fn moments(&self, len: usize) -> Self::Buf {
        self.zeros(len)
    }
    /// A buffer with these contents.
    fn upload(&self, data: &[f32]) -> Self::Buf;
    /// Overwrites a part of a buffer.
    fn write(&self, data: &[f32], to: SpanMut<'_, Self::Buf>);
    /// The contents of a part of a buffer.
    fn read(&self, from: Span<'_, Self::Buf>) -> Vec<f32>;
    /// Integers on the device.
    fn ints(&self, data: &[u32]) -> Self::Ints;
    /// A frozen matrix whose rows are those of the given ones, one after another; `backward`: whether gradients will
    /// flow through it.
    fn frozen(&self, parts: &[&HostTensor], backward: bool) -> Self::Frozen;
    /// How ranks exchange buffers of this device; `control` does it through host memory.
    ///
    /// # Errors
    /// If the devices cannot be connected.
    fn connect(&self, control: Arc<dyn Collective<Self>>) -> Result<Arc<dyn Collective<Self>>, TrainingError>
    where
        Self: Sized,
    {
        Ok(control)
    }
    /// Keeps this rank's part of frozen blocks, which are gathered when they are needed; `backward` says of each whether
    /// gradients flow through it. `exchange` is used for nothing else.
    ///
    /// # Errors
    /// If the devices cannot be connected, or there is not enough memory.
    fn shard(
        &self,
        layers: &[LayerWeights],
        backward: &[bool],
        exchange: Box<dyn Exchange>,
    ) -> Result<Box<dyn WeightSource<Self>>, TrainingError>
    where
        Self: Clone,
    {
        Ok(Box::new(Sharded::new(self, layers, backward, exchange)))
    }
    /// The type that is computed in, by its name in a run's record.
    fn compute(&self) -> &'static str {
        "float32"
    }
    /// What is computed with, in words.
    fn describe(&self) -> String {
        "f32".to_owned()
    }
    /// Runs something that uses the backend, as one of these ranks; where operations of the device fail by unwinding, that
    /// becomes an error, of which the other ranks hear.
    ///
    /// # Errors
    /// What `f` returns, or the device's failure.
    fn guard<T>(_: &dyn Collective<Self>, f: impl FnOnce() -> Result<T, TrainingError>) -> Result<T, TrainingError>
    where
        Self: Sized,
    {
        f()
    }
    /// Elements of activations that fit into the free memory.
    fn room(&self) -> usize {
        memory::available().map_or(usize::MAX, |bytes| bytes as usize / size_of::<f32>())
    }
    /// The most bytes that were ever held at once: frozen matrices and buffers in use.
    fn peak_bytes(&self) -> usize;
    /// What the payload of an unwinding says of memory that has run out, in words; `None` if it says something else.
    fn out_of_memory(payload: &(dyn Any + Send)) -> Option<String> {
        payload.downcast_ref::<OutOfMemory>().map(OutOfMemory::to_string)
    }
    /// Gives memory that is kept for later back to the system.
    fn release(&self) {}
    /// Fills with zeros.
    fn clear(&self, buf: &mut Self::Buf);

    /// `c = beta * c + alpha * a * b`.
    fn gemm(&self, alpha: f32, a: Mat<'_, Self::Buf>, b: Mat<'_, Self::Buf>, beta: f32, c: MatMut<'_, Self::Buf>);
    /// `y = x * Wᵀ`.
    fn linear(&self, x: Mat<'_, Self::Buf>, w: Weight<'_, Self>, y: MatMut<'_, Self::Buf>)
    where
        Self: Sized;
    /// `dx = dy * W`.
    fn linear_backward(&self, dy: Mat<'_, Self::Buf>, w: Weight<'_, Self>, dx: MatMut<'_, Self::Buf>)
    where
        Self: Sized;

    /// Adds a bias to every row.
    fn add_bias(&self, bias: Span<'_, Self::Buf>, y: MatMut<'_, Self::Buf>);
    /// Adds the sum of the rows of `dy` to the bias's gradient.
    fn bias_backward(&self, dy: Mat<'_, Self::Buf>, db: SpanMut<'_, Self::Buf>);
    /// `y += x`.
    fn add(&self, x: &Self::Buf, y: &mut Self::Buf);

    /// Rows of the table, one a token.
    fn embed(&self, table: Weight<'_, Self>, tokens: &Self::Ints, y: MatMut<'_, Self::Buf>)
    where
        Self: Sized;
    /// Adds the rows of `dy` to the rows of the table's gradient that the tokens name.
    fn embed_backward(&self, dy: Mat<'_, Self::Buf>, tokens: &Self::Ints, dtable: SpanMut<'_, Self::Buf>);
    /// `y[i] = x[rows[i]]`.
    fn select_rows(&self, x: Mat<'_, Self::Buf>, rows: &Self::Ints, y: MatMut<'_, Self::Buf>);
    /// `y[rows[i]] = x[i]`, all other rows 0; `rows` are distinct.
    fn spread_rows(&self, x: Mat<'_, Self::Buf>, rows: &Self::Ints, y: MatMut<'_, Self::Buf>);

    /// RMS norm of every head of every row: `y = x * rstd * w`, `rstd = 1 / sqrt(mean(x²) + eps)` saved as `[rows, heads]`.
    fn rmsnorm(
        &self,
        x: Mat<'_, Self::Buf>,
        heads: usize,
        w: Span<'_, Self::Buf>,
        eps: f32,
        y: MatMut<'_, Self::Buf>,
        rstd: &mut Self::Buf,
    );
    /// Backward of [`Backend::rmsnorm`], in place: `d` comes as dy and leaves as dx, plus `add` where given. `dw`
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
    );
    /// `y += x`, then the RMS norm of the rows of `y` as by [`Backend::rmsnorm`] with one head.
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
    ) {
        self.add(x, y);
        self.rmsnorm(Mat::new(y, 0, shape.0, shape.1), 1, w, eps, normed, rstd);
    }
    /// Rotates every head of every row by the angles of its position, in place; `inverse` rotates back (the backward).
    /// The table holds for every position `head_dim / 2` cosines and then as many sines.
    fn rope(&self, x: MatMut<'_, Self::Buf>, heads: usize, positions: &Self::Ints, table: &Self::Buf, inverse: bool);
    /// Causal attention within documents; `qkv` are three matrices of as many rows. `bounds` are the documents' first
    /// rows and the number of rows. Saves the log of the sum of exponentials as `[rows, heads]`.
    fn attention(
        &self,
        qkv: [Mat<'_, Self::Buf>; 3],
        shape: AttentionShape,
        bounds: &Self::Ints,
        o: MatMut<'_, Self::Buf>,
        lse: &mut Self::Buf,
    );
    /// Backward of [`Backend::attention`]: `dqkv` has the columns of q, k and v side by side and is overwritten.
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
    );
    /// `y = silu(gate) * up`; `gate_up` has the columns of gate and up side by side.
    fn swiglu(&self, gate_up: Mat<'_, Self::Buf>, y: MatMut<'_, Self::Buf>);
    /// Backward of [`Backend::swiglu`], in place: `gate_up` leaves as its gradient.
    fn swiglu_backward(&self, dy: Mat<'_, Self::Buf>, gate_up: MatMut<'_, Self::Buf>);
    /// `y = x * mask / (1 - p)`.
    fn dropout(&self, x: Mat<'_, Self::Buf>, key: DropoutKey, y: MatMut<'_, Self::Buf>);
    /// `dx += dy * mask / (1 - p)`.
    fn dropout_backward(&self, dy: Mat<'_, Self::Buf>, key: DropoutKey, dx: MatMut<'_, Self::Buf>);
    /// Elements of logits to compute at once. The default is below the size from which the C library maps memory anew
    /// for every call, and about what a last-level cache holds.
    fn logit_elements(&self) -> usize {
        7 << 20
    }
    /// Sum over the rows of `-log softmax(logits)[label]`; with `scale` the logits leave as their gradient,
    /// `scale * (softmax - onehot)`.
    fn cross_entropy(&self, logits: MatMut<'_, Self::Buf>, labels: Span<'_, Self::Ints>, scale: Option<f32>) -> f64;

    /// `to += from`, of parameters or their gradients.
    fn accumulate(&self, from: Span<'_, Self::Buf>, to: SpanMut<'_, Self::Buf>) {
        let mut sum = self.read(Span { buf: to.buf, at: to.at, len: to.len });
        sum.iter_mut().zip(self.read(from)).for_each(|(sum, x)| *sum += x);
        self.write(&sum, to);
    }
    /// Sum of squares.
    fn sum_squares(&self, x: Span<'_, Self::Buf>) -> f64;
    /// One AdamW update of the elements in `range` of values and gradients; the moments' buffers begin with element
    /// `moments_at`.
    #[allow(clippy::too_many_arguments, reason = "one kernel call")]
    fn adamw(
        &self,
        values: &mut Self::Buf,
        grads: &Self::Buf,
        moments: [&mut Self::Buf; 2],
        moments_at: usize,
        range: std::ops::Range<usize>,
        step: &AdamWStep,
    );
}
