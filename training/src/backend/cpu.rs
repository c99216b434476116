//! The CPU in f32: the engine's kernels forward, their counterparts backward, in parallel through rayon.

mod activation;
mod attention;
mod convolution;
mod cross_entropy;
mod elementwise;
mod memory;
mod norm;
mod simd;
mod views;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use harness_kernels::{
    HostTensor,
    cpu::{PackedMatrix, activation::soft_limit, gemm, gemm_in_chains, gemm_packed, gemm_packed_transposed},
};
pub use memory::CpuBuf;
use memory::Pool;
use rayon::prelude::*;
use views::{out, rows_mut, view};

use super::{
    Activation, AdamWStep, AttentionScores, AttentionShape, Backend, DropoutKey, FrozenNorm, HeadRuns, Kernels, Mat,
    MatMut, Memory, Result, RotaryShape, Span, SpanMut, Updates, Weight,
};

/// The processor, in f32.
#[derive(Clone, Debug, Default)]
pub struct CpuBackend {
    pool: Pool,
    held: Arc<Held>,
}

impl CpuBackend {
    /// A backend with an empty pool of buffers; clones share it.
    pub fn new() -> Self {
        Self::default()
    }

    /// A backend whose buffers take at most this many bytes; beyond, it fails as where there is no more memory.
    pub fn limited(bytes: usize) -> Self {
        Self { pool: Pool::limited(bytes), ..Self::default() }
    }

    /// Lets this backend and its clones take so many more buffers, after which they fail as where there is no more memory;
    /// `None`: without end. To try out what comes of a failure.
    pub fn fail_after(&self, buffers: Option<usize>) {
        self.pool.fail_after(buffers);
    }
}

/// A frozen matrix, packed once: products with its transpose read it as it lies, products with itself transpose the
/// panels as they are read.
#[derive(Debug)]
pub struct CpuFrozen {
    matrix: PackedMatrix,
    /// Bytes of all frozen matrices that are held, and the most there ever were.
    held: Arc<Held>,
}

/// Bytes held now and at most.
#[derive(Debug, Default)]
struct Held {
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Drop for CpuFrozen {
    fn drop(&mut self) {
        self.held.now.fetch_sub(self.matrix.bytes(), Ordering::Relaxed);
    }
}

impl Memory for CpuBackend {
    type Buf = CpuBuf;
    type Ints = Vec<u32>;
    type Frozen = CpuFrozen;

    fn alloc(&self, len: usize) -> Result<CpuBuf> {
        self.pool.take(len)
    }

    fn release(&self) {
        self.pool.clear();
    }

    fn zeros(&self, len: usize) -> Result<CpuBuf> {
        let mut buf = self.alloc(len)?;
        buf.fill(0.0);
        Ok(buf)
    }

    fn upload(&self, data: &[f32]) -> Result<CpuBuf> {
        let mut buf = self.alloc(data.len())?;
        buf.copy_from_slice(data);
        Ok(buf)
    }

    fn write(&self, data: &[f32], to: SpanMut<'_, CpuBuf>) -> Result<()> {
        to.buf[to.at..to.at + to.len].copy_from_slice(data);
        Ok(())
    }

    fn read(&self, from: Span<'_, CpuBuf>) -> Result<Vec<f32>> {
        Ok(from.buf[from.at..from.at + from.len].to_vec())
    }

    fn duplicate(&self, buf: &CpuBuf) -> Result<CpuBuf> {
        self.upload(buf)
    }

    fn ints(&self, data: &[u32]) -> Result<Vec<u32>> {
        Ok(data.to_vec())
    }

    fn frozen(&self, parts: &[&HostTensor], _: bool) -> Result<CpuFrozen> {
        let matrix = PackedMatrix::stacked(parts);
        let now = self.held.now.fetch_add(matrix.bytes(), Ordering::Relaxed) + matrix.bytes();
        self.held.peak.fetch_max(now, Ordering::Relaxed);
        Ok(CpuFrozen { matrix, held: Arc::clone(&self.held) })
    }

    fn peak_bytes(&self) -> usize {
        self.pool.peak_bytes() + self.held.peak.load(Ordering::Relaxed)
    }

    fn clear(&self, buf: &mut CpuBuf) -> Result<()> {
        buf.fill(0.0);
        Ok(())
    }
}

impl Kernels for CpuBackend {
    fn gemm(&self, alpha: f32, a: Mat<'_, CpuBuf>, b: Mat<'_, CpuBuf>, beta: f32, c: MatMut<'_, CpuBuf>) -> Result<()> {
        gemm(alpha, view(a), view(b), beta, out(c));
        Ok(())
    }

    fn linear(&self, x: Mat<'_, CpuBuf>, w: Weight<'_, Self>, y: MatMut<'_, CpuBuf>) -> Result<()> {
        match w {
            Weight::Frozen(w) => gemm_packed(1.0, view(x), &w.matrix, 0.0, out(y)),
            Weight::Live(w) => gemm(1.0, view(x), view(w.t()), 0.0, out(y)),
        }
        Ok(())
    }

    fn linear_backward(&self, dy: Mat<'_, CpuBuf>, w: Weight<'_, Self>, dx: MatMut<'_, CpuBuf>) -> Result<()> {
        match w {
            Weight::Frozen(w) => gemm_packed_transposed(1.0, view(dy), &w.matrix, 0.0, out(dx)),
            Weight::Live(w) => gemm_in_chains(1.0, view(dy), view(w), 0.0, out(dx)),
        }
        Ok(())
    }

    fn add_bias(&self, bias: Span<'_, CpuBuf>, y: MatMut<'_, CpuBuf>) -> Result<()> {
        elementwise::add_bias(bias, y);
        Ok(())
    }

    fn bias_backward(&self, dy: Mat<'_, CpuBuf>, db: SpanMut<'_, CpuBuf>) -> Result<()> {
        elementwise::bias_backward(dy, db);
        Ok(())
    }

    fn add(&self, x: &CpuBuf, y: &mut CpuBuf) -> Result<()> {
        elementwise::add(x, y);
        Ok(())
    }

    fn embed(&self, table: Weight<'_, Self>, tokens: &Vec<u32>, y: MatMut<'_, CpuBuf>) -> Result<()> {
        match table {
            Weight::Live(table) => elementwise::select_rows(table, tokens, y),
            Weight::Frozen(table) => {
                rows_mut(y).zip(tokens).for_each(|(y, &token)| table.matrix.weight_row(token as usize, y));
            }
        }
        Ok(())
    }

    fn embed_backward(&self, dy: Mat<'_, CpuBuf>, tokens: &Vec<u32>, dtable: SpanMut<'_, CpuBuf>) -> Result<()> {
        elementwise::embed_backward(dy, tokens, dtable);
        Ok(())
    }

    fn select_rows(&self, x: Mat<'_, CpuBuf>, rows: &Vec<u32>, y: MatMut<'_, CpuBuf>) -> Result<()> {
        elementwise::select_rows(x, rows, y);
        Ok(())
    }

    fn spread_rows(&self, x: Mat<'_, CpuBuf>, rows: &Vec<u32>, y: MatMut<'_, CpuBuf>) -> Result<()> {
        elementwise::spread_rows(x, rows, y);
        Ok(())
    }

    fn rmsnorm(
        &self,
        x: Mat<'_, CpuBuf>,
        heads: usize,
        w: Span<'_, CpuBuf>,
        eps: f32,
        y: MatMut<'_, CpuBuf>,
        rstd: &mut CpuBuf,
    ) -> Result<()> {
        norm::forward(x, heads, w, eps, y, rstd);
        Ok(())
    }

    fn rmsnorm_backward(
        &self,
        d: MatMut<'_, CpuBuf>,
        heads: usize,
        x: Mat<'_, CpuBuf>,
        w: Span<'_, CpuBuf>,
        rstd: &CpuBuf,
        add: Option<Mat<'_, CpuBuf>>,
        dw: Option<SpanMut<'_, CpuBuf>>,
    ) -> Result<()> {
        norm::backward(d, heads, x, w, rstd, add, dw);
        Ok(())
    }

    fn norm(
        &self,
        x: Mat<'_, CpuBuf>,
        spans: usize,
        norm: FrozenNorm<'_, CpuBuf>,
        y: MatMut<'_, CpuBuf>,
        rstd: &mut CpuBuf,
    ) -> Result<()> {
        norm::frozen(x, spans, norm, y, rstd);
        Ok(())
    }

    fn norm_backward(
        &self,
        d: MatMut<'_, CpuBuf>,
        spans: usize,
        x: Mat<'_, CpuBuf>,
        norm: FrozenNorm<'_, CpuBuf>,
        rstd: &CpuBuf,
    ) -> Result<()> {
        norm::frozen_backward(d, spans, x, norm, rstd);
        Ok(())
    }

    fn rope(
        &self,
        x: MatMut<'_, CpuBuf>,
        shape: RotaryShape,
        positions: &Vec<u32>,
        table: &CpuBuf,
        inverse: bool,
    ) -> Result<()> {
        elementwise::rope(x, shape, positions, table, inverse);
        Ok(())
    }

    fn attention(
        &self,
        qkv: [Mat<'_, CpuBuf>; 3],
        shape: AttentionShape,
        scores: AttentionScores<'_, CpuBuf>,
        bounds: &Vec<u32>,
        o: MatMut<'_, CpuBuf>,
        lse: &mut CpuBuf,
    ) -> Result<()> {
        attention::forward(qkv, (shape, scores), bounds, o, lse);
        Ok(())
    }

    fn attention_backward(
        &self,
        qkv: [Mat<'_, CpuBuf>; 3],
        o: Mat<'_, CpuBuf>,
        lse: &CpuBuf,
        d_o: Mat<'_, CpuBuf>,
        shape: AttentionShape,
        scores: AttentionScores<'_, CpuBuf>,
        bounds: &Vec<u32>,
        dqkv: MatMut<'_, CpuBuf>,
    ) -> Result<()> {
        attention::backward(qkv, o, lse, d_o, (shape, scores), bounds, dqkv);
        Ok(())
    }

    fn activate(&self, kind: Activation, wide: Mat<'_, CpuBuf>, y: MatMut<'_, CpuBuf>) -> Result<()> {
        activation::forward(kind, wide, y);
        Ok(())
    }

    fn activate_backward(&self, kind: Activation, dy: Mat<'_, CpuBuf>, wide: MatMut<'_, CpuBuf>) -> Result<()> {
        activation::backward(kind, dy, wide);
        Ok(())
    }

    fn clip(&self, x: MatMut<'_, CpuBuf>, limit: f32) -> Result<()> {
        elementwise::each(x, |x| x.clamp(-limit, limit));
        Ok(())
    }

    fn clip_backward(&self, y: Mat<'_, CpuBuf>, limit: f32, d: MatMut<'_, CpuBuf>) -> Result<()> {
        elementwise::each_with(y, d, |y, d| if y.abs() < limit { d } else { 0.0 });
        Ok(())
    }

    fn scale(&self, x: MatMut<'_, CpuBuf>, factor: f32) -> Result<()> {
        elementwise::each(x, |x| x * factor);
        Ok(())
    }

    fn scale_rows(&self, x: MatMut<'_, CpuBuf>, factors: &CpuBuf) -> Result<()> {
        rows_mut(x).zip(&factors[..]).for_each(|(row, factor)| row.iter_mut().for_each(|x| *x *= factor));
        Ok(())
    }

    fn scale_columns(&self, x: MatMut<'_, CpuBuf>, factors: &CpuBuf) -> Result<()> {
        rows_mut(x).with_min_len(16).for_each(|row| row.iter_mut().zip(&factors[..]).for_each(|(x, f)| *x *= f));
        Ok(())
    }

    fn column_dots(&self, a: Mat<'_, CpuBuf>, b: Mat<'_, CpuBuf>, y: &mut CpuBuf) -> Result<()> {
        elementwise::column_dots(a, b, y);
        Ok(())
    }

    fn row_dots(&self, a: Mat<'_, CpuBuf>, b: Mat<'_, CpuBuf>, y: &mut CpuBuf) -> Result<()> {
        elementwise::row_dots(a, b, y);
        Ok(())
    }

    fn add_rows(&self, x: Mat<'_, CpuBuf>, rows: &Vec<u32>, y: MatMut<'_, CpuBuf>) -> Result<()> {
        elementwise::add_rows(x, rows, y);
        Ok(())
    }

    fn add_heads(
        &self,
        x: (Mat<'_, CpuBuf>, HeadRuns),
        y: (MatMut<'_, CpuBuf>, HeadRuns),
        heads: usize,
        width: usize,
    ) -> Result<()> {
        elementwise::add_heads(x, y, heads, width);
        Ok(())
    }

    fn soft_limit(&self, x: MatMut<'_, CpuBuf>, cap: f32) -> Result<()> {
        rows_mut(x).for_each(|row| soft_limit(row, cap));
        Ok(())
    }

    fn soft_limit_backward(&self, y: Mat<'_, CpuBuf>, cap: f32, d: MatMut<'_, CpuBuf>) -> Result<()> {
        elementwise::each_with(y, d, |y, d| d * (1.0 - (y / cap) * (y / cap)));
        Ok(())
    }

    fn convolve(
        &self,
        x: Mat<'_, CpuBuf>,
        taps: &CpuBuf,
        bias: Option<&CpuBuf>,
        bounds: &Vec<u32>,
        y: MatMut<'_, CpuBuf>,
    ) -> Result<()> {
        convolution::forward(x, taps, bias, bounds, y);
        Ok(())
    }

    fn convolve_backward(
        &self,
        dy: Mat<'_, CpuBuf>,
        taps: &CpuBuf,
        bias: Option<&CpuBuf>,
        bounds: &Vec<u32>,
        x: MatMut<'_, CpuBuf>,
    ) -> Result<()> {
        convolution::backward(dy, taps, bias, bounds, x);
        Ok(())
    }

    fn dropout(&self, x: Mat<'_, CpuBuf>, key: DropoutKey, y: MatMut<'_, CpuBuf>) -> Result<()> {
        elementwise::dropout(x, key, y);
        Ok(())
    }

    fn dropout_backward(&self, dy: Mat<'_, CpuBuf>, key: DropoutKey, dx: MatMut<'_, CpuBuf>) -> Result<()> {
        elementwise::dropout_backward(dy, key, dx);
        Ok(())
    }

    fn cross_entropy(&self, logits: MatMut<'_, CpuBuf>, labels: Span<'_, Vec<u32>>, scale: Option<f32>) -> Result<f64> {
        Ok(cross_entropy::cross_entropy(logits, &labels.buf[labels.at..labels.at + labels.len], scale))
    }
}

impl Updates for CpuBackend {
    fn sum_squares(&self, x: Span<'_, CpuBuf>) -> Result<f64> {
        Ok(elementwise::sum_squares(&x.buf[x.at..x.at + x.len]))
    }

    fn adamw(
        &self,
        values: &mut CpuBuf,
        grads: &CpuBuf,
        [m, v]: [&mut CpuBuf; 2],
        moments_at: usize,
        range: std::ops::Range<usize>,
        step: &AdamWStep,
    ) -> Result<()> {
        elementwise::adamw(
            &mut values[range.clone()],
            &grads[range.clone()],
            &mut m[range.start - moments_at..range.end - moments_at],
            &mut v[range.start - moments_at..range.end - moments_at],
            step,
        );
        Ok(())
    }
}

impl Backend for CpuBackend {}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use harness_kernels::{
        HostData,
        gguf::{BlockTensor, BlockType},
    };

    use super::*;

    /// Products with a frozen matrix of two parts, forward and backward.
    fn products(parts: &[&HostTensor]) -> Result<(Vec<f32>, Vec<f32>)> {
        let backend = CpuBackend::new();
        let frozen = backend.frozen(parts, true)?;
        let (rows, out, inp) = (3, 7, 5);
        let values = |n: usize| backend.upload(&(0..n).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<_>>());
        let (x, dy) = (values(rows * inp)?, values(rows * out)?);
        let (mut y, mut dx) = (backend.alloc(rows * out)?, backend.alloc(rows * inp)?);
        let weight = Weight::Frozen(&frozen);
        backend.linear(Mat::new(&x, 0, rows, inp), weight, MatMut::new(&mut y, 0, rows, out))?;
        backend.linear_backward(Mat::new(&dy, 0, rows, out), weight, MatMut::new(&mut dx, 0, rows, inp))?;
        Ok((y.to_vec(), dx.to_vec()))
    }

    #[test]
    fn weights_stored_in_16_bits_give_the_products_of_their_values() {
        let values: Vec<f32> = (0..35).map(|i| (i as f32 * 1.3).cos()).collect();
        let b16 = |rows: std::ops::Range<usize>| {
            let data: Vec<bf16> = values[rows.start * 5..rows.end * 5].iter().map(|&x| bf16::from_f32(x)).collect();
            HostTensor { shape: vec![rows.len(), 5], data: HostData::Bf16(data.into()) }
        };
        let h16 = |rows: std::ops::Range<usize>| {
            let data: Vec<f16> = values[rows.start * 5..rows.end * 5].iter().map(|&x| f16::from_f32(x)).collect();
            HostTensor { shape: vec![rows.len(), 5], data: HostData::F16(data.into()) }
        };
        let wide = |t: &HostTensor| HostTensor::from_f32(t.shape.clone(), t.to_f32().into_owned());
        for [a, b] in [[b16(0..4), b16(4..7)], [h16(0..4), h16(4..7)], [b16(0..4), h16(4..7)]] {
            let (found, expected) = (products(&[&a, &b]), products(&[&wide(&a), &wide(&b)]));
            assert_eq!(found.expect("memory"), expected.expect("memory"));
        }
    }

    #[test]
    fn weights_in_blocks_give_the_products_of_their_values() {
        let backend = CpuBackend::new();
        let values: Vec<f32> = (0..24 * 256).map(|i| (i as f32 * 1.3).cos()).collect();
        for kind in [BlockType::Q8_0, BlockType::Q4K] {
            let bytes = kind.quantise(&values).expect("a type that is written").into();
            let data = HostData::Blocks(BlockTensor { kind, bytes, len: values.len() });
            let blocks = HostTensor { shape: vec![24, 256], data };
            let wide = HostTensor::from_f32([24, 256], blocks.to_f32().into_owned());
            let run = |weight: &HostTensor| -> Result<(Vec<f32>, Vec<f32>)> {
                let frozen = backend.frozen(&[weight], true)?;
                let (mut y, mut dx) = (backend.alloc(3 * 24)?, backend.alloc(3 * 256)?);
                let (x, dy) = (backend.upload(&values[..3 * 256])?, backend.upload(&values[..3 * 24])?);
                let weight = Weight::Frozen(&frozen);
                backend.linear(Mat::new(&x, 0, 3, 256), weight, MatMut::new(&mut y, 0, 3, 24))?;
                backend.linear_backward(Mat::new(&dy, 0, 3, 24), weight, MatMut::new(&mut dx, 0, 3, 256))?;
                Ok((y.to_vec(), dx.to_vec()))
            };
            assert_eq!(run(&blocks).expect("memory"), run(&wide).expect("memory"), "{kind:?}");
        }
    }

    #[test]
    fn products_by_hand() {
        let w = HostTensor::from_f32([7, 5], (0..35).map(|i| i as f32).collect::<Vec<_>>());
        let (y, dx) = products(&[&w]).expect("memory");
        let at = |i: usize| (i as f32 * 0.7).sin();
        let y_last: f32 = (0..5).map(|i| at(10 + i) * (30 + i) as f32).sum();
        let dx_first: f32 = (0..7).map(|o| at(o) * (o * 5) as f32).sum();
        assert!((y[20] - y_last).abs() < 1e-4 && (dx[0] - dx_first).abs() < 1e-4);
    }
}
