//! The decoder block of the Llama family: forward, and the backward derived by hand.
//!
//! ```text
//! n1 = norm(x); q, k, v = n1 Wᵀ (+ b); [q, k = norm(q), norm(k)]; rotate q, k
//! h = x + attention(q, k, v) Woᵀ;  n2 = norm(h);  y = h + (silu(n2 Wgᵀ) * (n2 Wuᵀ)) Wdᵀ
//! ```
//! Every projection may carry low-rank additions. Frozen weights get no gradient. What the backward needs is in
//! [`Saved`], which is dropped layer by layer.

mod context;
mod dropout;
mod frozen;
mod linear;
mod places;
mod policy;
mod sink;
mod source;
mod vector;
mod view;

pub use context::{BlockContext, Rows};
pub use dropout::DropoutPlan;
pub use frozen::FrozenLayer;
pub use linear::Linear;
pub use places::{GroupPlaces, LayerPlaces, LoraPart};
pub use policy::SavePolicy;
pub use sink::{GradSink, ModelPart};
pub use source::{Pass, Resident, WeightSource};
pub use vector::Vector;
pub use view::LayerView;

use crate::backend::{Backend, Mat, MatMut, Result};

/// Intermediate results of a block's forward pass.
pub struct Saved<B: Backend> {
    x: B::Buf,
    rstd1: B::Buf,
    n1: Option<B::Buf>,
    /// q, k and v side by side; rotated unless there are norms on q and k.
    qkv: B::Buf,
    normed: Option<Normed<B>>,
    attended: B::Buf,
    lse: B::Buf,
    h: B::Buf,
    rstd2: B::Buf,
    n2: Option<B::Buf>,
    gate_up: B::Buf,
    act: Option<B::Buf>,
    /// Rank-space products of the low-rank additions, by projection group.
    low_rank: [Option<B::Buf>; 4],
}

/// q and k after their norms and rotation.
struct Normed<B: Backend> {
    qk: B::Buf,
    rstd_q: B::Buf,
    rstd_k: B::Buf,
}

impl<B: Backend> Saved<B> {
    /// The block's input alone: what [`SavePolicy::Layer`] keeps.
    pub fn into_input(self) -> B::Buf {
        self.x
    }
}

/// What the forward pass has kept, or what is computed again where it has not; nothing where it is not needed.
fn if_needed<T>(needed: bool, kept: Option<T>, again: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
    if needed { kept.map_or_else(again, Ok).map(Some) } else { Ok(None) }
}

impl<B: Backend> BlockContext<'_, B> {
    /// q, k and v as the attention sees them.
    fn qkv<'a>(&self, qkv: &'a B::Buf, normed: Option<&'a Normed<B>>) -> [Mat<'a, B::Buf>; 3] {
        let (rows, q, kv) = (self.rows.len, self.config.q_dim(), self.config.kv_dim());
        let all = Mat::new(qkv, 0, rows, q + 2 * kv);
        let v = all.columns(q + kv, kv);
        let qk = normed.map_or(all, |normed| Mat::new(&normed.qk, 0, rows, q + kv));
        [qk.columns(0, q), qk.columns(q, kv), v]
    }

    fn norm(&self, x: &B::Buf, w: Vector<'_, B>) -> Result<(B::Buf, B::Buf)> {
        let (rows, hidden) = (self.rows.len, self.config.hidden_size);
        let (mut y, mut rstd) = (self.backend.alloc(rows * hidden)?, self.backend.alloc_statistics(rows)?);
        let out = MatMut::new(&mut y, 0, rows, hidden);
        self.backend.rmsnorm(Mat::new(x, 0, rows, hidden), 1, w.span, self.config.norm_eps, out, &mut rstd)?;
        Ok((y, rstd))
    }

    /// The block's output and what its backward needs.
    ///
    /// # Errors
    /// If memory runs out, or the device fails.
    pub fn forward(&self, x: B::Buf, w: &LayerView<'_, B>, full: bool) -> Result<(B::Buf, Saved<B>)> {
        let (mut saved, act) = self.up_to_activation(x, w)?;
        let (mut y, u_down) = w.down.forward(self, &act)?;
        self.backend.add(&saved.h, &mut y)?;
        saved.low_rank[3] = u_down;
        if full {
            saved.act = Some(act);
        } else {
            (saved.n1, saved.n2) = (None, None);
        }
        Ok((y, saved))
    }

    /// What the backward of a block needs, of a block whose output is known already.
    ///
    /// # Errors
    /// As [`BlockContext::forward`].
    pub fn replay(&self, x: B::Buf, w: &LayerView<'_, B>) -> Result<Saved<B>> {
        let (mut saved, act) = self.up_to_activation(x, w)?;
        saved.low_rank[3] = w.down.low_rank(self, &act)?;
        saved.act = Some(act);
        Ok(saved)
    }

    /// All but the last projection, and its input.
    fn up_to_activation(&self, x: B::Buf, w: &LayerView<'_, B>) -> Result<(Saved<B>, B::Buf)> {
        let (b, c, rows) = (self.backend, self.config, self.rows.len);
        let (inter, q, kv) = (c.intermediate_size, c.q_dim(), c.kv_dim());
        let (n1, rstd1) = self.norm(&x, w.attn_norm)?;
        let (mut qkv, u_qkv) = w.qkv.forward(self, &n1)?;
        let normed = match (w.q_norm, w.k_norm) {
            (Some(q_norm), Some(k_norm)) => {
                let mut qk = b.alloc(rows * (q + kv))?;
                let mut rstd_q = b.alloc_statistics(rows * c.num_heads)?;
                let mut rstd_k = b.alloc_statistics(rows * c.num_kv_heads)?;
                let from = Mat::new(&qkv, 0, rows, q + 2 * kv);
                let to = MatMut::new(&mut qk, 0, rows, q + kv).columns(0, q);
                b.rmsnorm(from.columns(0, q), c.num_heads, q_norm.span, c.norm_eps, to, &mut rstd_q)?;
                let to = MatMut::new(&mut qk, 0, rows, q + kv).columns(q, kv);
                b.rmsnorm(from.columns(q, kv), c.num_kv_heads, k_norm.span, c.norm_eps, to, &mut rstd_k)?;
                Some((qk, rstd_q, rstd_k))
            }
            _ => None,
        };
        let heads = c.num_heads + c.num_kv_heads;
        let normed = match normed {
            Some((mut qk, rstd_q, rstd_k)) => {
                let all = MatMut::new(&mut qk, 0, rows, q + kv);
                b.rope(all, heads, &self.rows.positions, self.rope, false)?;
                Some(Normed { qk, rstd_q, rstd_k })
            }
            None => {
                let all = MatMut::new(&mut qkv, 0, rows, q + 2 * kv).columns(0, q + kv);
                b.rope(all, heads, &self.rows.positions, self.rope, false)?;
                None
            }
        };
        let (mut attended, mut lse) = (b.alloc(rows * q)?, b.alloc_statistics(rows * c.num_heads)?);
        let views = self.qkv(&qkv, normed.as_ref());
        b.attention(
            views,
            c.attention(self.layer),
            &self.rows.bounds,
            MatMut::new(&mut attended, 0, rows, q),
            &mut lse,
        )?;
        let (mut h, u_o) = w.o.forward(self, &attended)?;
        let hidden = c.hidden_size;
        let (mut n2, mut rstd2) = (b.alloc(rows * hidden)?, b.alloc_statistics(rows)?);
        let to = MatMut::new(&mut n2, 0, rows, hidden);
        b.add_rmsnorm(&x, &mut h, (rows, hidden), w.mlp_norm.span, c.norm_eps, to, &mut rstd2)?;
        let (gate_up, u_gate_up) = w.gate_up.forward(self, &n2)?;
        let act = self.activation(&gate_up, inter)?;
        let (n1, n2, low_rank) = (Some(n1), Some(n2), [u_qkv, u_o, u_gate_up, None]);
        let saved = Saved { x, rstd1, n1, qkv, normed, attended, lse, h, rstd2, n2, gate_up, act: None, low_rank };
        Ok((saved, act))
    }

    fn activation(&self, gate_up: &B::Buf, inter: usize) -> Result<B::Buf> {
        let rows = self.rows.len;
        let mut act = self.backend.alloc(rows * inter)?;
        self.backend.swiglu(Mat::new(gate_up, 0, rows, 2 * inter), MatMut::new(&mut act, 0, rows, inter))?;
        Ok(act)
    }

    /// Adds the block's gradients to the sink; the gradient of its input, unless `lowest`: then nothing below this
    /// block is trained, and what is not needed is not computed.
    ///
    /// # Errors
    /// As [`BlockContext::forward`].
    pub fn backward(
        &self,
        dy: B::Buf,
        saved: Saved<B>,
        w: &LayerView<'_, B>,
        lowest: bool,
        sink: &mut dyn GradSink<B>,
    ) -> Result<Option<B::Buf>> {
        let (b, c, rows) = (self.backend, self.config, self.rows.len);
        let (inter, q, kv) = (c.intermediate_size, c.q_dim(), c.kv_dim());
        let Saved { x, rstd1, n1, qkv, normed, attended, lse, h, rstd2, n2, mut gate_up, act, low_rank } = saved;
        let [u_qkv, u_o, u_gate_up, u_down] = low_rank;
        let below_attention = !lowest || w.qkv.is_trained() || w.attn_norm.grad.is_some();
        let below_attention = below_attention || [w.q_norm, w.k_norm].iter().flatten().any(|norm| norm.grad.is_some());
        let below_o = below_attention || w.o.is_trained();
        let below_mlp = below_o || w.gate_up.is_trained() || w.mlp_norm.grad.is_some();

        let act = if_needed(w.down.is_trained(), act, || self.activation(&gate_up, inter))?;
        let Some(d_act) = w.down.backward(self, &dy, act.as_ref(), u_down, below_mlp, sink)? else { return Ok(None) };
        drop(act);
        b.swiglu_backward(Mat::new(&d_act, 0, rows, inter), MatMut::new(&mut gate_up, 0, rows, 2 * inter))?;
        drop(d_act);
        let n2 = if_needed(w.gate_up.is_trained(), n2, || Ok(self.norm(&h, w.mlp_norm)?.0))?;
        let below = below_o || w.mlp_norm.grad.is_some();
        let dh = w.gate_up.backward(self, &gate_up, n2.as_ref(), u_gate_up, below, sink)?;
        let Some(mut dh) = dh else { return Ok(None) };
        drop((n2, gate_up));
        self.norm_backward(&mut dh, &h, w.mlp_norm, &rstd2, &dy, sink)?;
        drop((h, dy));

        let d_attended = w.o.backward(self, &dh, Some(&attended), u_o, below_attention, sink)?;
        let Some(d_attended) = d_attended else { return Ok(None) };
        let mut dqkv = b.alloc(rows * (q + 2 * kv))?;
        let views = self.qkv(&qkv, normed.as_ref());
        let (o, d_o) = (Mat::new(&attended, 0, rows, q), Mat::new(&d_attended, 0, rows, q));
        let to = MatMut::new(&mut dqkv, 0, rows, q + 2 * kv);
        b.attention_backward(views, o, &lse, d_o, c.attention(self.layer), &self.rows.bounds, to)?;
        drop((attended, d_attended, lse));
        let qk = MatMut::new(&mut dqkv, 0, rows, q + 2 * kv).columns(0, q + kv);
        b.rope(qk, c.num_heads + c.num_kv_heads, &self.rows.positions, self.rope, true)?;
        if let (Some(normed), Some(q_norm), Some(k_norm)) = (normed, w.q_norm, w.k_norm) {
            let x = Mat::new(&qkv, 0, rows, q + 2 * kv);
            let parts = [(0, q, c.num_heads, q_norm, &normed.rstd_q), (q, kv, c.num_kv_heads, k_norm, &normed.rstd_k)];
            for (column, width, heads, norm, rstd) in parts {
                let d = MatMut::new(&mut dqkv, 0, rows, q + 2 * kv).columns(column, width);
                let dw = norm.grad_in(sink);
                b.rmsnorm_backward(d, heads, x.columns(column, width), norm.span, rstd, None, dw)?;
            }
        }
        drop(qkv);
        let n1 = if_needed(w.qkv.is_trained(), n1, || Ok(self.norm(&x, w.attn_norm)?.0))?;
        let below = !lowest || w.attn_norm.grad.is_some();
        let dx = w.qkv.backward(self, &dqkv, n1.as_ref(), u_qkv, below, sink)?;
        let Some(mut dx) = dx else { return Ok(None) };
        drop((n1, dqkv));
        self.norm_backward(&mut dx, &x, w.attn_norm, &rstd1, &dh, sink)?;
        Ok((!lowest).then_some(dx))
    }

    fn norm_backward(
        &self,
        d: &mut B::Buf,
        x: &B::Buf,
        w: Vector<'_, B>,
        rstd: &B::Buf,
        add: &B::Buf,
        sink: &mut dyn GradSink<B>,
    ) -> Result<()> {
        let (rows, hidden) = (self.rows.len, self.config.hidden_size);
        let view = |buf| Mat::new(buf, 0, rows, hidden);
        let d = MatMut::new(d, 0, rows, hidden);
        self.backend.rmsnorm_backward(d, 1, view(x), w.span, rstd, Some(view(add)), w.grad_in(sink))
    }
}
