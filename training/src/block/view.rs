//! The weights of one block, frozen or trained, as the formulas see them.

use harness_decoder::DecoderConfig;

use super::{
    frozen::FrozenLayer,
    linear::Linear,
    places::{GroupPlaces, LayerPlaces},
    vector::Vector,
};
use crate::backend::{Backend, Mat, Span, Weight};

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
