//! The weights of one block, frozen or trained, as the formulas see them.

use harness_engine::{DecoderConfig, LayerWeights, Projection};

use super::Linear;
use crate::backend::{Backend, Mat, Span, Weight};

/// A vector of weights (norm or bias).
#[derive(Debug)]
pub struct Vector<'a, B: Backend> {
    /// The elements.
    pub span: Span<'a, B::Buf>,
    /// Place of the gradient, if it is trained.
    pub grad: Option<usize>,
}

impl<B: Backend> Clone for Vector<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Vector<'_, B> {}

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

/// The frozen weights of one block on the device.
#[derive(Debug)]
pub struct FrozenLayer<B: Backend> {
    attn_norm: B::Buf,
    qkv: B::Frozen,
    qkv_bias: Option<B::Buf>,
    q_norm: Option<B::Buf>,
    k_norm: Option<B::Buf>,
    o: B::Frozen,
    o_bias: Option<B::Buf>,
    mlp_norm: B::Buf,
    gate_up: B::Frozen,
    down: B::Frozen,
}

impl<B: Backend> FrozenLayer<B> {
    /// Uploads a block; `backward`: whether gradients will flow through it.
    pub fn new(backend: &B, w: &LayerWeights, backward: bool) -> Self {
        let vector = |data: &Option<Vec<f32>>| data.as_ref().map(|data| backend.upload(data));
        let qkv_bias = match (&w.q_bias, &w.k_bias, &w.v_bias) {
            (Some(q), Some(k), Some(v)) => Some(backend.upload(&[q.as_slice(), k, v].concat())),
            _ => None,
        };
        Self {
            attn_norm: backend.upload(&w.input_norm),
            qkv: backend.frozen(&[&w.q, &w.k, &w.v], backward),
            qkv_bias,
            q_norm: vector(&w.q_norm),
            k_norm: vector(&w.k_norm),
            o: backend.frozen(&[&w.o], backward),
            o_bias: vector(&w.o_bias),
            mlp_norm: backend.upload(&w.post_attention_norm),
            gate_up: backend.frozen(&[&w.gate, &w.up], backward),
            down: backend.frozen(&[&w.down], backward),
        }
    }

    /// Norms and biases, in a fixed order.
    pub fn vectors(&self) -> [Option<&B::Buf>; 6] {
        [
            Some(&self.attn_norm),
            Some(&self.mlp_norm),
            self.qkv_bias.as_ref(),
            self.q_norm.as_ref(),
            self.k_norm.as_ref(),
            self.o_bias.as_ref(),
        ]
    }

    /// Matrices, in a fixed order.
    pub fn matrices(&self) -> [&B::Frozen; 4] {
        [&self.qkv, &self.o, &self.gate_up, &self.down]
    }

    /// A block of the vectors and matrices of [`FrozenLayer::vectors`] and [`FrozenLayer::matrices`]; `None` if one of the
    /// two norms that every block has is missing.
    pub fn from_parts(vectors: [Option<B::Buf>; 6], matrices: [B::Frozen; 4]) -> Option<Self> {
        let [attn_norm, mlp_norm, qkv_bias, q_norm, k_norm, o_bias] = vectors;
        let [qkv, o, gate_up, down] = matrices;
        let (attn_norm, mlp_norm) = (attn_norm?, mlp_norm?);
        Some(Self { attn_norm, qkv, qkv_bias, q_norm, k_norm, o, o_bias, mlp_norm, gate_up, down })
    }
}

/// All weights of one block.
pub struct LayerView<'a, B: Backend> {
    /// Norm before the attention.
    pub attn_norm: Vector<'a, B>,
    /// q, k and v.
    pub qkv: Linear<'a, B>,
    /// Norm on the heads of q.
    pub q_norm: Option<Vector<'a, B>>,
    /// Norm on the heads of k.
    pub k_norm: Option<Vector<'a, B>>,
    /// Attention output.
    pub o: Linear<'a, B>,
    /// Norm before the feed-forward part.
    pub mlp_norm: Vector<'a, B>,
    /// Gate and up.
    pub gate_up: Linear<'a, B>,
    /// Down.
    pub down: Linear<'a, B>,
}

impl<'a, B: Backend> LayerView<'a, B> {
    /// The view of a block: what has a place comes from the trained values, all else from the frozen weights.
    ///
    /// # Panics
    /// If something has neither.
    pub fn new(
        config: &DecoderConfig,
        frozen: Option<&'a FrozenLayer<B>>,
        places: &'a LayerPlaces,
        params: &'a B::Buf,
    ) -> Self {
        let (hidden, inter, q, kv) = (config.hidden_size, config.intermediate_size, config.q_dim(), config.kv_dim());
        let absent = "a weight is neither trained nor frozen";
        let vector = |place: Option<usize>, frozen: Option<&'a B::Buf>, len: usize| match (place, frozen) {
            (Some(at), _) => Some(Vector { span: Span { buf: params, at, len }, grad: Some(at) }),
            (None, Some(buf)) => Some(Vector { span: Span { buf, at: 0, len }, grad: None }),
            (None, None) => None,
        };
        let linear = |places: &'a GroupPlaces, frozen: Option<(&'a B::Frozen, Option<&'a B::Buf>)>, out, inp| {
            let weight = match (places.weight, frozen) {
                (Some(at), _) => Weight::Live(Mat::new(params, at, out, inp)),
                (None, Some((frozen, _))) => Weight::Frozen(frozen),
                (None, None) => panic!("{absent}"),
            };
            let bias = vector(places.bias, frozen.and_then(|(_, bias)| bias), out);
            Linear { weight, bias, places, out, inp }
        };
        Self {
            attn_norm: vector(places.attn_norm, frozen.map(|f| &f.attn_norm), hidden).expect(absent),
            qkv: linear(&places.qkv, frozen.map(|f| (&f.qkv, f.qkv_bias.as_ref())), q + 2 * kv, hidden),
            q_norm: vector(places.q_norm, frozen.and_then(|f| f.q_norm.as_ref()), config.head_dim),
            k_norm: vector(places.k_norm, frozen.and_then(|f| f.k_norm.as_ref()), config.head_dim),
            o: linear(&places.o, frozen.map(|f| (&f.o, f.o_bias.as_ref())), hidden, q),
            mlp_norm: vector(places.mlp_norm, frozen.map(|f| &f.mlp_norm), hidden).expect(absent),
            gate_up: linear(&places.gate_up, frozen.map(|f| (&f.gate_up, None)), 2 * inter, hidden),
            down: linear(&places.down, frozen.map(|f| (&f.down, None)), hidden, inter),
        }
    }
}
