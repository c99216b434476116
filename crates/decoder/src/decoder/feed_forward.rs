//! Feed-forward blocks: a gate and an up projection side by side, or the up projection alone; the activation; down again.

use super::linear::{Linear, RowsLora, Stacked};
use crate::Projection;
use harness_kernels::{HostTensor, cpu::activation::Activation, cpu::elementwise::swiglu_rows};

/// One block, packed.
#[derive(Debug)]
pub(crate) struct Gated {
    wide: Linear,
    down: Linear,
    gated: bool,
    activation: Activation,
}

impl Gated {
    /// Packs gate (where there is one), up and down projection with their biases.
    pub(crate) fn pack(
        [gate, up, down]: [&HostTensor; 3],
        [gate_bias, up_bias, down_bias]: [Option<&Vec<f32>>; 3],
        gated: bool,
        activation: Activation,
    ) -> Self {
        let wide = match gated {
            true => Linear::pack(&[gate, up], &[gate_bias, up_bias]),
            false => Linear::pack(&[up], &[up_bias]),
        };
        Self { wide, down: Linear::pack(&[down], &[down_bias]), gated, activation }
    }

    /// The linears, and which projections they hold if gate, up and down are these.
    pub(crate) fn linears(&self, [gate, up, down]: [Projection; 3]) -> [Stacked<'_>; 2] {
        let wide = if self.gated { vec![gate, up] } else { vec![up] };
        [(&self.wide, wide), (&self.down, vec![down])]
    }

    /// Whether there is a gate.
    pub(crate) fn is_gated(&self) -> bool {
        self.gated
    }

    /// Width of the activation.
    pub(crate) fn inner(&self) -> usize {
        if self.gated { self.wide.out() / 2 } else { self.wide.out() }
    }

    /// Elements of a row of the wide buffer.
    pub(crate) fn wide(&self) -> usize {
        self.wide.out()
    }

    /// The activation of rows of the input; `wide` and `activated` are room for it.
    #[allow(clippy::too_many_arguments, reason = "input, adapter, buffers")]
    pub(crate) fn activate(
        &self,
        x: &[f32],
        rows: usize,
        lora: &[RowsLora<'_>],
        round: impl Fn(&mut [f32]),
        wide: &mut [f32],
        activated: &mut [f32],
    ) {
        self.wide.forward(x, rows, lora, false, wide);
        round(wide);
        match (self.gated, self.activation) {
            (true, Activation::Silu) => swiglu_rows(wide, self.inner(), activated),
            (true, activation) => activation.gated(wide, self.inner(), activated),
            (false, activation) => activation.plain(wide, self.inner(), activated),
        }
        round(activated);
    }

    /// `y (+)=` what the block makes of an activation.
    pub(crate) fn down(&self, activated: &[f32], rows: usize, lora: &[RowsLora<'_>], add: bool, y: &mut [f32]) {
        self.down.forward(activated, rows, lora, add, y);
    }

    /// The block's output for rows of the input, with additions to what is wide and to down.
    pub(crate) fn run(&self, x: &[f32], rows: usize, [wider, down]: &[Vec<RowsLora<'_>>; 2]) -> Vec<f32> {
        let (mut wide, mut activated) = (vec![0.0; rows * self.wide()], vec![0.0; rows * self.inner()]);
        self.activate(x, rows, wider, |_| {}, &mut wide, &mut activated);
        let mut y = vec![0.0; rows * self.down.out()];
        self.down(&activated, rows, down, false, &mut y);
        y
    }
}
