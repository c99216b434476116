//! Mixtures of experts: a router sends every row to a few of several feed-forward blocks (Jiang et al. 2024).

use super::{
    feed_forward::Gated,
    linear::{Linear, Lora, Stacked},
};
use crate::{
    DecoderConfig, ExpertWeights, Experts,
    Projection::{Down, Gate, Router, SharedDown, SharedGate, SharedSigmoid, SharedUp, Up},
    Routing,
    routing::{route, sigmoid},
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
    pub(crate) fn add(&self, normed: &[f32], hidden: usize, lora: &Lora<'_>, x: &mut [f32]) {
        let rows = normed.len() / hidden;
        let mut logits = vec![0.0; rows * self.experts.len()];
        self.router.forward(normed, rows, &lora.at(Router), false, &mut logits);
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
            let given = |row: usize| chosen.partition_point(|&(of, _)| of < row);
            let output = block.run(&input, chosen.len(), &lora.expert(number, given));
            for (&(row, weight), output) in chosen.iter().zip(output.chunks_exact(hidden)) {
                add_scaled(&mut x[row * hidden..(row + 1) * hidden], if on_input { 1.0 } else { weight }, output);
            }
        }
        let Some((block, gate)) = &self.shared else { return };
        let mut output = block.run(normed, rows, &[lora.at(SharedGate), lora.at(SharedDown)]);
        if let Some(gate) = gate {
            let mut logits = vec![0.0; rows];
            gate.forward(normed, rows, &lora.at(SharedSigmoid), false, &mut logits);
            for (row, logit) in output.chunks_exact_mut(hidden).zip(logits) {
                row.iter_mut().for_each(|y| *y *= sigmoid(logit));
            }
        }
        add_assign(x, &output);
    }
}
