//! Multi-head latent attention (DeepSeek-AI 2024), widened to queries, keys and values of all heads.

use rayon::prelude::*;

use super::linear::{Linear, Lora, Stacked};
use crate::{
    Latent, LatentWeights, LayerWeights,
    Projection::{self, KvDown, KvUp, Q, QDown, QUp},
};
use harness_kernels::cpu::{elementwise::rms_norm_inplace, rope::RopeTable};

/// The projections of one block, packed.
#[derive(Debug)]
pub(crate) struct LatentLayer {
    /// Into the narrow layer of queries and its norm, where there is one.
    q_down: Option<(Linear, Vec<f32>)>,
    /// To the queries.
    q_up: Linear,
    kv_down: Linear,
    kv_norm: Vec<f32>,
    kv_up: Linear,
    shape: Latent,
    heads: usize,
}

impl LatentLayer {
    pub(crate) fn pack(layer: &LayerWeights, weights: &LatentWeights, shape: Latent, heads: usize) -> Self {
        let (q_down, q_up) = match &weights.q {
            Some((down, norm, up)) => {
                (Some((Linear::pack(&[down], &[weights.q_bias.as_ref()]), norm.clone())), Linear::pack(&[up], &[None]))
            }
            None => (None, Linear::pack(&[&layer.q], &[None])),
        };
        Self {
            q_down,
            q_up,
            kv_down: Linear::pack(&[&weights.kv_down], &[weights.kv_down_bias.as_ref()]),
            kv_norm: weights.kv_norm.clone(),
            kv_up: Linear::pack(&[&weights.kv_up], &[None]),
            shape,
            heads,
        }
    }

    pub(crate) fn linears(&self) -> Vec<Stacked<'_>> {
        let mut linears = vec![(&self.kv_down, vec![KvDown]), (&self.kv_up, vec![KvUp])];
        linears.extend(self.q_down.iter().map(|(down, _)| (down, vec![QDown])));
        linears.push((&self.q_up, vec![self.queries()]));
        linears
    }

    /// What the linear that makes the queries is.
    fn queries(&self) -> Projection {
        if self.q_down.is_some() { QUp } else { Q }
    }

    /// Queries, keys and values of rows of the input, side by side in rows of `3 · heads · (nope + rope)`: in every head the
    /// rotated part stands first, and values are filled up with zeros.
    pub(crate) fn project(
        &self,
        x: &[f32],
        rows: usize,
        lora: &Lora<'_>,
        table: &RopeTable,
        positions: &[u32],
        out: &mut [f32],
    ) {
        let Latent { kv_rank, nope, rope, value, eps, .. } = self.shape;
        let (heads, head) = (self.heads, nope + rope);
        let narrow = self.q_down.as_ref().map(|(down, norm)| {
            let mut narrow = vec![0.0; rows * down.out()];
            down.forward(x, rows, &lora.at(QDown), false, &mut narrow);
            rms_norm_inplace(&mut narrow, norm, eps);
            narrow
        });
        let mut q = vec![0.0; rows * heads * head];
        self.q_up.forward(narrow.as_deref().unwrap_or(x), rows, &lora.at(self.queries()), false, &mut q);
        let mut latent = vec![0.0; rows * (kv_rank + rope)];
        self.kv_down.forward(x, rows, &lora.at(KvDown), false, &mut latent);
        let mut compressed: Vec<f32> =
            latent.chunks_exact(kv_rank + rope).flat_map(|row| row[..kv_rank].iter().copied()).collect();
        rms_norm_inplace(&mut compressed, &self.kv_norm, eps);
        let mut kv = vec![0.0; rows * heads * (nope + value)];
        self.kv_up.forward(&compressed, rows, &lora.at(KvUp), false, &mut kv);
        let width = heads * head;
        out.par_chunks_exact_mut(3 * width).enumerate().for_each(|(row, out)| {
            let shared = &latent[row * (kv_rank + rope) + kv_rank..(row + 1) * (kv_rank + rope)];
            let (queries, rest) = out.split_at_mut(width);
            let (keys, values) = rest.split_at_mut(width);
            for h in 0..heads {
                let (q, kv) = (&q[(row * heads + h) * head..][..head], &kv[(row * heads + h) * (nope + value)..]);
                queries[h * head..][..rope].copy_from_slice(&q[nope..]);
                queries[h * head + rope..][..nope].copy_from_slice(&q[..nope]);
                keys[h * head..][..rope].copy_from_slice(shared);
                keys[h * head + rope..][..nope].copy_from_slice(&kv[..nope]);
                values[h * head..][..value].copy_from_slice(&kv[nope..nope + value]);
                values[h * head + value..][..head - value].fill(0.0);
            }
        });
        table.rotate(out, 3 * width, 2 * heads, positions, false);
    }
}
