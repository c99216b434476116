//! The frozen weights of a block on the device.

use harness_decoder::LayerWeights;

use crate::backend::{Backend, Result};

/// The frozen weights of one block on the device.
#[derive(Debug)]
pub struct FrozenLayer<B: Backend> {
    pub(super) attn_norm: B::Buf,
    pub(super) qkv: B::Frozen,
    pub(super) qkv_bias: Option<B::Buf>,
    pub(super) q_norm: Option<B::Buf>,
    pub(super) k_norm: Option<B::Buf>,
    pub(super) o: B::Frozen,
    pub(super) o_bias: Option<B::Buf>,
    pub(super) mlp_norm: B::Buf,
    pub(super) gate_up: B::Frozen,
    pub(super) down: B::Frozen,
}

impl<B: Backend> FrozenLayer<B> {
    /// Uploads a block; `backward`: whether gradients will flow through it.
    ///
    /// # Errors
    /// If there is no memory for it, or the device fails.
    pub fn new(backend: &B, w: &LayerWeights, backward: bool) -> Result<Self> {
        let vector = |data: &Option<Vec<f32>>| data.as_ref().map(|data| backend.upload(data)).transpose();
        let qkv_bias = match (&w.q_bias, &w.k_bias, &w.v_bias) {
            (Some(q), Some(k), Some(v)) => Some(backend.upload(&[q.as_slice(), k, v].concat())?),
            _ => None,
        };
        Ok(Self {
            attn_norm: backend.upload(&w.input_norm)?,
            qkv: backend.frozen(&[&w.q, &w.k, &w.v], backward)?,
            qkv_bias,
            q_norm: vector(&w.q_norm)?,
            k_norm: vector(&w.k_norm)?,
            o: backend.frozen(&[&w.o], backward)?,
            o_bias: vector(&w.o_bias)?,
            mlp_norm: backend.upload(&w.post_attention_norm)?,
            gate_up: backend.frozen(&[&w.gate, &w.up], backward)?,
            down: backend.frozen(&[&w.down], backward)?,
        })
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
