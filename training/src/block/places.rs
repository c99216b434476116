//! What is trained of a block, by its place in the flat buffers.

use std::collections::BTreeMap;

use harness_decoder::Projection;

use super::key::{MatrixKey, VectorKey};

/// One low-rank addition `y[column..column + out] += scale * (x Aᵀ) Bᵀ`. `A` is `[rank, in]`; of `B` the transpose
/// `[rank, out]` is stored, which suits products with few rows. The `A` of one group lie one after another.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraPart {
    /// The projection it belongs to, the first one of several.
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
    /// Place of the magnitudes of the rows of the changed weight, where they are trained apart (DoRA).
    pub magnitude: Option<usize>,
}

/// What is trained of one projection, or of several that share their input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupPlaces {
    /// Place of the matrices, one after another, with output and input features.
    pub weight: Option<(usize, usize, usize)>,
    /// Low-rank additions.
    pub lora: Vec<LoraPart>,
}

/// What is trained of one block, by place in the flat buffers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerPlaces {
    /// Norms and biases: place and length.
    pub vectors: BTreeMap<VectorKey, (usize, usize)>,
    /// Matrices and low-rank additions.
    pub groups: BTreeMap<MatrixKey, GroupPlaces>,
}

impl LayerPlaces {
    /// Places of a block without low-rank additions in a buffer that begins `by` elements later.
    pub(crate) fn shifted(&self, by: usize) -> Self {
        let mut places = self.clone();
        places.vectors.values_mut().for_each(|(at, _)| *at -= by);
        for group in places.groups.values_mut() {
            group.weight = group.weight.map(|(at, out, inp)| (at - by, out, inp));
        }
        places
    }

    /// Whether anything in the block is trained.
    pub fn is_trained(&self) -> bool {
        let group = |group: &GroupPlaces| group.weight.is_some() || !group.lora.is_empty();
        self.groups.values().any(group) || !self.vectors.is_empty()
    }
}
