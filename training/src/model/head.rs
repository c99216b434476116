//! Last norm, output head and cross-entropy, over the rows that have a label only.

use harness_decoder::DecoderConfig;

use crate::{
    backend::{Backend, FrozenNorm, Mat, MatMut, NormKind, Result, Span, SpanMut, Weight},
    block::GradSink,
    data::Batch,
};

/// The head and its norm.
pub(super) struct Head<'a, B: Backend> {
    pub(super) backend: &'a B,
    pub(super) config: &'a DecoderConfig,
    pub(super) norm: FrozenNorm<'a, B::Buf>,
    pub(super) norm_grad: Option<usize>,
    /// From the hidden size to the width of the head, where they differ.
    pub(super) narrow: Option<&'a B::Frozen>,
    pub(super) weight: Weight<'a, B>,
    pub(super) weight_grad: Option<usize>,
    pub(super) bias: Option<Span<'a, B::Buf>>,
}

/// What losses are multiplied with before their gradient is taken.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scales<'a> {
    /// All with the same.
    Same(f32),
    /// Those of each document with its own.
    ByDocument(&'a [f32]),
}

/// The rows with a label, normed.
struct Labelled<B: Backend> {
    rows: B::Ints,
    labels: B::Ints,
    len: usize,
    x: B::Buf,
    /// What the head sees.
    normed: B::Buf,
    rstd: B::Buf,
}

impl<B: Backend> Head<'_, B> {
    fn labelled(&self, x: &B::Buf, batch: &Batch) -> Result<Option<Labelled<B>>> {
        let (b, hidden) = (self.backend, self.config.hidden_size);
        let (rows, labels): (Vec<u32>, Vec<u32>) =
            batch.labels.iter().enumerate().filter_map(|(i, label)| Some((i as u32, (*label)?))).unzip();
        let len = rows.len();
        if len == 0 {
            return Ok(None);
        }
        let (rows, labels) = (b.ints(&rows)?, b.ints(&labels)?);
        let mut selected = b.alloc(len * hidden)?;
        b.select_rows(Mat::new(x, 0, batch.len(), hidden), &rows, MatMut::new(&mut selected, 0, len, hidden))?;
        let (mut normed, mut rstd) = (b.alloc(len * hidden)?, b.alloc_statistics(len)?);
        let (from, out) = (Mat::new(&selected, 0, len, hidden), MatMut::new(&mut normed, 0, len, hidden));
        match self.plain_norm() {
            _ if !self.config.block.final_norm => normed = b.duplicate(&selected)?,
            Some(weight) => b.rmsnorm(from, 1, weight, self.norm.eps, out, &mut rstd)?,
            None => b.norm(from, 1, self.norm, out, &mut rstd)?,
        }
        if let Some(narrow) = self.narrow {
            let mut seen = b.alloc(len * self.width())?;
            let to = MatMut::new(&mut seen, 0, len, self.width());
            b.linear(Mat::new(&normed, 0, len, hidden), Weight::Frozen(narrow), to)?;
            normed = seen;
        }
        Ok(Some(Labelled { rows, labels, len, x: selected, normed, rstd }))
    }

    /// The weight of the last norm, where that is an RMS norm and nothing else.
    fn plain_norm(&self) -> Option<Span<'_, B::Buf>> {
        self.norm.weight.filter(|_| self.norm.kind == NormKind::Rms && self.norm.bias.is_none())
    }

    /// Width of what the head sees.
    fn width(&self) -> usize {
        self.config.block.embedding_width.unwrap_or(self.config.hidden_size)
    }

    /// Rows of logits worked on at once.
    fn chunk(&self) -> usize {
        (self.backend.logit_elements() / self.config.vocab_size.max(1)).max(16)
    }

    /// The summed loss.
    pub(super) fn loss(&self, x: &B::Buf, batch: &Batch) -> Result<f64> {
        let Some(labelled) = self.labelled(x, batch)? else { return Ok(0.0) };
        self.sum(&labelled, 0..labelled.len)
    }

    /// The summed loss of some of the rows with a label.
    fn sum(&self, labelled: &Labelled<B>, rows: std::ops::Range<usize>) -> Result<f64> {
        let mut loss = 0.0;
        self.each_chunk(labelled, rows, None, |_, _, chunk_loss| {
            loss += chunk_loss;
            Ok(())
        })?;
        Ok(loss)
    }

    /// The rows with a label of every document, among those with a label.
    fn documents(batch: &Batch) -> Vec<std::ops::Range<usize>> {
        let mut end = 0;
        let rows = batch.boundaries.windows(2).map(|bounds| {
            let start = end;
            end += batch.labels[bounds[0]..bounds[1]].iter().flatten().count();
            start..end
        });
        rows.collect()
    }

    /// The summed loss of every document.
    pub(super) fn losses(&self, x: &B::Buf, batch: &Batch) -> Result<Vec<f64>> {
        let documents = Self::documents(batch);
        let Some(labelled) = self.labelled(x, batch)? else { return Ok(vec![0.0; documents.len()]) };
        documents.into_iter().map(|rows| self.sum(&labelled, rows)).collect()
    }

    /// Computes the logits chunk by chunk; with `scale` they come as their gradient.
    fn each_chunk(
        &self,
        labelled: &Labelled<B>,
        span: std::ops::Range<usize>,
        scale: Option<f32>,
        mut f: impl FnMut(std::ops::Range<usize>, &B::Buf, f64) -> Result<()>,
    ) -> Result<()> {
        let (b, width, vocab) = (self.backend, self.width(), self.config.vocab_size);
        let (factor, cap) = (self.config.block.logit_scale, self.config.block.logit_cap);
        let chunk = self.chunk().min(span.len()).max(1);
        let mut logits = b.alloc(chunk * vocab)?;
        for from in span.clone().step_by(chunk) {
            let rows = chunk.min(span.end - from);
            let x = Mat::new(&labelled.normed, from * width, rows, width);
            b.linear(x, self.weight, MatMut::new(&mut logits, 0, rows, vocab))?;
            if let Some(bias) = self.bias {
                b.add_bias(bias, MatMut::new(&mut logits, 0, rows, vocab))?;
            }
            if factor != 1.0 {
                b.scale(MatMut::new(&mut logits, 0, rows, vocab), factor)?;
            }
            let mut limited = None;
            if let Some(cap) = cap {
                b.soft_limit(MatMut::new(&mut logits, 0, rows, vocab), cap)?;
                limited = scale.map(|_| b.duplicate(&logits)).transpose()?;
            }
            let labels = Span { buf: &labelled.labels, at: from, len: rows };
            let loss = b.cross_entropy(MatMut::new(&mut logits, 0, rows, vocab), labels, scale)?;
            if let (Some(limited), Some(cap)) = (limited, cap) {
                let to = MatMut::new(&mut logits, 0, rows, vocab);
                b.soft_limit_backward(Mat::new(&limited, 0, rows, vocab), cap, to)?;
            }
            if factor != 1.0 && scale.is_some() {
                b.scale(MatMut::new(&mut logits, 0, rows, vocab), factor)?;
            }
            f(from..from + rows, &logits, loss)?;
        }
        Ok(())
    }

    /// The summed loss, and the gradient of the scaled loss by `x`; `None` without labels.
    pub(super) fn loss_and_gradient(
        &self,
        x: &B::Buf,
        batch: &Batch,
        scales: Scales<'_>,
        sink: &mut dyn GradSink<B>,
    ) -> Result<(f64, Option<B::Buf>)> {
        let (b, hidden, vocab) = (self.backend, self.config.hidden_size, self.config.vocab_size);
        let Some(labelled) = self.labelled(x, batch)? else { return Ok((0.0, None)) };
        let width = self.width();
        let (mut loss, mut d) = (0.0, b.alloc(labelled.len * width)?);
        let spans: Vec<(std::ops::Range<usize>, f32)> = match scales {
            Scales::Same(scale) => vec![(0..labelled.len, scale)],
            Scales::ByDocument(scales) => Self::documents(batch).into_iter().zip(scales.iter().copied()).collect(),
        };
        let mut take = |rows: std::ops::Range<usize>, logits: &B::Buf, chunk_loss: f64| {
            loss += chunk_loss;
            let dlogits = Mat::new(logits, 0, rows.len(), vocab);
            b.linear_backward(dlogits, self.weight, MatMut::new(&mut d, rows.start * width, rows.len(), width))?;
            if let Some(at) = self.weight_grad {
                let x = Mat::new(&labelled.normed, rows.start * width, rows.len(), width);
                b.gemm(1.0, dlogits.t(), x, 1.0, MatMut::new(sink.grads(), at, vocab, width))?;
            }
            Ok(())
        };
        for (span, scale) in spans {
            self.each_chunk(&labelled, span, Some(scale), &mut take)?;
        }
        let rows = labelled.len;
        if let Some(narrow) = self.narrow {
            let mut wide = b.alloc(rows * hidden)?;
            let to = MatMut::new(&mut wide, 0, rows, hidden);
            b.linear_backward(Mat::new(&d, 0, rows, width), Weight::Frozen(narrow), to)?;
            d = wide;
        }
        let (x, to) = (Mat::new(&labelled.x, 0, rows, hidden), MatMut::new(&mut d, 0, rows, hidden));
        match self.plain_norm() {
            _ if !self.config.block.final_norm => {}
            Some(weight) => {
                let dw = self.norm_grad.map(|at| SpanMut { buf: sink.grads(), at, len: hidden });
                b.rmsnorm_backward(to, 1, x, weight, &labelled.rstd, None, dw)?;
            }
            None => b.norm_backward(to, 1, x, self.norm, &labelled.rstd)?,
        }
        let mut dx = b.alloc(batch.len() * hidden)?;
        let to = MatMut::new(&mut dx, 0, batch.len(), hidden);
        b.spread_rows(Mat::new(&d, 0, labelled.len, hidden), &labelled.rows, to)?;
        Ok((loss, Some(dx)))
    }
}
