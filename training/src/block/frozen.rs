//! The frozen weights of a block on the device.

use std::{collections::BTreeMap, sync::OnceLock};

use harness_decoder::{ExpertWeights, LayerWeights};
use harness_kernels::HostTensor;

use super::key::{MatrixKey, VectorKey};
use crate::backend::{Backend, Result};

/// A frozen matrix with its dimensions.
#[derive(Debug)]
pub(super) struct FrozenMatrix<B: Backend> {
    pub(super) matrix: B::Frozen,
    pub(super) out: usize,
    pub(super) inp: usize,
    /// Sums of squares of the rows, once they were asked for.
    pub(super) squares: OnceLock<Vec<f32>>,
}

/// The frozen weights of one block on the device.
#[derive(Debug)]
pub struct FrozenLayer<B: Backend> {
    vectors: BTreeMap<VectorKey, (B::Buf, usize)>,
    matrices: BTreeMap<MatrixKey, FrozenMatrix<B>>,
    pub(super) host: HostParts,
}

/// What is needed of a block in the host's memory.
#[derive(Clone, Debug, Default)]
pub(super) struct HostParts {
    /// Added to the router's scores for the choice of experts.
    pub selection_bias: Vec<f32>,
    /// Parameters of the activation.
    pub xielu: Vec<f32>,
}

/// Makes a block part by part.
struct Upload<'a, B: Backend> {
    backend: &'a B,
    backward: bool,
    layer: FrozenLayer<B>,
}

impl<B: Backend> Upload<'_, B> {
    fn vector(&mut self, key: VectorKey, data: &[f32]) -> Result<()> {
        if !data.is_empty() {
            self.layer.vectors.insert(key, (self.backend.upload(data)?, data.len()));
        }
        Ok(())
    }

    /// Matrices that share their input, with their biases; those of no rows are not there.
    fn matrix(&mut self, key: MatrixKey, parts: &[(&HostTensor, Option<&Vec<f32>>)]) -> Result<()> {
        let parts: Vec<_> = parts.iter().filter(|(part, _)| part.rows() > 0).collect();
        let Some((first, _)) = parts.first() else { return Ok(()) };
        let tensors: Vec<&HostTensor> = parts.iter().map(|(part, _)| *part).collect();
        let (out, inp) = (tensors.iter().map(|part| part.rows()).sum(), first.cols());
        let matrix = self.backend.frozen(&tensors, self.backward)?;
        self.layer.matrices.insert(key, FrozenMatrix { matrix, out, inp, squares: OnceLock::new() });
        if parts.iter().any(|(_, bias)| bias.is_some_and(|bias| !bias.is_empty())) {
            let zeros = |part: &HostTensor| vec![0.0; part.rows()];
            let biases = parts.iter().flat_map(|(part, bias)| bias.cloned().unwrap_or_else(|| zeros(part)));
            self.vector(VectorKey::Bias(key), &biases.collect::<Vec<f32>>())?;
        }
        Ok(())
    }

    fn experts(&mut self, weights: &ExpertWeights) -> Result<()> {
        self.matrix(MatrixKey::Router, &[(&weights.router, weights.router_bias.as_ref())])?;
        self.layer.host.selection_bias = weights.selection_bias.clone();
        for (number, [gate, up, down]) in weights.experts.iter().enumerate() {
            let bias = |part: usize| weights.biases.get(number).map(|biases| &biases[part]);
            self.matrix(MatrixKey::ExpertGateUp(number), &[(gate, bias(0)), (up, bias(1))])?;
            self.matrix(MatrixKey::ExpertDown(number), &[(down, bias(2))])?;
        }
        if let Some([gate, up, down]) = &weights.shared {
            let bias = |part: usize| weights.shared_biases.as_ref().map(|biases| &biases[part]);
            self.matrix(MatrixKey::SharedGateUp, &[(gate, bias(0)), (up, bias(1))])?;
            self.matrix(MatrixKey::SharedDown, &[(down, bias(2))])?;
        }
        if let Some(gate) = &weights.shared_gate {
            self.matrix(MatrixKey::SharedSigmoid, &[(gate, None)])?;
        }
        Ok(())
    }
}

impl<B: Backend> FrozenLayer<B> {
    /// Uploads a block; `backward`: whether gradients will flow through it.
    ///
    /// # Errors
    /// If there is no memory for it, or the device fails.
    pub fn new(backend: &B, w: &LayerWeights, backward: bool) -> Result<Self> {
        let (vectors, matrices, more) = (BTreeMap::new(), BTreeMap::new(), &w.more);
        let host = HostParts { xielu: more.xielu.clone(), ..HostParts::default() };
        let mut upload = Upload { backend, backward, layer: Self { vectors, matrices, host } };
        for (key, data) in [
            (VectorKey::FirstNorm, &w.input_norm),
            (VectorKey::FirstNormBias, &more.input_norm_bias),
            (VectorKey::SecondNorm, &w.post_attention_norm),
            (VectorKey::SecondNormBias, &more.post_attention_norm_bias),
            (VectorKey::MixedNorm, &more.attention_out_norm),
            (VectorKey::FeedForwardNorm, &more.feed_forward_out_norm),
            (VectorKey::QNormBias, &more.q_norm_bias),
            (VectorKey::KNormBias, &more.k_norm_bias),
            (VectorKey::Sinks, &more.sinks),
        ] {
            upload.vector(key, data)?;
        }
        upload.vector(VectorKey::QNorm, w.q_norm.as_deref().unwrap_or_default())?;
        upload.vector(VectorKey::KNorm, w.k_norm.as_deref().unwrap_or_default())?;
        if let Some(weights) = &more.convolution {
            upload.matrix(MatrixKey::ConvIn, &[(&weights.input, weights.input_bias.as_ref())])?;
            upload.vector(VectorKey::Taps, &weights.taps)?;
            upload.vector(VectorKey::TapsBias, &weights.bias)?;
            upload.matrix(MatrixKey::ConvOut, &[(&weights.output, weights.output_bias.as_ref())])?;
        } else if let Some(weights) = &more.latent {
            match &weights.q {
                Some((down, norm, up)) => {
                    upload.matrix(MatrixKey::QDown, &[(down, weights.q_bias.as_ref())])?;
                    upload.vector(VectorKey::QDownNorm, norm)?;
                    upload.matrix(MatrixKey::QUp, &[(up, None)])?;
                }
                None => upload.matrix(MatrixKey::QUp, &[(&w.q, None)])?,
            }
            upload.matrix(MatrixKey::KvDown, &[(&weights.kv_down, weights.kv_down_bias.as_ref())])?;
            upload.vector(VectorKey::KvDownNorm, &weights.kv_norm)?;
            upload.matrix(MatrixKey::KvUp, &[(&weights.kv_up, None)])?;
        } else {
            let parts = [(&w.q, w.q_bias.as_ref()), (&w.k, w.k_bias.as_ref()), (&w.v, w.v_bias.as_ref())];
            upload.matrix(MatrixKey::Qkv, &parts)?;
        }
        upload.matrix(MatrixKey::O, &[(&w.o, w.o_bias.as_ref())])?;
        match &w.experts {
            Some(weights) => upload.experts(weights)?,
            None => {
                upload
                    .matrix(MatrixKey::GateUp, &[(&w.gate, more.gate_bias.as_ref()), (&w.up, more.up_bias.as_ref())])?;
                upload.matrix(MatrixKey::Down, &[(&w.down, more.down_bias.as_ref())])?;
            }
        }
        Ok(upload.layer)
    }

    pub(super) fn vector(&self, key: VectorKey) -> Option<(&B::Buf, usize)> {
        self.vectors.get(&key).map(|(buf, len)| (buf, *len))
    }

    pub(super) fn matrix(&self, key: MatrixKey) -> Option<&FrozenMatrix<B>> {
        self.matrices.get(&key)
    }

    /// Norms and biases, in a fixed order.
    pub fn vectors(&self) -> impl Iterator<Item = &B::Buf> {
        self.vectors.values().map(|(buf, _)| buf)
    }

    /// Matrices, in a fixed order.
    pub fn matrices(&self) -> impl Iterator<Item = &B::Frozen> {
        self.matrices.values().map(|matrix| &matrix.matrix)
    }

    /// A block like this one, of other vectors and matrices in the order of [`FrozenLayer::vectors`] and
    /// [`FrozenLayer::matrices`]; `None` if there are not as many.
    pub fn like(&self, vectors: Vec<B::Buf>, matrices: Vec<B::Frozen>) -> Option<Self> {
        if (vectors.len(), matrices.len()) != (self.vectors.len(), self.matrices.len()) {
            return None;
        }
        let vectors = self.vectors.iter().zip(vectors).map(|((key, (_, len)), buf)| (*key, (buf, *len)));
        let matrices = self.matrices.iter().zip(matrices).map(|((key, old), matrix)| {
            let FrozenMatrix { out, inp, .. } = *old;
            (*key, FrozenMatrix { matrix, out, inp, squares: old.squares.clone() })
        });
        Some(Self { vectors: vectors.collect(), matrices: matrices.collect(), host: self.host.clone() })
    }
}
