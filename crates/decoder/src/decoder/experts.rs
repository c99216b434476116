//! Mixtures of experts: a router sends every row to a few of several feed-forward blocks (Jiang et al. 2024).

use super::linear::Linear;
use crate::{ExpertWeights, Experts};
use harness_kernels::cpu::elementwise::{add_scaled, swiglu_rows};

/// The experts of one block, packed.
#[derive(Debug)]
pub(crate) struct ExpertLayer {
    router: Linear,
    /// Gate and up side by side, and down.
    experts: Vec<(Linear, Linear)>,
    per_token: usize,
}

impl ExpertLayer {
    pub(crate) fn pack(weights: &ExpertWeights, experts: Experts) -> Self {
        let pack = |[gate, up, down]: &[harness_kernels::HostTensor; 3]| {
            (Linear::pack(&[gate, up], &[None, None]), Linear::pack(&[down], &[None]))
        };
        Self {
            router: Linear::pack(&[&weights.router], &[None]),
            experts: weights.experts.iter().map(pack).collect(),
            per_token: experts.per_token,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        let experts: usize = self.experts.iter().map(|(gate_up, down)| gate_up.bytes() + down.bytes()).sum();
        experts + self.router.bytes()
    }

    /// `x += Σ weight · expert(normed)` for rows of width `hidden`.
    ///
    /// A row's experts are added in order of their number, and each expert's products do not depend on which other rows
    /// it is given, so that a row's bits do not depend on its neighbours.
    pub(crate) fn add(&self, normed: &[f32], hidden: usize, inner: usize, x: &mut [f32]) {
        let rows = normed.len() / hidden;
        let mut logits = vec![0.0; rows * self.experts.len()];
        self.router.forward(normed, rows, None, false, &mut logits);
        let mut chosen: Vec<Vec<(usize, f32)>> = vec![vec![]; self.experts.len()];
        for (row, logits) in logits.chunks_exact(self.experts.len()).enumerate() {
            for (expert, weight) in route(logits, self.per_token) {
                chosen[expert].push((row, weight));
            }
        }
        for ((gate_up, down), chosen) in self.experts.iter().zip(&chosen) {
            if chosen.is_empty() {
                continue;
            }
            let mut input = Vec::with_capacity(chosen.len() * hidden);
            chosen.iter().for_each(|&(row, _)| input.extend_from_slice(&normed[row * hidden..(row + 1) * hidden]));
            let mut wide = vec![0.0; chosen.len() * 2 * inner];
            gate_up.forward(&input, chosen.len(), None, false, &mut wide);
            let mut activated = vec![0.0; chosen.len() * inner];
            swiglu_rows(&wide, inner, &mut activated);
            down.forward(&activated, chosen.len(), None, false, &mut input);
            for (&(row, weight), output) in chosen.iter().zip(input.chunks_exact(hidden)) {
                add_scaled(&mut x[row * hidden..(row + 1) * hidden], weight, output);
            }
        }
    }
}

/// The `count` likeliest experts of a row with their shares of the probability: a softmax over all experts, renormalised
/// over the chosen ones. Of equal experts the first is taken.
fn route(logits: &[f32], count: usize) -> Vec<(usize, f32)> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut weights: Vec<(usize, f32)> = logits.iter().map(|logit| (logit - max).exp()).enumerate().collect();
    let total: f32 = weights.iter().map(|(_, weight)| weight).sum();
    weights.iter_mut().for_each(|(_, weight)| *weight /= total);
    weights.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    weights.truncate(count);
    let sum: f32 = weights.iter().map(|(_, weight)| weight).sum();
    weights.into_iter().map(|(expert, weight)| (expert, weight / sum)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_by_hand() {
        let chosen = route(&[0.0, 2f32.ln(), 6f32.ln(), 2f32.ln()], 2);
        assert_eq!(chosen.iter().map(|c| c.0).collect::<Vec<_>>(), [2, 1], "of equal experts the first");
        assert!((chosen[0].1 - 0.75).abs() < 1e-6 && (chosen[1].1 - 0.25).abs() < 1e-6, "{chosen:?}");
    }
}
