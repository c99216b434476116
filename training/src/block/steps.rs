//! The steps of a block on the way forward, written down as they are taken.

use std::sync::Arc;

use harness_decoder::{BlockNorm, Latent, Placement, QueryScale, Rotation, Steps, activation_of, sigmoid};

use super::{
    buffers::zeroed,
    experts::Mixture,
    key::{MatrixKey, VectorKey},
    norms::NormStep,
    tape::{Heads, Node, Pending, Step, Tape},
};
use crate::backend::{
    Activation, AttentionScores, Backend, BackendError, HeadRuns, Mat, MatMut, NormKind, Result, Span,
};

impl<B: Backend> Tape<'_, '_, B> {
    fn rows(&self) -> usize {
        self.ctx.rows.len
    }

    /// `norm` of the first `cols` columns of a value.
    fn normed(&mut self, norm: NormStep, x: Node, cols: usize) -> Result<Node> {
        let (b, rows) = (self.ctx.backend, self.rows());
        let (mut y, mut rstd) = (b.alloc(rows * cols)?, b.alloc_statistics(rows * norm.spans)?);
        let plain = norm.plain(self.view, cols);
        let waits = self.pending.take_if(|pending| pending.sum == x && norm.spans == 1 && plain.is_some());
        match (plain, waits) {
            (Some(weight), Some(Pending { x: before, mut branch, .. })) => {
                let to = MatMut::new(&mut y, 0, rows, cols);
                b.add_rmsnorm(&before, &mut branch, (rows, cols), weight.span, norm.eps, to, &mut rstd)?;
                self.values[x].held = Some(Arc::new(branch));
            }
            _ => {
                let held = self.held(x)?;
                let from = Mat::new(&*held, 0, rows, self.values[x].cols).columns(0, cols);
                let to = MatMut::new(&mut y, 0, rows, cols);
                norm.forward((b, self.view), from, to, &mut rstd)?;
            }
        }
        let needs = self.values[x].needs || norm.is_trained(self.view);
        let y = self.value(Some(y), cols, needs);
        self.values[y].made = Some(self.steps.len());
        self.steps.push(Step::Norm { norm, x, y, rstd });
        Ok(y)
    }

    /// A norm of the width of the residual stream.
    fn wide_norm(&self, keys: [Option<VectorKey>; 2]) -> NormStep {
        NormStep { kind: self.ctx.config.block.norm.kind, keys, eps: self.ctx.config.norm_eps, spans: 1 }
    }

    /// A linear of a value.
    fn linear(&mut self, key: MatrixKey, x: Node) -> Result<Node> {
        let linear = self.view.linear(key);
        let held = self.held(x)?;
        let (y, u) = linear.forward(self.ctx, &held, self.rows())?;
        let needs = self.values[x].needs || linear.is_trained();
        let y = self.value(Some(y), linear.out, needs);
        self.steps.push(Step::Linear { key, x, y, u });
        Ok(y)
    }

    /// The activation of a value.
    fn activated(&mut self, wide: Node) -> Result<Node> {
        let (b, rows, cols) = (self.ctx.backend, self.rows(), self.values[wide].cols);
        let (kind, inner) = (self.activation(), if self.ctx.config.block.gated { cols / 2 } else { cols });
        let held = self.held(wide)?;
        let mut y = b.alloc(rows * inner)?;
        b.activate(kind, Mat::new(&*held, 0, rows, cols), MatMut::new(&mut y, 0, rows, inner))?;
        let needs = self.values[wide].needs;
        let y = self.value(Some(y), inner, needs);
        self.values[y].made = Some(self.steps.len());
        self.steps.push(Step::Activate { kind, wide, y });
        Ok(y)
    }

    /// The activation of this block.
    fn activation(&self) -> Activation {
        activation_of(self.ctx.config.block.activation, &self.view.host().xielu)
    }

    /// What becomes of a branch before it is added: its norm and its factor.
    fn finished(&mut self, mut branch: Node, norm: VectorKey) -> Result<Node> {
        let (rows, cols, factor) = (self.rows(), self.values[branch].cols, self.ctx.config.block.residual_scale);
        if self.view.vector(norm).is_some() {
            branch = self.normed(self.wide_norm([Some(norm), None]), branch, cols)?;
        }
        if factor != 1.0 {
            let mut scaled = self.take(branch)?;
            self.ctx.backend.scale(MatMut::new(&mut scaled, 0, rows, cols), factor)?;
            self.values[branch].held = Some(Arc::new(scaled));
            self.steps.push(Step::Scale { x: branch, factor });
        }
        Ok(branch)
    }

    /// `x += branch`.
    fn add(&mut self, branch: Node) -> Result<()> {
        let (old, x) = (self.x, self.held(self.x)?);
        let buf = self.take(branch)?;
        let needs = self.values[old].needs || self.values[branch].needs;
        let sum = self.value(None, self.values[old].cols, needs);
        self.steps.push(Step::Sum { x: old, branch, y: sum });
        self.pending = Some(Pending { sum, x, branch: buf });
        self.x = sum;
        Ok(())
    }

    /// A second value added to a first.
    fn sum(&mut self, first: Node, second: Node) -> Result<Node> {
        let held = self.held(first)?;
        let mut y = self.take(second)?;
        self.ctx.backend.add(&held, &mut y)?;
        let needs = self.values[first].needs || self.values[second].needs;
        let y = self.value(Some(y), self.values[first].cols, needs);
        self.steps.push(Step::Sum { x: first, branch: second, y });
        Ok(y)
    }

    fn heads(&mut self) -> &mut Heads<B> {
        self.heads.as_mut().expect("queries, keys and values come first")
    }

    /// The value that stands for queries, keys and values; their elements lie apart.
    fn begin_heads(&mut self, all: B::Buf, needs: bool) -> Node {
        let cols = self.ctx.config.q_dim() + 2 * self.ctx.config.kv_dim();
        self.heads = Some(Heads { all, qk: None });
        self.n = self.value(None, cols, needs);
        self.n
    }

    fn shared_expert(&mut self, x: Node) -> Result<Option<Node>> {
        if self.view.matrix(MatrixKey::SharedGateUp).is_none() {
            return Ok(None);
        }
        let (b, rows) = (self.ctx.backend, self.rows());
        let wide = self.linear(MatrixKey::SharedGateUp, x)?;
        let act = self.activated(wide)?;
        let y = self.linear(MatrixKey::SharedDown, act)?;
        if self.view.matrix(MatrixKey::SharedSigmoid).is_some() {
            let logits = self.linear(MatrixKey::SharedSigmoid, x)?;
            let held = self.held(logits)?;
            let values = b.read(Span { buf: &held, at: 0, len: rows })?;
            let factors: Vec<f32> = values.into_iter().map(sigmoid).collect();
            let before = self.held(y)?;
            let (mut gated, cols) = (b.duplicate(&before)?, self.values[y].cols);
            b.scale_rows(MatMut::new(&mut gated, 0, rows, cols), &b.upload(&factors)?)?;
            self.values[y].held = Some(Arc::new(gated));
            self.values[y].needs |= self.values[logits].needs;
            self.steps.push(Step::Gate { x: y, logits, before, factors });
        }
        Ok(Some(y))
    }
}

impl<B: Backend> Steps for Tape<'_, '_, B> {
    type Error = BackendError;

    fn norm(&mut self, norm: BlockNorm) -> Result<()> {
        let keys = match norm {
            BlockNorm::First => [VectorKey::FirstNorm, VectorKey::FirstNormBias],
            BlockNorm::Second => [VectorKey::SecondNorm, VectorKey::SecondNormBias],
        };
        self.n = self.normed(self.wide_norm(keys.map(Some)), self.x, self.ctx.config.hidden_size)?;
        if norm == BlockNorm::First {
            self.first = self.n;
        }
        Ok(())
    }

    fn copy(&mut self) -> Result<()> {
        self.n = self.x;
        Ok(())
    }

    fn replace(&mut self) -> Result<()> {
        self.settle()?;
        self.x = self.n;
        Ok(())
    }

    fn keep_first(&mut self) -> Result<()> {
        self.n = self.first;
        Ok(())
    }

    fn project(&mut self) -> Result<()> {
        let qkv = self.linear(MatrixKey::Qkv, self.n)?;
        let all = self.take(qkv)?;
        self.heads = Some(Heads { all, qk: None });
        self.n = qkv;
        Ok(())
    }

    fn project_latent(&mut self) -> Result<()> {
        let config = self.ctx.config;
        let Some(latent) = config.block.latent else { return Ok(()) };
        let (b, rows, x) = (self.ctx.backend, self.rows(), self.n);
        let norm =
            |key: VectorKey| NormStep { kind: NormKind::Rms, keys: [Some(key), None], eps: latent.eps, spans: 1 };
        let narrow = match latent.q_rank {
            Some(rank) => {
                let down = self.linear(MatrixKey::QDown, x)?;
                self.normed(norm(VectorKey::QDownNorm), down, rank)?
            }
            None => x,
        };
        let q = self.linear(MatrixKey::QUp, narrow)?;
        let down = self.linear(MatrixKey::KvDown, x)?;
        let compressed = self.normed(norm(VectorKey::KvDownNorm), down, latent.kv_rank)?;
        let kv = self.linear(MatrixKey::KvUp, compressed)?;
        let parts = [q, down, kv];
        let mut all = zeroed(b, rows * 3 * config.q_dim())?;
        for copy in LatentCopy::all(config.num_heads, &latent) {
            let from = parts[copy.from as usize];
            let held = self.held(from)?;
            let x = Mat::new(&*held, 0, rows, self.values[from].cols);
            let y = MatMut::new(&mut all, 0, rows, 3 * config.q_dim());
            b.add_heads((x, copy.read), (y, copy.write), config.num_heads, copy.width)?;
        }
        let needs = parts.iter().any(|node| self.values[*node].needs);
        let heads = self.begin_heads(all, needs);
        self.steps.push(Step::Assemble { parts, heads });
        self.rotate(config.block.rotation(self.ctx.layer))
    }

    fn norm_heads(&mut self) -> Result<()> {
        let (ctx, view, node) = (self.ctx, self.view, self.n);
        let (b, rows) = (ctx.backend, ctx.rows.len);
        let (q, kv) = (ctx.config.q_dim(), ctx.config.kv_dim());
        let Some(norms) = ctx.head_norms() else { return Ok(()) };
        let mut qk = b.alloc(rows * (q + kv))?;
        let mut rstd = [b.alloc_statistics(rows * norms[0].2.spans)?, b.alloc_statistics(rows * norms[1].2.spans)?];
        for ((first, width, norm), rstd) in norms.into_iter().zip(&mut rstd) {
            let from = Mat::new(&self.heads().all, 0, rows, q + 2 * kv).columns(first, width);
            let to = MatMut::new(&mut qk, 0, rows, q + kv).columns(first, width);
            norm.forward((b, view), from, to, rstd)?;
            self.values[node].needs |= norm.is_trained(view);
        }
        self.heads().qk = Some(qk);
        self.steps.push(Step::NormHeads { heads: node, rstd });
        Ok(())
    }

    fn clip(&mut self, limit: f32) -> Result<()> {
        let (ctx, node) = (self.ctx, self.n);
        let (b, rows, q, kv) = (ctx.backend, ctx.rows.len, ctx.config.q_dim(), ctx.config.kv_dim());
        let heads = self.heads();
        match &mut heads.qk {
            Some(qk) => {
                b.clip(MatMut::new(qk, 0, rows, q + kv), limit)?;
                b.clip(MatMut::new(&mut heads.all, 0, rows, q + 2 * kv).columns(q + kv, kv), limit)?;
            }
            None => b.clip(MatMut::new(&mut heads.all, 0, rows, q + 2 * kv), limit)?,
        }
        let qk = heads.qk.as_ref().map(|qk| b.duplicate(qk)).transpose()?;
        let all = b.duplicate(&heads.all)?;
        self.steps.push(Step::Clip { heads: node, limit, qk, all });
        Ok(())
    }

    fn rotate(&mut self, rotation: Rotation) -> Result<()> {
        let (ctx, node) = (self.ctx, self.n);
        let (positions, table) = ctx.rotary(rotation);
        let x = ctx.queries_and_keys(self.heads());
        ctx.backend.rope(x, ctx.rotary_shape(), positions, table, false)?;
        self.steps.push(Step::Rotate { heads: node, rotation });
        Ok(())
    }

    fn scale_queries(&mut self, _: QueryScale) -> Result<()> {
        let (ctx, node) = (self.ctx, self.n);
        let Some(factors) = &ctx.rows.query_factors else { return Ok(()) };
        let queries = ctx.queries_and_keys(self.heads()).columns(0, ctx.config.q_dim());
        ctx.backend.scale_rows(queries, factors)?;
        self.steps.push(Step::ScaleQueries { heads: node });
        Ok(())
    }

    fn attend(&mut self) -> Result<()> {
        let (ctx, node) = (self.ctx, self.n);
        let (b, c, rows) = (ctx.backend, ctx.config, ctx.rows.len);
        let q = c.q_dim();
        let (mut y, mut lse) = (b.alloc(rows * q)?, b.alloc_statistics(rows * c.num_heads)?);
        let heads = self.heads.as_ref().expect("queries, keys and values come first");
        let (shape, scores) = (c.attention(ctx.layer), ctx.scores(self.view.buffer(VectorKey::Sinks)));
        let to = MatMut::new(&mut y, 0, rows, q);
        b.attention(ctx.qkv(heads), shape, scores, &ctx.rows.bounds, to, &mut lse)?;
        let mut mixed = self.value(Some(y), q, self.values[node].needs);
        self.steps.push(Step::Attend { heads: node, y: mixed, lse });
        if let Some(latent) = c.block.latent.filter(|latent| latent.value < c.head_dim) {
            let mut cut = zeroed(b, rows * c.o_dim())?;
            let held = self.held(mixed)?;
            let from = (Mat::new(&*held, 0, rows, q), HeadRuns { first: 0, step: c.head_dim });
            let to = (MatMut::new(&mut cut, 0, rows, c.o_dim()), HeadRuns { first: 0, step: latent.value });
            b.add_heads(from, to, c.num_heads, latent.value)?;
            let y = self.value(Some(cut), c.o_dim(), self.values[mixed].needs);
            self.steps.push(Step::Cut { x: mixed, y });
            mixed = y;
        }
        self.mixed = (mixed, MatrixKey::O);
        Ok(())
    }

    fn convolve(&mut self) -> Result<()> {
        let x = self.linear(MatrixKey::ConvIn, self.n)?;
        let (b, rows, width) = (self.ctx.backend, self.rows(), self.values[x].cols / 3);
        let held = self.held(x)?;
        let mut y = b.alloc(rows * width)?;
        let taps = self.view.buffer(VectorKey::Taps).expect("a convolution has taps");
        let from = Mat::new(&*held, 0, rows, 3 * width);
        let to = MatMut::new(&mut y, 0, rows, width);
        b.convolve(from, taps, self.view.buffer(VectorKey::TapsBias), &self.ctx.rows.bounds, to)?;
        let y = self.value(Some(y), width, self.values[x].needs);
        self.steps.push(Step::Convolve { x, y });
        self.mixed = (y, MatrixKey::ConvOut);
        Ok(())
    }

    fn add_mixed(&mut self) -> Result<()> {
        let (mixed, key) = self.mixed;
        let branch = self.linear(key, mixed)?;
        let branch = self.finished(branch, VectorKey::MixedNorm)?;
        self.add(branch)
    }

    fn feed_forward(&mut self) -> Result<()> {
        let x = self.n;
        let branch = if self.view.matrix(MatrixKey::Router).is_some() {
            let held = self.held(x)?;
            let (y, mixture) = Mixture::forward(self.ctx, self.view, self.activation(), &held)?;
            let needs = self.values[x].needs || mixture.is_trained;
            let y = self.value(Some(y), self.ctx.config.hidden_size, needs);
            self.steps.push(Step::Experts { x, y, mixture: Box::new(mixture) });
            match self.shared_expert(x)? {
                Some(shared) => self.sum(shared, y)?,
                None => y,
            }
        } else {
            let wide = self.linear(MatrixKey::GateUp, x)?;
            let act = self.activated(wide)?;
            let ends = self.view.vector(VectorKey::FeedForwardNorm).is_none()
                && self.ctx.config.block.placement != Placement::AfterSum;
            if self.replay && ends {
                return self.replay_down(act);
            }
            self.linear(MatrixKey::Down, act)?
        };
        let branch = self.finished(branch, VectorKey::FeedForwardNorm)?;
        self.add(branch)
    }
}

impl<B: Backend> Tape<'_, '_, B> {
    /// The last step of a block whose output is known already: only what the backward needs.
    fn replay_down(&mut self, act: Node) -> Result<()> {
        let down = self.view.linear(MatrixKey::Down);
        let held = self.held(act)?;
        let u = down.low_rank(self.ctx, &held, self.rows())?;
        let needs = self.values[act].needs || down.is_trained();
        let branch = self.value(None, down.out, needs);
        self.steps.push(Step::Linear { key: MatrixKey::Down, x: act, y: branch, u });
        let factor = self.ctx.config.block.residual_scale;
        if factor != 1.0 {
            self.steps.push(Step::Scale { x: branch, factor });
        }
        self.settle()?;
        let needs = needs || self.values[self.x].needs;
        let y = self.value(None, down.out, needs);
        self.steps.push(Step::Sum { x: self.x, branch, y });
        self.x = y;
        Ok(())
    }
}

/// Where a part of queries, keys and values of latent attention comes from: the place among the parts of its step.
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// All heads' queries, the rotated part of each last.
    Queries,
    /// The narrow layer, and the keys' rotated part.
    Latent,
    /// All heads' keys without the rotated part, and values.
    KeysAndValues,
}

/// A part of queries, keys and values of latent attention.
pub(super) struct LatentCopy {
    pub from: Source,
    pub read: HeadRuns,
    pub write: HeadRuns,
    pub width: usize,
}

impl LatentCopy {
    /// All parts. In every head the rotated part stands first, and values are filled up with zeros.
    pub(super) fn all(heads: usize, latent: &Latent) -> [Self; 5] {
        let Latent { kv_rank, nope, rope, value, .. } = *latent;
        let (head, pair) = (nope + rope, nope + value);
        let width = heads * head;
        let copy = |from, (first, step), to, width| Self {
            from,
            read: HeadRuns { first, step },
            write: HeadRuns { first: to, step: head },
            width,
        };
        [
            copy(Source::Queries, (nope, head), 0, rope),
            copy(Source::Queries, (0, head), rope, nope),
            copy(Source::Latent, (kv_rank, 0), width, rope),
            copy(Source::KeysAndValues, (0, pair), width + rope, nope),
            copy(Source::KeysAndValues, (nope, pair), 2 * width, value),
        ]
    }
}

impl<B: Backend> super::context::BlockContext<'_, B> {
    /// What is special about the attention scores of this block.
    pub(super) fn scores<'b>(&'b self, sinks: Option<&'b B::Buf>) -> AttentionScores<'b, B::Buf> {
        let special = self.config.scores(self.layer);
        AttentionScores {
            scale: special.scale,
            cap: special.cap,
            slopes: self.shared.slopes.as_ref(),
            rounded: special.rounded,
            sinks,
            chunk: special.chunk,
        }
    }
}
