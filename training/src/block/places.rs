//! What is trained of a block, by its place in the flat buffers.

use harness_decoder::Projection;

/// One low-rank addition `y[column..column + out] += scale * (x Aᵀ) Bᵀ`. `A` is `[rank, in]`; of `B` the transpose
/// `[rank, out]` is stored, which suits products with few rows. The `A` of one group lie one after another.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraPart {
    /// The projection it belongs to.
    pub projection: Projection,
    /// Inner dimension.
    pub rank: usize,
    /// Output features of the projection.
    pub out: usize,
    /// First column of the projection in the group's output.
    pub column: usize,
    /// Place of `A`.
    pub a: usize,
    /// Place of `Bᵀ`.
    pub b: usize,
    /// Factor on the addition.
    pub scale: f32,
}

/// What is trained of one projection, or of several that share their input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupPlaces {
    /// Place of the matrices, one after another.
    pub weight: Option<usize>,
    /// Place of the biases, one after another.
    pub bias: Option<usize>,
    /// Low-rank additions.
    pub lora: Vec<LoraPart>,
}

/// What is trained of one block, by place in the flat buffers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerPlaces {
    /// Norm before the attention.
    pub attn_norm: Option<usize>,
    /// q, k and v.
    pub qkv: GroupPlaces,
    /// Norm on the heads of q.
    pub q_norm: Option<usize>,
    /// Norm on the heads of k.
    pub k_norm: Option<usize>,
    /// Attention output.
    pub o: GroupPlaces,
    /// Norm before the feed-forward part.
    pub mlp_norm: Option<usize>,
    /// Gate and up.
    pub gate_up: GroupPlaces,
    /// Down.
    pub down: GroupPlaces,
}

impl GroupPlaces {
    /// Places of matrices and biases in a buffer that begins `by` elements later.
    fn shifted(&self, by: usize) -> Self {
        let shift = |at: Option<usize>| at.map(|at| at - by);
        Self { weight: shift(self.weight), bias: shift(self.bias), lora: self.lora.clone() }
    }
}

impl LayerPlaces {
    /// Places of a block without low-rank additions in a buffer that begins `by` elements later.
    pub(crate) fn shifted(&self, by: usize) -> Self {
        let shift = |at: Option<usize>| at.map(|at| at - by);
        Self {
            attn_norm: shift(self.attn_norm),
            qkv: self.qkv.shifted(by),
            q_norm: shift(self.q_norm),
            k_norm: shift(self.k_norm),
            o: self.o.shifted(by),
            mlp_norm: shift(self.mlp_norm),
            gate_up: self.gate_up.shifted(by),
            down: self.down.shifted(by),
        }
    }

    /// Whether anything in the block is trained.
    pub fn is_trained(&self) -> bool {
        let group = |g: &GroupPlaces| g.weight.is_some() || g.bias.is_some() || !g.lora.is_empty();
        [&self.qkv, &self.o, &self.gate_up, &self.down].into_iter().any(group)
            || [self.attn_norm, self.mlp_norm, self.q_norm, self.k_norm].iter().any(Option::is_some)
    }
}
