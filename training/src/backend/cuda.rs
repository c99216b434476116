//! An NVIDIA GPU: activations in bf16, f16 or f32; parameters, gradients, moments and sums in f32.
//!
//! Parameters are held in f32 and multiply as their image in 16 bits, which is refreshed when they have changed; the optimizer
//! writes both. What is gathered from other GPUs is the image, and norms and biases as they are. Frozen 4-bit weights are
//! widened into scratch memory for every product.

mod memory;

use std::ops::Range;

use harness_kernels::KernelError;
use harness_kernels::{
    HostTensor,
    cuda::{AdamWConstants, By, ColumnRuns, Device, DeviceMatrix, DeviceScores, Float, HeadNorm, View},
};
#[cfg(feature = "nccl")]
pub(crate) use memory::Exact;
pub use memory::{CudaBuf, CudaInts};

use super::{
    Activation, AdamWStep, AttentionScores, AttentionShape, Backend, DropoutKey, FrozenNorm, HeadRuns, Kernels, Mat,
    MatMut, Memory, Result, RotaryShape, Span, SpanMut, Updates, Weight,
};

/// A GPU. Clones share it.
#[derive(Clone, Debug)]
pub struct CudaBackend {
    device: Device,
    /// Type of activations and of frozen weights.
    float: Float,
    /// Whether the optimizer's running means are kept in the host's memory.
    paged: bool,
}

/// What the device says, as an operation of a backend says it.
fn done<T>(result: Result<T, KernelError>) -> Result<T> {
    Ok(result?)
}

impl CudaBackend {
    /// Opens a GPU; activations and frozen weights are held in `float`.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub fn new(ordinal: usize, float: Float) -> Result<Self, KernelError> {
        Ok(Self::on(Device::open(ordinal)?, float))
    }

    /// The backend of an opened GPU.
    pub fn on(device: Device, float: Float) -> Self {
        Self { device, float, paged: false }
    }

    /// Keeps the optimizer's running means in pinned memory of the host, where its kernel reaches them.
    pub fn paging(self, paged: bool) -> Self {
        Self { paged, ..self }
    }

    /// Type of activations and of frozen weights.
    pub fn float(&self) -> Float {
        self.float
    }

    /// The GPU.
    pub fn device(&self) -> &Device {
        &self.device
    }

    fn linear_view<'a>(
        &self,
        w: Weight<'a, Self>,
        use_view: impl FnOnce(View<'_>) -> Result<(), KernelError>,
    ) -> Result<()>
    where
        Self: 'a,
    {
        match w {
            Weight::Frozen(w) => done(w.with(&self.device, use_view)),
            Weight::Live(w) => done(w.buf.factor(&self.device, self.float, &w, use_view)),
        }
    }
}

/// The matrix as it is stored.
fn view<'a>(m: &Mat<'a, CudaBuf>) -> View<'a> {
    m.buf.matrix(m.at, m.rows, m.cols, m.pitch, m.transposed)
}

/// The matrix, to be written.
fn out<'a>(m: &'a MatMut<'_, CudaBuf>) -> View<'a> {
    m.buf.changed();
    m.buf.matrix(m.at, m.rows, m.cols, m.pitch, false)
}

fn span<'a>(s: &Span<'a, CudaBuf>) -> View<'a> {
    s.buf.run(s.at, s.len)
}

fn span_out<'a>(s: &'a SpanMut<'_, CudaBuf>) -> View<'a> {
    s.buf.changed();
    s.buf.matrix(s.at, 1, s.len, s.len.max(1), false)
}

/// A frozen norm as the kernels take it.
fn head_norm<'a>(norm: &FrozenNorm<'a, CudaBuf>, heads: usize) -> HeadNorm<'a> {
    let FrozenNorm { kind, weight, bias, eps } = norm;
    HeadNorm { kind: *kind, heads, weight: weight.as_ref().map(span), bias: bias.as_ref().map(span), eps: *eps }
}

fn on_device(scores: AttentionScores<'_, CudaBuf>) -> DeviceScores<'_> {
    let AttentionScores { scale, cap, slopes, rounded, sinks, chunk } = scores;
    let [slopes, sinks] = [slopes, sinks].map(|values| values.map(CudaBuf::data));
    DeviceScores { scale, cap, slopes, rounded, sinks, chunk }
}

impl Memory for CudaBackend {
    type Buf = CudaBuf;
    type Ints = CudaInts;
    type Frozen = DeviceMatrix;
    const OWN_MEMORY: bool = true;

    fn alloc(&self, len: usize) -> Result<CudaBuf> {
        Ok(CudaBuf::new(self.device.alloc(len, self.float)?))
    }

    fn alloc_statistics(&self, len: usize) -> Result<CudaBuf> {
        Ok(CudaBuf::new(self.device.alloc(len, Float::F32)?))
    }

    fn zeros(&self, len: usize) -> Result<CudaBuf> {
        let buf = self.alloc_statistics(len)?;
        self.device.zero(buf.data().row())?;
        Ok(buf)
    }

    fn upload(&self, data: &[f32]) -> Result<CudaBuf> {
        Ok(CudaBuf::new(self.device.floats(data)?))
    }

    fn write(&self, data: &[f32], to: SpanMut<'_, CudaBuf>) -> Result<()> {
        let data = &data[..to.len];
        let place = span_out(&to);
        done(match to.buf.data().host() {
            Some(memory) => memory.write(&self.device, data, to.at),
            None => self.device.write(data, place),
        })
    }

    fn read(&self, from: Span<'_, CudaBuf>) -> Result<Vec<f32>> {
        done(match from.buf.data().host() {
            Some(memory) => memory.read(&self.device, from.at, from.len),
            None => self.device.read(span(&from)),
        })
    }

    fn duplicate(&self, buf: &CudaBuf) -> Result<CudaBuf> {
        let from = buf.data();
        let copy = self.device.alloc(from.len(), from.float())?;
        self.device.cast(from.row(), copy.row())?;
        Ok(CudaBuf::new(copy))
    }

    fn ints(&self, data: &[u32]) -> Result<CudaInts> {
        done(CudaInts::new(&self.device, data))
    }

    fn frozen(&self, parts: &[&HostTensor], _: bool) -> Result<DeviceMatrix> {
        done(DeviceMatrix::new(&self.device, self.float, parts))
    }

    fn room(&self) -> usize {
        self.device.memory().map_or(0, |(free, _)| free / self.float.bytes())
    }

    fn peak_bytes(&self) -> usize {
        self.device.pool_bytes().0
    }

    fn release(&self) {
        self.device.release();
    }

    fn clear(&self, buf: &mut CudaBuf) -> Result<()> {
        buf.changed();
        done(self.device.zero(buf.data().row()))
    }
}

impl Kernels for CudaBackend {
    fn gemm(
        &self,
        alpha: f32,
        a: Mat<'_, CudaBuf>,
        b: Mat<'_, CudaBuf>,
        beta: f32,
        c: MatMut<'_, CudaBuf>,
    ) -> Result<()> {
        let c = out(&c);
        done(a.buf.factor(&self.device, self.float, &a, |a| {
            b.buf.factor(&self.device, self.float, &b, |b| self.device.gemm(alpha, a, b, beta, c))
        }))
    }

    fn linear(&self, x: Mat<'_, CudaBuf>, w: Weight<'_, Self>, y: MatMut<'_, CudaBuf>) -> Result<()> {
        self.linear_view(w, |w| self.device.gemm(1.0, view(&x), w.t(), 0.0, out(&y)))
    }

    fn linear_backward(&self, dy: Mat<'_, CudaBuf>, w: Weight<'_, Self>, dx: MatMut<'_, CudaBuf>) -> Result<()> {
        self.linear_view(w, |w| self.device.gemm(1.0, view(&dy), w, 0.0, out(&dx)))
    }

    fn add_bias(&self, bias: Span<'_, CudaBuf>, y: MatMut<'_, CudaBuf>) -> Result<()> {
        done(self.device.add_bias(span(&bias), out(&y)))
    }

    fn bias_backward(&self, dy: Mat<'_, CudaBuf>, db: SpanMut<'_, CudaBuf>) -> Result<()> {
        done(self.device.bias_backward(view(&dy), span_out(&db)))
    }

    fn add(&self, x: &CudaBuf, y: &mut CudaBuf) -> Result<()> {
        y.changed();
        if x.data().float() == y.data().float() {
            return done(self.device.add(x.data().row(), y.data().row()));
        }
        let same = self.device.alloc(x.data().len(), y.data().float())?;
        self.device.cast(x.data().row(), same.row())?;
        done(self.device.add(same.row(), y.data().row()))
    }

    fn embed(&self, table: Weight<'_, Self>, tokens: &CudaInts, y: MatMut<'_, CudaBuf>) -> Result<()> {
        match table {
            Weight::Live(table) => done(self.device.gather(view(&table), tokens.data(), out(&y))),
            Weight::Frozen(table) => done(table.look_up(&self.device, tokens.data(), out(&y))),
        }
    }

    fn embed_backward(&self, dy: Mat<'_, CudaBuf>, tokens: &CudaInts, dtable: SpanMut<'_, CudaBuf>) -> Result<()> {
        let (groups, count) = tokens.groups(&self.device)?;
        let [ids, starts, order] = groups;
        done(self.device.embed_backward(view(&dy), [ids, starts, order], count, span_out(&dtable)))
    }

    fn select_rows(&self, x: Mat<'_, CudaBuf>, rows: &CudaInts, y: MatMut<'_, CudaBuf>) -> Result<()> {
        done(self.device.gather(view(&x), rows.data(), out(&y)))
    }

    fn spread_rows(&self, x: Mat<'_, CudaBuf>, rows: &CudaInts, y: MatMut<'_, CudaBuf>) -> Result<()> {
        done(self.device.spread_rows(view(&x), rows.data(), out(&y)))
    }

    fn rmsnorm(
        &self,
        x: Mat<'_, CudaBuf>,
        heads: usize,
        w: Span<'_, CudaBuf>,
        eps: f32,
        y: MatMut<'_, CudaBuf>,
        rstd: &mut CudaBuf,
    ) -> Result<()> {
        done(self.device.rmsnorm(view(&x), heads, span(&w), eps, out(&y), Some(rstd.data())))
    }

    fn rmsnorm_backward(
        &self,
        d: MatMut<'_, CudaBuf>,
        heads: usize,
        x: Mat<'_, CudaBuf>,
        w: Span<'_, CudaBuf>,
        rstd: &CudaBuf,
        add: Option<Mat<'_, CudaBuf>>,
        dw: Option<SpanMut<'_, CudaBuf>>,
    ) -> Result<()> {
        let (add, dw) = (add.as_ref().map(view), dw.as_ref().map(span_out));
        done(self.device.rmsnorm_backward(out(&d), heads, view(&x), span(&w), rstd.data(), add, dw))
    }

    fn add_rmsnorm(
        &self,
        x: &CudaBuf,
        y: &mut CudaBuf,
        (rows, cols): (usize, usize),
        w: Span<'_, CudaBuf>,
        eps: f32,
        normed: MatMut<'_, CudaBuf>,
        rstd: &mut CudaBuf,
    ) -> Result<()> {
        y.changed();
        let (x, y) = (x.matrix(0, rows, cols, cols, false), y.matrix(0, rows, cols, cols, false));
        done(self.device.add_rmsnorm(x, y, span(&w), eps, out(&normed), Some(rstd.data())))
    }

    fn norm(
        &self,
        x: Mat<'_, CudaBuf>,
        spans: usize,
        norm: FrozenNorm<'_, CudaBuf>,
        y: MatMut<'_, CudaBuf>,
        _: &mut CudaBuf,
    ) -> Result<()> {
        // What is divided by is computed again on the way back.
        done(self.device.norm(view(&x), head_norm(&norm, spans), out(&y)))
    }

    fn norm_backward(
        &self,
        d: MatMut<'_, CudaBuf>,
        spans: usize,
        x: Mat<'_, CudaBuf>,
        norm: FrozenNorm<'_, CudaBuf>,
        _: &CudaBuf,
    ) -> Result<()> {
        done(self.device.norm_backward(out(&d), view(&x), head_norm(&norm, spans), None))
    }

    fn rope(
        &self,
        x: MatMut<'_, CudaBuf>,
        shape: RotaryShape,
        positions: &CudaInts,
        table: &CudaBuf,
        inverse: bool,
    ) -> Result<()> {
        let RotaryShape { heads, dims, pairs } = shape;
        done(self.device.rotate(out(&x), heads, dims, pairs, positions.data(), table.data(), inverse))
    }

    fn attention(
        &self,
        [q, k, v]: [Mat<'_, CudaBuf>; 3],
        shape: AttentionShape,
        scores: AttentionScores<'_, CudaBuf>,
        bounds: &CudaInts,
        o: MatMut<'_, CudaBuf>,
        lse: &mut CudaBuf,
    ) -> Result<()> {
        let work = bounds.attention(&self.device)?;
        let qkv = [view(&q), view(&k), view(&v)];
        done(self.device.attention_with(qkv, shape, on_device(scores), work, out(&o), Some(lse.data())))
    }

    fn attention_backward(
        &self,
        [q, k, v]: [Mat<'_, CudaBuf>; 3],
        o: Mat<'_, CudaBuf>,
        lse: &CudaBuf,
        d_o: Mat<'_, CudaBuf>,
        shape: AttentionShape,
        scores: AttentionScores<'_, CudaBuf>,
        bounds: &CudaInts,
        dqkv: MatMut<'_, CudaBuf>,
    ) -> Result<()> {
        let work = bounds.attention(&self.device)?;
        let (qkv, o, d_o) = ([view(&q), view(&k), view(&v)], view(&o), view(&d_o));
        let scores = on_device(scores);
        done(self.device.attention_backward_with(qkv, shape, scores, work, o, lse.data(), d_o, out(&dqkv)))
    }

    fn activate(&self, kind: Activation, wide: Mat<'_, CudaBuf>, y: MatMut<'_, CudaBuf>) -> Result<()> {
        done(self.device.activation(kind, view(&wide), out(&y)))
    }

    fn activate_backward(&self, kind: Activation, dy: Mat<'_, CudaBuf>, wide: MatMut<'_, CudaBuf>) -> Result<()> {
        if kind == Activation::Silu && wide.cols == 2 * dy.cols {
            return done(self.device.swiglu_backward(view(&dy), out(&wide)));
        }
        done(self.device.activation_backward(kind, view(&dy), out(&wide)))
    }

    fn clip(&self, x: MatMut<'_, CudaBuf>, limit: f32) -> Result<()> {
        done(self.device.clip(limit, out(&x)))
    }

    fn clip_backward(&self, y: Mat<'_, CudaBuf>, limit: f32, d: MatMut<'_, CudaBuf>) -> Result<()> {
        done(self.device.clip_backward(limit, view(&y), out(&d)))
    }

    fn scale(&self, x: MatMut<'_, CudaBuf>, factor: f32) -> Result<()> {
        done(self.device.scale(factor, out(&x)))
    }

    fn scale_rows(&self, x: MatMut<'_, CudaBuf>, factors: &CudaBuf) -> Result<()> {
        done(self.device.scale_by(factors.data(), By::Row, out(&x)))
    }

    fn scale_columns(&self, x: MatMut<'_, CudaBuf>, factors: &CudaBuf) -> Result<()> {
        done(self.device.scale_by(factors.data(), By::Column, out(&x)))
    }

    fn column_dots(&self, a: Mat<'_, CudaBuf>, b: Mat<'_, CudaBuf>, y: &mut CudaBuf) -> Result<()> {
        done(self.device.column_dots(view(&a), view(&b), y.data()))
    }

    fn row_dots(&self, a: Mat<'_, CudaBuf>, b: Mat<'_, CudaBuf>, y: &mut CudaBuf) -> Result<()> {
        done(self.device.row_dots(view(&a), view(&b), y.data()))
    }

    fn add_rows(&self, x: Mat<'_, CudaBuf>, rows: &CudaInts, y: MatMut<'_, CudaBuf>) -> Result<()> {
        done(self.device.add_rows(view(&x), rows.data(), out(&y)))
    }

    fn add_heads(
        &self,
        (x, from): (Mat<'_, CudaBuf>, HeadRuns),
        (y, to): (MatMut<'_, CudaBuf>, HeadRuns),
        heads: usize,
        width: usize,
    ) -> Result<()> {
        let runs = |runs: HeadRuns| ColumnRuns { first: runs.first, step: runs.step };
        done(self.device.add_heads((view(&x), runs(from)), (out(&y), runs(to)), heads, width))
    }

    fn soft_limit(&self, x: MatMut<'_, CudaBuf>, cap: f32) -> Result<()> {
        done(self.device.soft_limit(cap, out(&x)))
    }

    fn soft_limit_backward(&self, y: Mat<'_, CudaBuf>, cap: f32, d: MatMut<'_, CudaBuf>) -> Result<()> {
        done(self.device.soft_limit_backward(cap, view(&y), out(&d)))
    }

    fn convolve(
        &self,
        x: Mat<'_, CudaBuf>,
        taps: &CudaBuf,
        bias: Option<&CudaBuf>,
        bounds: &CudaInts,
        y: MatMut<'_, CudaBuf>,
    ) -> Result<()> {
        let given = [taps.data(), bounds.firsts(&self.device)?];
        done(self.device.document_convolution(view(&x), given, bias.map(CudaBuf::data), out(&y)))
    }

    fn convolve_backward(
        &self,
        dy: Mat<'_, CudaBuf>,
        taps: &CudaBuf,
        bias: Option<&CudaBuf>,
        bounds: &CudaInts,
        x: MatMut<'_, CudaBuf>,
    ) -> Result<()> {
        let (rows, cols) = (x.rows, x.cols);
        let d = self.device.alloc(rows * cols, x.buf.data().float())?;
        let (given, to) = ([taps.data(), bounds.firsts(&self.device)?], d.view(0, rows, cols, cols));
        let from = [view(&dy), out(&x)];
        self.device.document_convolution_backward(from, given, bias.map(CudaBuf::data), to)?;
        done(self.device.copy_rows(to, out(&x)))
    }

    fn dropout(&self, x: Mat<'_, CudaBuf>, key: DropoutKey, y: MatMut<'_, CudaBuf>) -> Result<()> {
        done(self.device.dropout(view(&x), out(&y), (key.key, key.threshold(), key.factor()), false))
    }

    fn dropout_backward(&self, dy: Mat<'_, CudaBuf>, key: DropoutKey, dx: MatMut<'_, CudaBuf>) -> Result<()> {
        done(self.device.dropout(view(&dy), out(&dx), (key.key, key.threshold(), key.factor()), true))
    }

    /// A quarter of a gigabyte in bf16.
    fn logit_elements(&self) -> usize {
        128 << 20
    }

    fn cross_entropy(
        &self,
        logits: MatMut<'_, CudaBuf>,
        labels: Span<'_, CudaInts>,
        scale: Option<f32>,
    ) -> Result<f64> {
        let losses = self.device.alloc(labels.len, Float::F32)?;
        let logits = out(&logits);
        self.device.cross_entropy(logits, labels.buf.data(), labels.at, scale, losses.row())?;
        done(self.device.sum(losses.row(), false))
    }
}

impl Updates for CudaBackend {
    fn moments(&self, len: usize) -> Result<CudaBuf> {
        if self.paged { Ok(CudaBuf::new(self.device.zeros_on_host(len)?)) } else { self.zeros(len) }
    }

    fn accumulate(&self, from: Span<'_, CudaBuf>, to: SpanMut<'_, CudaBuf>) -> Result<()> {
        // As a bias of one row, which may begin anywhere.
        done(self.device.add_bias(span(&from), span_out(&to)))
    }

    fn sum_squares(&self, x: Span<'_, CudaBuf>) -> Result<f64> {
        done(self.device.sum(span(&x), true))
    }

    fn adamw(
        &self,
        values: &mut CudaBuf,
        grads: &CudaBuf,
        [m, v]: [&mut CudaBuf; 2],
        moments_at: usize,
        range: Range<usize>,
        step: &AdamWStep,
    ) -> Result<()> {
        let constants = AdamWConstants {
            grad_scale: step.grad_scale as f32,
            beta1: step.beta1 as f32,
            beta2: step.beta2 as f32,
            keep: (1.0 - step.learning_rate * step.weight_decay) as f32,
            step_size: (step.learning_rate / step.correction1()) as f32,
            inverse_root: (1.0 / step.correction2().sqrt()) as f32,
            epsilon: step.epsilon as f32,
        };
        let len = range.len();
        let part = |buf, at| span(&Span { buf, at, len });
        let moment = range.start - moments_at;
        let runs = [part(values, range.start), part(grads, range.start), part(m, moment), part(v, moment)];
        done(values.with_image(|image| {
            let image = image.map(|image| image.view(range.start, 1, len, len.max(1)));
            self.device.adamw(runs, image, &constants)
        }))
    }
}

impl Backend for CudaBackend {
    fn compute(&self) -> &'static str {
        match self.float {
            Float::F32 => "float32",
            Float::Bf16 => "bfloat16",
            Float::F16 => "float16",
        }
    }

    fn describe(&self) -> String {
        format!("{} on {} ({})", self.float.name(), self.device.label(), self.device.name())
    }
}
