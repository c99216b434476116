//! The weights of one block, frozen or trained, as the formulas see them.

use super::{
    frozen::{FrozenLayer, HostParts},
    key::{MatrixKey, VectorKey},
    linear::Linear,
    places::{GroupPlaces, LayerPlaces},
    vector::Vector,
};
use crate::backend::{Backend, Mat, Span, Weight};

/// All weights of one block: what has a place comes from the trained values, all else from the frozen weights.
pub struct LayerView<'a, B: Backend> {
    frozen: Option<&'a FrozenLayer<B>>,
    places: &'a LayerPlaces,
    params: &'a B::Buf,
}

/// Nothing is trained.
static FROZEN: GroupPlaces = GroupPlaces { weight: None, lora: Vec::new() };
static NOTHING: HostParts = HostParts { selection_bias: Vec::new(), xielu: Vec::new() };

impl<'a, B: Backend> LayerView<'a, B> {
    /// The view of a block.
    pub fn new(frozen: Option<&'a FrozenLayer<B>>, places: &'a LayerPlaces, params: &'a B::Buf) -> Self {
        Self { frozen, places, params }
    }

    /// A vector, if the block has it.
    pub(super) fn vector(&self, key: VectorKey) -> Option<Vector<'a, B>> {
        if let Some(&(at, len)) = self.places.vectors.get(&key) {
            return Some(Vector { span: Span { buf: self.params, at, len }, grad: Some(at) });
        }
        let (buf, len) = self.frozen?.vector(key)?;
        Some(Vector { span: Span { buf, at: 0, len }, grad: None })
    }

    /// A frozen vector as it lies on the device, if the block has it.
    pub(super) fn buffer(&self, key: VectorKey) -> Option<&'a B::Buf> {
        self.frozen?.vector(key).map(|(buf, _)| buf)
    }

    /// A matrix, if the block has it.
    pub(super) fn matrix(&self, key: MatrixKey) -> Option<Linear<'a, B>> {
        let places = self.places.groups.get(&key).unwrap_or(&FROZEN);
        let (weight, out, inp, squares) = match places.weight {
            Some((at, out, inp)) => (Weight::Live(Mat::new(self.params, at, out, inp)), out, inp, None),
            None => {
                let frozen = self.frozen?.matrix(key)?;
                (Weight::Frozen(&frozen.matrix), frozen.out, frozen.inp, Some(&frozen.squares))
            }
        };
        Some(Linear { weight, bias: self.vector(VectorKey::Bias(key)), places, out, inp, squares })
    }

    /// A matrix that the block's configuration asks for.
    ///
    /// # Panics
    /// If it is neither trained nor frozen.
    pub(crate) fn linear(&self, key: MatrixKey) -> Linear<'a, B> {
        self.matrix(key).unwrap_or_else(|| panic!("{key:?} is neither trained nor frozen"))
    }

    /// What is in the host's memory.
    pub(super) fn host(&self) -> &'a HostParts {
        self.frozen.map_or(&NOTHING, |frozen| &frozen.host)
    }
}
