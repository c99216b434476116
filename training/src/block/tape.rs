//! The steps of a block as they were taken, and the values between them that the way back needs.

use std::sync::Arc;

use harness_decoder::{Positions, Rotation};

use super::{buffers::own, context::BlockContext, experts::Mixture, key::MatrixKey, norms::NormStep, view::LayerView};
use crate::backend::{Activation, Backend, Mat, MatMut, Result, RotaryShape};

/// The number of a value.
pub(super) type Node = usize;

/// A value: rows of activations.
pub(super) struct Value<B: Backend> {
    /// Its elements; `None` once they are not needed, or are made again from the step that made them.
    pub held: Option<Arc<B::Buf>>,
    /// Elements of a row.
    pub cols: usize,
    /// Whether its gradient is needed.
    pub needs: bool,
    /// The step that makes it again.
    pub made: Option<usize>,
}

/// One step. Those that change a value in place have one value alone.
pub(super) enum Step<B: Backend> {
    /// `y = norm(x)`, of the first columns of x that y has.
    Norm { norm: NormStep, x: Node, y: Node, rstd: B::Buf },
    /// `y = linear(x)`, with the rank-space products of its additions.
    Linear { key: MatrixKey, x: Node, y: Node, u: Option<B::Buf> },
    /// `y = x + branch`.
    Sum { x: Node, branch: Node, y: Node },
    /// `y = act(wide)`.
    Activate { kind: Activation, wide: Node, y: Node },
    /// In place: norms of queries and keys.
    NormHeads { heads: Node, rstd: [B::Buf; 2] },
    /// In place: queries, keys and values are limited; what that gave of queries and keys, and of all.
    Clip { heads: Node, limit: f32, qk: Option<B::Buf>, all: B::Buf },
    /// In place: queries and keys are rotated.
    Rotate { heads: Node, rotation: Rotation },
    /// In place: queries are multiplied by the factors of their rows.
    ScaleQueries { heads: Node },
    /// Queries, keys and values of latent attention, from the linears that give parts of them.
    Assemble { parts: [Node; 3], heads: Node },
    /// The attention.
    Attend { heads: Node, y: Node, lse: B::Buf },
    /// Of every head of x the first columns.
    Cut { x: Node, y: Node },
    /// The gated short convolution.
    Convolve { x: Node, y: Node },
    /// In place: all elements are multiplied.
    Scale { x: Node, factor: f32 },
    /// In place: rows are multiplied by the sigmoid of their logit; what they were before.
    Gate { x: Node, logits: Node, before: Arc<B::Buf>, factors: Vec<f32> },
    /// `y = Σ weight · expert(x)`.
    Experts { x: Node, y: Node, mixture: Box<Mixture<B>> },
}

/// Queries, keys and values of one block, side by side.
pub(super) struct Heads<B: Backend> {
    /// All of them; queries and keys before their norms.
    pub all: B::Buf,
    /// Queries and keys after their norms, where they have some.
    pub qk: Option<B::Buf>,
}

/// A sum that waits for the next norm, which some devices compute with it in one pass.
pub(super) struct Pending<B: Backend> {
    pub sum: Node,
    pub x: Arc<B::Buf>,
    pub branch: B::Buf,
}

/// A pass through one block.
pub(super) struct Tape<'a, 'c, B: Backend> {
    pub ctx: &'a BlockContext<'c, B>,
    pub view: &'a LayerView<'c, B>,
    pub values: Vec<Value<B>>,
    pub steps: Vec<Step<B>>,
    pub heads: Option<Heads<B>>,
    pub pending: Option<Pending<B>>,
    /// The residual stream.
    pub x: Node,
    /// The input of the next part.
    pub n: Node,
    /// What the first norm gave.
    pub first: Node,
    /// What the mixer gave, and the matrix that follows.
    pub mixed: (Node, MatrixKey),
    /// Whether the block's output is known already.
    pub replay: bool,
}

/// What a pass through a block leaves for its backward.
pub struct Saved<B: Backend> {
    pub(super) values: Vec<Value<B>>,
    pub(super) steps: Vec<Step<B>>,
    pub(super) heads: Option<Heads<B>>,
    pub(super) output: Node,
}

impl<B: Backend> Saved<B> {
    /// The block's input alone: what [`super::SavePolicy::Layer`] keeps.
    pub fn into_input(mut self) -> Option<Arc<B::Buf>> {
        self.values.first_mut().and_then(|input| input.held.take())
    }
}

impl<'a, 'c, B: Backend> Tape<'a, 'c, B> {
    /// A pass whose input is `x`.
    pub(super) fn new(
        ctx: &'a BlockContext<'c, B>,
        view: &'a LayerView<'c, B>,
        x: Arc<B::Buf>,
        input_needed: bool,
        replay: bool,
    ) -> Self {
        let input = Value { held: Some(x), cols: ctx.config.hidden_size, needs: input_needed, made: None };
        Self {
            ctx,
            view,
            values: vec![input],
            steps: vec![],
            heads: None,
            pending: None,
            x: 0,
            n: 0,
            first: 0,
            mixed: (0, MatrixKey::O),
            replay,
        }
    }

    /// A new value.
    pub(super) fn value(&mut self, held: Option<B::Buf>, cols: usize, needs: bool) -> Node {
        self.values.push(Value { held: held.map(Arc::new), cols, needs, made: None });
        self.values.len() - 1
    }

    /// The elements of a value that is still held.
    ///
    /// # Errors
    /// If it is a sum that is computed now, and there is no memory for it.
    pub(super) fn held(&mut self, node: Node) -> Result<Arc<B::Buf>> {
        if self.pending.as_ref().is_some_and(|pending| pending.sum == node) {
            self.settle()?;
        }
        Ok(Arc::clone(self.values[node].held.as_ref().expect("a value is held until its last use")))
    }

    /// Computes the sum that waits.
    pub(super) fn settle(&mut self) -> Result<()> {
        if let Some(Pending { sum, x, mut branch }) = self.pending.take() {
            self.ctx.backend.add(&x, &mut branch)?;
            self.values[sum].held = Some(Arc::new(branch));
        }
        Ok(())
    }

    /// The elements of a value, out of it: to be changed, and to be another value's.
    pub(super) fn take(&mut self, node: Node) -> Result<B::Buf> {
        let held = self.held(node)?;
        self.values[node].held = None;
        own(self.ctx.backend, held)
    }

    /// What the backward needs, with `full` also what it could make again; and the block's output.
    pub(super) fn finish(mut self, full: bool) -> Result<(Option<B::Buf>, Saved<B>)> {
        self.settle()?;
        let output = self.x;
        let mut wanted = vec![false; self.values.len()];
        for step in &self.steps {
            match step {
                Step::Norm { x, .. } | Step::Convolve { x, .. } => wanted[*x] = true,
                Step::Linear { key, x, .. } => {
                    wanted[*x] |= self.view.matrix(*key).is_some_and(|linear| linear.has_trained_factor());
                }
                Step::Activate { wide, .. } => wanted[*wide] = true,
                Step::Attend { y, .. } => wanted[*y] = true,
                Step::Experts { x, mixture, .. } => wanted[*x] |= mixture.reads_input,
                _ => {}
            }
        }
        // The input is what a block is run again from.
        wanted[0] = true;
        let mut y = self.values[output].held.take();
        for (value, wanted) in self.values.iter_mut().zip(wanted) {
            if !wanted || (!full && value.made.is_some()) {
                value.held = None;
            }
        }
        let y = match y.take() {
            // The output may be a value that the backward reads, as a last norm's is not.
            Some(y) => Some(own(self.ctx.backend, y)?),
            None => None,
        };
        let saved = Saved { values: self.values, steps: self.steps, heads: self.heads, output };
        Ok((y, saved))
    }
}

impl<B: Backend> BlockContext<'_, B> {
    /// Queries and keys, and values, as the attention sees them.
    pub(super) fn qkv<'b>(&self, heads: &'b Heads<B>) -> [Mat<'b, B::Buf>; 3] {
        let (rows, q, kv) = (self.rows.len, self.config.q_dim(), self.config.kv_dim());
        let all = Mat::new(&heads.all, 0, rows, q + 2 * kv);
        let qk = heads.qk.as_ref().map_or(all, |qk| Mat::new(qk, 0, rows, q + kv));
        [qk.columns(0, q), qk.columns(q, kv), all.columns(q + kv, kv)]
    }

    /// Queries and keys as the attention sees them, to be changed.
    pub(super) fn queries_and_keys<'b>(&self, heads: &'b mut Heads<B>) -> MatMut<'b, B::Buf> {
        let (rows, q, kv) = (self.rows.len, self.config.q_dim(), self.config.kv_dim());
        match &mut heads.qk {
            Some(qk) => MatMut::new(qk, 0, rows, q + kv),
            None => MatMut::new(&mut heads.all, 0, rows, q + 2 * kv).columns(0, q + kv),
        }
    }

    /// The places and the table of a rotation.
    pub(super) fn rotary(&self, rotation: Rotation) -> (&B::Ints, &B::Buf) {
        let local = self.rows.local_positions.as_ref().zip(self.shared.local_rope.as_ref());
        match (rotation, local) {
            (Rotation::Local, Some(local)) => local,
            _ => (&self.rows.positions, &self.shared.rope),
        }
    }

    /// How queries and keys are rotated.
    pub(super) fn rotary_shape(&self) -> RotaryShape {
        let pairs = self.config.block.positions == Positions::Pairs;
        let heads = self.config.num_heads + self.config.num_kv_heads;
        RotaryShape { heads, dims: self.config.rotary_dims(), pairs }
    }
}
