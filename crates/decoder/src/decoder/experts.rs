//! Mixtures of experts: a router sends every row to a few of several feed-forward blocks (Jiang et al. 2024).

use super::{
    feed_forward::Gated,
    linear::{Linear, Lora, Stacked},
};
use crate::{
    DecoderConfig, ExpertWeights, Experts,
    Projection::{Down, Gate, Router, SharedDown, SharedGate, SharedSigmoid, SharedUp, Up},
    Routing,
};
use harness_kernels::{
    HostTensor,
    cpu::elementwise::{add_assign, add_scaled},
};

/// The experts of one block, packed.
#[derive(Debug)]
pub(crate) struct ExpertLayer {
    router: Linear,
    selection_bias: Vec<f32>,
    experts: Vec<Gated>,
    shared: Option<(Gated, Option<Linear>)>,
    per_token: usize,
    settings: Experts,
}

impl ExpertLayer {
    pub(crate) fn pack(weights: &ExpertWeights, experts: &Experts, config: &DecoderConfig, layer: usize) -> Self {
        let activation = config.block.activation;
        let pack = |(number, [gate, up, down]): (usize, &[HostTensor; 3])| {
            let biases = weights.biases.get(number);
            let bias = |part: usize| biases.map(|biases| &biases[part]);
            Gated::pack([gate, up, down], [bias(0), bias(1), bias(2)], true, activation)
        };
        let shared = weights.shared.as_ref().map(|[gate, up, down]| {
            let biases = weights.shared_biases.as_ref();
            let bias = |part: usize| biases.map(|biases| &biases[part]);
            let biases = [bias(0), bias(1), bias(2)];
            let block = Gated::pack([gate, up, down], biases, true, activation);
            (block, weights.shared_gate.as_ref().map(|gate| Linear::pack(&[gate], &[None])))
        });
        Self {
            router: Linear::pack(&[&weights.router], &[weights.router_bias.as_ref()]),
            selection_bias: weights.selection_bias.clone(),
            experts: weights.experts.iter().enumerate().map(pack).collect(),
            shared,
            per_token: experts.per_token(layer),
            settings: experts.clone(),
        }
    }

    /// The linears that every row passes.
    pub(crate) fn linears(&self) -> Vec<Stacked<'_>> {
        let mut linears = vec![(&self.router, vec![Router])];
        if let Some((block, gate)) = &self.shared {
            linears.extend(block.linears([SharedGate, SharedUp, SharedDown]));
            linears.extend(gate.iter().map(|gate| (gate, vec![SharedSigmoid])));
        }
        linears
    }

    /// Bytes of the experts of which rows pass a few.
    pub(crate) fn bytes(&self) -> usize {
        let linears = self.experts.iter().flat_map(|expert| expert.linears([Gate, Up, Down]));
        linears.map(|(linear, _)| linear.bytes()).sum()
    }

    /// `x += Σ weight · expert(normed)` for rows of width `hidden`.
    ///
    /// A row's experts are added in order of their number, and each expert's products do not depend on which other rows
    /// it is given, so that a row's bits do not depend on its neighbours.
    pub(crate) fn add(&self, normed: &[f32], hidden: usize, lora: Lora<'_>, x: &mut [f32]) {
        let rows = normed.len() / hidden;
        let mut logits = vec![0.0; rows * self.experts.len()];
        self.router.forward(normed, rows, lora.at(Router), false, &mut logits);
        let mut chosen: Vec<Vec<(usize, f32)>> = vec![vec![]; self.experts.len()];
        for (row, logits) in logits.chunks_exact(self.experts.len()).enumerate() {
            for (expert, weight) in route(logits, &self.selection_bias, self.per_token, &self.settings) {
                chosen[expert].push((row, weight));
            }
        }
        let on_input = self.settings.routing == Routing::SigmoidOnInput;
        for ((number, block), chosen) in self.experts.iter().enumerate().zip(&chosen) {
            if chosen.is_empty() {
                continue;
            }
            let mut input = Vec::with_capacity(chosen.len() * hidden);
            for &(row, weight) in chosen {
                let row = &normed[row * hidden..(row + 1) * hidden];
                match on_input {
                    true => input.extend(row.iter().map(|x| x * weight)),
                    false => input.extend_from_slice(row),
                }
            }
            let output = block.run(&input, chosen.len(), lora.expert(number));
            for (&(row, weight), output) in chosen.iter().zip(output.chunks_exact(hidden)) {
                add_scaled(&mut x[row * hidden..(row + 1) * hidden], if on_input { 1.0 } else { weight }, output);
            }
        }
        let Some((block, gate)) = &self.shared else { return };
        let mut output = block.run(normed, rows, [lora.at(SharedGate), lora.at(SharedDown)]);
        if let Some(gate) = gate {
            let mut logits = vec![0.0; rows];
            gate.forward(normed, rows, lora.at(SharedSigmoid), false, &mut logits);
            for (row, logit) in output.chunks_exact_mut(hidden).zip(logits) {
                row.iter_mut().for_each(|y| *y *= sigmoid(logit));
            }
        }
        add_assign(x, &output);
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut weights: Vec<f32> = logits.iter().map(|logit| (logit - max).exp()).collect();
    let total: f32 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= total);
    weights
}

/// The `count` highest of some values with their numbers, highest first; of equal ones the first.
fn highest(values: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
    order.truncate(count);
    order
}

/// The experts of a row with their weights.
fn route(logits: &[f32], bias: &[f32], count: usize, experts: &Experts) -> Vec<(usize, f32)> {
    let weights = match experts.routing {
        Routing::Softmax => softmax(logits),
        Routing::Sigmoid | Routing::SigmoidOnInput => logits.iter().map(|&x| sigmoid(x)).collect(),
        Routing::TopSoftmax => {
            let chosen = highest(logits, count);
            let of: Vec<f32> = chosen.iter().map(|&expert| logits[expert]).collect();
            return scaled(chosen.into_iter().zip(softmax(&of)).collect(), experts);
        }
        Routing::SparseMixer { jitter } => return sparse_mixer(logits, jitter),
    };
    let mut scores = weights.clone();
    scores.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
    if let Some(groups) = experts.groups {
        let size = scores.len() / groups.count;
        let of_group = |group: &[f32]| highest(group, groups.best).iter().map(|&i| group[i]).sum::<f32>();
        let by_group: Vec<f32> = scores.chunks_exact(size).map(of_group).collect();
        let kept = highest(&by_group, groups.kept);
        // What is left out counts nothing, or less than all others where scores may be negative.
        let out = if experts.routing == Routing::Sigmoid { f32::NEG_INFINITY } else { 0.0 };
        for (number, group) in scores.chunks_exact_mut(size).enumerate() {
            if !kept.contains(&number) {
                group.fill(out);
            }
        }
    }
    scaled(highest(&scores, count).into_iter().map(|expert| (expert, weights[expert])).collect(), experts)
}

/// Weights divided by their sum and multiplied by the factor, where that is said.
fn scaled(mut chosen: Vec<(usize, f32)>, experts: &Experts) -> Vec<(usize, f32)> {
    if experts.normalised {
        // DeepSeek's sigmoids may all be 0.
        let least = if experts.routing == Routing::Sigmoid { 1e-20 } else { 0.0 };
        let sum: f32 = chosen.iter().map(|(_, weight)| weight).sum();
        chosen.iter_mut().for_each(|(_, weight)| *weight /= sum + least);
    }
    if experts.factor != 1.0 {
        chosen.iter_mut().for_each(|(_, weight)| *weight *= experts.factor);
    }
    chosen
}

/// Two experts, one after the other, each weighed by a softmax over those that are near it.
fn sparse_mixer(logits: &[f32], jitter: f32) -> Vec<(usize, f32)> {
    let mut rest = logits.to_vec();
    (0..2)
        .map(|_| {
            let first = highest(&rest, 1)[0];
            let max = rest[first];
            let near = |(&rest, &logit): (&f32, &f32)| {
                if (max - logit) / logit.abs().max(max) > 2.0 * jitter { f32::NEG_INFINITY } else { rest }
            };
            let weights = softmax(&rest.iter().zip(logits).map(near).collect::<Vec<_>>());
            rest[first] = f32::NEG_INFINITY;
            (first, weights[first])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Groups;

    #[test]
    fn shares_by_hand() {
        let chosen = route(&[0.0, 2f32.ln(), 6f32.ln(), 2f32.ln()], &[], 2, &Experts::new(4, 2));
        assert_eq!(chosen.iter().map(|c| c.0).collect::<Vec<_>>(), [2, 1], "of equal experts the first");
        assert!((chosen[0].1 - 0.75).abs() < 1e-6 && (chosen[1].1 - 0.25).abs() < 1e-6, "{chosen:?}");
    }

    #[test]
    fn groups_and_biases_choose() {
        let groups = Some(Groups { count: 2, kept: 1, best: 2 });
        let experts = Experts { routing: Routing::Sigmoid, groups, factor: 2.0, ..Experts::new(4, 1) };
        // The second group has the higher sum, though the first has the highest expert.
        let chosen = route(&[3.0, -3.0, 1.0, 0.5], &[], 1, &experts);
        assert_eq!(chosen.len(), 1);
        assert!(chosen[0].0 == 2 && (chosen[0].1 - 2.0).abs() < 1e-6, "{chosen:?}");
        let chosen = route(&[3.0, -3.0, 1.0, 0.5], &[0.0, 0.0, 0.0, 0.5], 1, &Experts { normalised: false, ..experts });
        assert!(chosen[0].0 == 3 && (chosen[0].1 - 2.0 * sigmoid(0.5)).abs() < 1e-6, "the bias is no weight");
    }

    #[test]
    fn the_sparse_mixer_takes_two() {
        let chosen = sparse_mixer(&[1.0, 2.0, 1.99, 0.0], 0.01);
        assert_eq!(chosen.iter().map(|c| c.0).collect::<Vec<_>>(), [1, 2]);
        assert!((chosen[0].1 - 1.0 / (1.0 + (-0.01f32).exp())).abs() < 1e-6 && chosen[1].1 == 1.0, "{chosen:?}");
    }
}
