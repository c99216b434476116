//! The way back through the steps of a block. Each formula stands at its step.

use std::sync::Arc;

use super::{
    buffers::{own, zeroed},
    context::BlockContext,
    key::VectorKey,
    norms::NormStep,
    sink::GradSink,
    steps::LatentCopy,
    tape::{Heads, Node, Saved, Step, Value},
    view::LayerView,
};
use crate::backend::{Activation, Backend, HeadRuns, Mat, MatMut, Result, Span, SpanMut};

/// Gradients of a block's values, as far as they are known.
struct Back<'a, 'c, B: Backend> {
    ctx: &'a BlockContext<'c, B>,
    view: &'a LayerView<'c, B>,
    values: Vec<Value<B>>,
    grads: Vec<Option<Arc<B::Buf>>>,
    heads: Option<Heads<B>>,
}

impl<B: Backend> BlockContext<'_, B> {
    /// Adds the gradients of what is trained to the sink; the gradient of the block's input, if it is needed: `dy` is that
    /// of its output.
    ///
    /// # Errors
    /// If memory runs out, or the device fails.
    pub fn backward(
        &self,
        dy: B::Buf,
        saved: Saved<B>,
        view: &LayerView<'_, B>,
        sink: &mut dyn GradSink<B>,
    ) -> Result<Option<B::Buf>> {
        let Saved { values, mut steps, heads, output } = saved;
        let mut grads: Vec<Option<Arc<B::Buf>>> = values.iter().map(|_| None).collect();
        grads[output] = Some(Arc::new(dy));
        let mut back = Back { ctx: self, view, values, grads, heads };
        while let Some(step) = steps.pop() {
            back.step(step, &steps, sink)?;
        }
        back.grads[0].take().map(|grad| own(self.backend, grad)).transpose()
    }
}

impl<B: Backend> Back<'_, '_, B> {
    fn cols(&self, node: Node) -> usize {
        self.values[node].cols
    }

    /// Adds to the gradient of a value.
    fn give(&mut self, node: Node, grad: Arc<B::Buf>) -> Result<()> {
        if !self.values[node].needs {
            return Ok(());
        }
        self.grads[node] = Some(match self.grads[node].take() {
            None => grad,
            Some(before) => {
                let mut sum = own(self.ctx.backend, before)?;
                self.ctx.backend.add(&grad, &mut sum)?;
                Arc::new(sum)
            }
        });
        Ok(())
    }

    /// The gradient of a value, to be changed.
    fn own_grad(&mut self, node: Node) -> Result<Option<B::Buf>> {
        self.grads[node].take().map(|grad| own(self.ctx.backend, grad)).transpose()
    }

    /// The elements of a value: as they were kept, or made again by its step, which is among those before.
    fn value(&mut self, node: Node, before: &[Step<B>]) -> Result<Arc<B::Buf>> {
        let (b, rows) = (self.ctx.backend, self.ctx.rows.len);
        if let Some(held) = &self.values[node].held {
            return Ok(Arc::clone(held));
        }
        let made = self.values[node].made.and_then(|made| before.get(made));
        let cols = self.cols(node);
        let mut again = b.alloc(rows * cols)?;
        match made {
            Some(Step::Norm { norm, x, .. }) => {
                let held = self.value(*x, before)?;
                let from = Mat::new(&*held, 0, rows, self.cols(*x)).columns(0, cols);
                let mut rstd = b.alloc_statistics(rows * norm.spans)?;
                norm.forward((b, self.view), from, MatMut::new(&mut again, 0, rows, cols), &mut rstd)?;
            }
            Some(Step::Activate { kind, wide, .. }) => {
                let held = self.value(*wide, before)?;
                let from = Mat::new(&*held, 0, rows, self.cols(*wide));
                b.activate(*kind, from, MatMut::new(&mut again, 0, rows, cols))?;
            }
            _ => unreachable!("a value that is needed was kept or can be made again"),
        }
        Ok(Arc::new(again))
    }

    fn step(&mut self, step: Step<B>, before: &[Step<B>], sink: &mut dyn GradSink<B>) -> Result<()> {
        let (b, rows) = (self.ctx.backend, self.ctx.rows.len);
        match step {
            Step::Norm { norm, x, y, rstd } => self.norm(norm, x, y, &rstd, sink),
            Step::Linear { key, x, y, u } => {
                let Some(dy) = self.grads[y].take() else { return Ok(()) };
                let linear = self.view.linear(key);
                let input = if linear.is_trained() { Some(self.value(x, before)?) } else { None };
                let needed = self.values[x].needs;
                let dx = linear.backward(self.ctx, (&dy, rows), input.as_deref(), u, needed, sink)?;
                dx.map_or(Ok(()), |dx| self.give(x, Arc::new(dx)))
            }
            Step::Sum { x, branch, y } => {
                let Some(d) = self.grads[y].take() else { return Ok(()) };
                self.give(x, Arc::clone(&d))?;
                self.give(branch, d)
            }
            Step::Activate { kind, wide, y } => self.activate(kind, wide, y),
            Step::NormHeads { heads, rstd } => self.norm_heads(heads, &rstd, sink),
            Step::Clip { heads, limit, qk, all } => {
                let Some(mut d) = self.own_grad(heads)? else { return Ok(()) };
                let (width, qk_width) = (self.cols(heads), self.ctx.config.q_dim() + self.ctx.config.kv_dim());
                let whole = Mat::new(&all, 0, rows, width);
                match &qk {
                    Some(qk) => {
                        let v = width - qk_width;
                        let to = MatMut::new(&mut d, 0, rows, width).columns(0, qk_width);
                        b.clip_backward(Mat::new(qk, 0, rows, qk_width), limit, to)?;
                        let to = MatMut::new(&mut d, 0, rows, width).columns(qk_width, v);
                        b.clip_backward(whole.columns(qk_width, v), limit, to)?;
                    }
                    None => b.clip_backward(whole, limit, MatMut::new(&mut d, 0, rows, width))?,
                }
                self.give(heads, Arc::new(d))
            }
            Step::Rotate { heads, rotation } => {
                let Some(mut d) = self.own_grad(heads)? else { return Ok(()) };
                let (width, qk) = (self.cols(heads), self.ctx.config.q_dim() + self.ctx.config.kv_dim());
                let (positions, table) = self.ctx.rotary(rotation);
                let to = MatMut::new(&mut d, 0, rows, width).columns(0, qk);
                b.rope(to, self.ctx.rotary_shape(), positions, table, true)?;
                self.give(heads, Arc::new(d))
            }
            Step::ScaleQueries { heads } => {
                let (Some(mut d), Some(factors)) = (self.own_grad(heads)?, &self.ctx.rows.query_factors) else {
                    return Ok(());
                };
                let to = MatMut::new(&mut d, 0, rows, self.cols(heads)).columns(0, self.ctx.config.q_dim());
                b.scale_rows(to, factors)?;
                self.give(heads, Arc::new(d))
            }
            Step::Assemble { parts, heads } => self.assemble(parts, heads),
            Step::Attend { heads, y, lse } => self.attend(heads, y, &lse),
            Step::Cut { x, y } => {
                let Some(dy) = self.grads[y].take() else { return Ok(()) };
                let (wide, narrow, heads) = (self.cols(x), self.cols(y), self.ctx.config.num_heads);
                let mut dx = zeroed(b, rows * wide)?;
                let from = (Mat::new(&*dy, 0, rows, narrow), HeadRuns { first: 0, step: narrow / heads });
                let to = (MatMut::new(&mut dx, 0, rows, wide), HeadRuns { first: 0, step: wide / heads });
                b.add_heads(from, to, heads, narrow / heads)?;
                self.give(x, Arc::new(dx))
            }
            Step::Convolve { x, y } => {
                let Some(dy) = self.grads[y].take() else { return Ok(()) };
                let (taps, bias) = (self.view.buffer(VectorKey::Taps), self.view.buffer(VectorKey::TapsBias));
                let held = self.values[x].held.take().expect("kept for the way back");
                let mut d = own(b, held)?;
                let from = Mat::new(&*dy, 0, rows, self.cols(y));
                let to = MatMut::new(&mut d, 0, rows, self.cols(x));
                b.convolve_backward(from, taps.expect("a convolution has taps"), bias, &self.ctx.rows.bounds, to)?;
                self.give(x, Arc::new(d))
            }
            Step::Scale { x, factor } => {
                let Some(mut d) = self.own_grad(x)? else { return Ok(()) };
                b.scale(MatMut::new(&mut d, 0, rows, self.cols(x)), factor)?;
                self.give(x, Arc::new(d))
            }
            Step::Gate { x, logits, before, factors } => self.gate(x, logits, &before, &factors),
            Step::Experts { x, y, mixture } => {
                let Some(dy) = self.grads[y].take() else { return Ok(()) };
                let input = if mixture.reads_input { Some(self.value(x, before)?) } else { None };
                let needed = self.values[x].needs;
                let dx = mixture.backward(self.ctx, self.view, &dy, input.as_deref(), needed, sink)?;
                dx.map_or(Ok(()), |dx| self.give(x, Arc::new(dx)))
            }
        }
    }

    /// The gradient of the input of a norm. What a residual stream has collected already is added in the same pass where
    /// the device can.
    fn norm(&mut self, norm: NormStep, x: Node, y: Node, rstd: &B::Buf, sink: &mut dyn GradSink<B>) -> Result<()> {
        let (b, rows, wide, cols) = (self.ctx.backend, self.ctx.rows.len, self.cols(x), self.cols(y));
        let Some(mut d) = self.own_grad(y)? else { return Ok(()) };
        let held = self.values[x].held.clone().expect("kept for the way back");
        let from = Mat::new(&*held, 0, rows, wide).columns(0, cols);
        let to = MatMut::new(&mut d, 0, rows, cols);
        let adds = wide == cols && norm.plain(self.view, cols).is_some();
        let before = if adds { self.grads[x].take() } else { None };
        let add = before.as_ref().map(|before| Mat::new(&**before, 0, rows, wide));
        norm.backward((b, self.view), to, (from, rstd), add, sink)?;
        if wide == cols {
            return self.give(x, Arc::new(d));
        }
        // The norm saw the first columns alone.
        let mut all = match self.own_grad(x)? {
            Some(all) => all,
            None => zeroed(b, rows * wide)?,
        };
        let whole = HeadRuns { first: 0, step: 0 };
        let to = (MatMut::new(&mut all, 0, rows, wide), whole);
        b.add_heads((Mat::new(&d, 0, rows, cols), whole), to, 1, cols)?;
        self.give(x, Arc::new(all))
    }

    fn activate(&mut self, kind: Activation, wide: Node, y: Node) -> Result<()> {
        let (b, rows) = (self.ctx.backend, self.ctx.rows.len);
        let Some(dy) = self.grads[y].take() else { return Ok(()) };
        let held = self.values[wide].held.take().expect("kept for the way back");
        let mut d = own(b, held)?;
        let from = Mat::new(&*dy, 0, rows, self.cols(y));
        b.activate_backward(kind, from, MatMut::new(&mut d, 0, rows, self.cols(wide)))?;
        drop(dy);
        self.give(wide, Arc::new(d))
    }

    fn norm_heads(&mut self, heads: Node, rstd: &[B::Buf; 2], sink: &mut dyn GradSink<B>) -> Result<()> {
        let (b, rows, width) = (self.ctx.backend, self.ctx.rows.len, self.cols(heads));
        let (Some(mut d), Some(norms)) = (self.own_grad(heads)?, self.ctx.head_norms()) else {
            return Ok(());
        };
        let held = self.heads.as_ref().expect("queries, keys and values are kept");
        let x = Mat::new(&held.all, 0, rows, width);
        for ((first, cols, norm), rstd) in norms.into_iter().zip(rstd) {
            let to = MatMut::new(&mut d, 0, rows, width).columns(first, cols);
            norm.backward((b, self.view), to, (x.columns(first, cols), rstd), None, sink)?;
        }
        self.give(heads, Arc::new(d))
    }

    fn attend(&mut self, heads: Node, y: Node, lse: &B::Buf) -> Result<()> {
        let (ctx, rows, width) = (self.ctx, self.ctx.rows.len, self.cols(heads));
        let (b, c, q) = (ctx.backend, ctx.config, ctx.config.q_dim());
        let Some(dy) = self.grads[y].take() else { return Ok(()) };
        let held = self.heads.as_ref().expect("queries, keys and values are kept");
        let output = self.values[y].held.take().expect("kept for the way back");
        let mut d = b.alloc(rows * width)?;
        let (o, d_o) = (Mat::new(&*output, 0, rows, q), Mat::new(&*dy, 0, rows, q));
        let scores = ctx.scores(self.view.buffer(VectorKey::Sinks));
        let to = MatMut::new(&mut d, 0, rows, width);
        b.attention_backward(ctx.qkv(held), o, lse, d_o, c.attention(ctx.layer), scores, &ctx.rows.bounds, to)?;
        self.give(heads, Arc::new(d))
    }

    /// The gradients of the parts that queries, keys and values of latent attention were made of.
    fn assemble(&mut self, parts: [Node; 3], heads: Node) -> Result<()> {
        let (b, c, rows) = (self.ctx.backend, self.ctx.config, self.ctx.rows.len);
        let (Some(d), Some(latent)) = (self.grads[heads].take(), c.block.latent) else { return Ok(()) };
        self.heads = None;
        let mut grads = Vec::with_capacity(parts.len());
        for node in parts {
            grads.push(zeroed(b, rows * self.cols(node))?);
        }
        for copy in LatentCopy::all(c.num_heads, &latent) {
            let part = copy.from as usize;
            let from = (Mat::new(&*d, 0, rows, self.cols(heads)), copy.write);
            let to = MatMut::new(&mut grads[part], 0, rows, self.cols(parts[part]));
            b.add_heads(from, (to, copy.read), c.num_heads, copy.width)?;
        }
        parts.into_iter().zip(grads).try_for_each(|(node, grad)| self.give(node, Arc::new(grad)))
    }

    /// With s the sigmoid of a row's logit, y = s x: dx = s dy, dlogit = s (1 - s) (dy · x).
    fn gate(&mut self, x: Node, logits: Node, before: &B::Buf, factors: &[f32]) -> Result<()> {
        let (b, rows, cols) = (self.ctx.backend, self.ctx.rows.len, self.cols(x));
        let Some(mut d) = self.own_grad(x)? else { return Ok(()) };
        if self.values[logits].needs {
            let mut dots = b.alloc_statistics(rows)?;
            b.row_dots(Mat::new(&d, 0, rows, cols), Mat::new(before, 0, rows, cols), &mut dots)?;
            let dots = b.read(Span { buf: &dots, at: 0, len: rows })?;
            let values: Vec<f32> = dots.iter().zip(factors).map(|(dot, s)| dot * s * (1.0 - s)).collect();
            let mut grad = b.alloc(rows)?;
            b.write(&values, SpanMut { buf: &mut grad, at: 0, len: rows })?;
            self.give(logits, Arc::new(grad))?;
        }
        b.scale_rows(MatMut::new(&mut d, 0, rows, cols), &b.upload(factors)?)?;
        self.give(x, Arc::new(d))
    }
}
