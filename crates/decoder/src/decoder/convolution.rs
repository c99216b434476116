//! Short convolutions over gated inputs, in place of attention (LFM2).

use rayon::prelude::*;

use super::linear::{Linear, Lora, Stacked};
use crate::{ConvolutionWeights, Projection};

/// The convolution of one block, packed.
#[derive(Debug)]
pub(crate) struct ConvolutionLayer {
    input: Linear,
    taps: Vec<f32>,
    bias: Vec<f32>,
    output: Linear,
    width: usize,
}

impl ConvolutionLayer {
    pub(crate) fn pack(weights: &ConvolutionWeights) -> Self {
        let output = Linear::pack(&[&weights.output], &[weights.output_bias.as_ref()]);
        Self {
            input: Linear::pack(&[&weights.input], &[weights.input_bias.as_ref()]),
            taps: weights.taps.clone(),
            bias: weights.bias.clone(),
            width: output.out(),
            output,
        }
    }

    pub(crate) fn linears(&self) -> Vec<Stacked<'_>> {
        vec![(&self.input, vec![Projection::ConvIn]), (&self.output, vec![Projection::ConvOut])]
    }

    /// Channels.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Positions that a row sees.
    pub(crate) fn taps(&self) -> usize {
        self.taps.len() / self.width
    }

    /// For rows of the input: what is convolved, `[rows, width]`, and the gate on the result.
    pub(crate) fn gates(&self, x: &[f32], rows: usize, lora: &Lora<'_>) -> (Vec<f32>, Vec<f32>) {
        let mut all = vec![0.0; rows * 3 * self.width];
        self.input.forward(x, rows, &lora.at(Projection::ConvIn), false, &mut all);
        let (mut convolved, mut gate) = (Vec::with_capacity(rows * self.width), Vec::with_capacity(rows * self.width));
        for row in all.chunks_exact(3 * self.width) {
            let (first, rest) = row.split_at(self.width);
            let (second, input) = rest.split_at(self.width);
            convolved.extend(first.iter().zip(input).map(|(a, b)| a * b));
            gate.extend_from_slice(second);
        }
        (convolved, gate)
    }

    /// The gated convolution of the last `rows` positions of a context, whose earlier ones lie before them.
    pub(crate) fn convolve(&self, context: &[&[f32]], rows: usize, gate: &[f32], out: &mut [f32]) {
        let taps = self.taps();
        let before = context.len() - rows;
        out.par_chunks_exact_mut(self.width).zip(gate.par_chunks_exact(self.width)).enumerate().for_each(
            |(row, (out, gate))| {
                for (channel, y) in out.iter_mut().enumerate() {
                    let own = &self.taps[channel * taps..(channel + 1) * taps];
                    let mut sum = self.bias.get(channel).copied().unwrap_or(0.0);
                    for (back, tap) in own.iter().rev().enumerate().rev() {
                        if let Some(at) = (before + row).checked_sub(back) {
                            sum += tap * context[at][channel];
                        }
                    }
                    *y = sum * gate[channel];
                }
            },
        );
    }

    /// `y (+)=` what the block makes of gated rows.
    pub(crate) fn output(&self, gated: &[f32], rows: usize, lora: &Lora<'_>, add: bool, y: &mut [f32]) {
        self.output.forward(gated, rows, &lora.at(Projection::ConvOut), add, y);
    }
}
