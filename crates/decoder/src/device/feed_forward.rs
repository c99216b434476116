//! Feed-forward blocks on a GPU: a gate and an up projection side by side, or the up projection alone; down again.

use harness_kernels::{
    HostTensor, KernelError,
    cpu::activation::Activation,
    cuda::{Device, DeviceMatrix, Float, View},
};

use super::linear::{Addition, DeviceLinear, Done, Stacked};
use crate::Projection;

/// One block.
#[derive(Debug)]
pub(super) struct DeviceGated {
    pub(super) wide: DeviceLinear,
    pub(super) down: DeviceLinear,
    gated: bool,
    pub(super) activation: Activation,
}

impl DeviceGated {
    /// Uploads gate (where there is one), up and down projection with their biases.
    pub(super) fn new(
        device: &Device,
        float: Float,
        [gate, up, down]: [&HostTensor; 3],
        [gate_bias, up_bias, down_bias]: [Option<&Vec<f32>>; 3],
        gated: bool,
        activation: Activation,
    ) -> Result<Self, KernelError> {
        let wide = match gated {
            true => DeviceLinear::new(device, float, &[gate, up], &[gate_bias, up_bias])?,
            false => DeviceLinear::new(device, float, &[up], &[up_bias])?,
        };
        Ok(Self { wide, down: DeviceLinear::new(device, float, &[down], &[down_bias])?, gated, activation })
    }

    /// Width of the activation.
    pub(super) fn inner(&self) -> usize {
        if self.gated { self.wide.out() / 2 } else { self.wide.out() }
    }

    /// Gate and up projection, or up alone; down.
    pub(super) fn linears(&self, [gate, up, down]: [Projection; 3]) -> [Stacked<'_>; 2] {
        let wide = if self.gated { vec![gate, up] } else { vec![up] };
        [(&self.wide, wide), (&self.down, vec![down])]
    }

    /// What stands first in the wide linear.
    pub(super) fn first(&self, [gate, up]: [Projection; 2]) -> Projection {
        if self.gated { gate } else { up }
    }

    /// Gate and up projection, for products of few rows.
    pub(super) fn few(&self, addition: Addition<'_>) -> Option<&DeviceMatrix> {
        self.wide.few(addition).filter(|wide| self.gated && wide.bias.is_none()).map(|wide| wide.weight)
    }

    /// Bytes of the weights.
    pub(super) fn bytes(&self) -> usize {
        self.wide.bytes() + self.down.bytes()
    }

    /// The activation of rows of what is wide.
    pub(super) fn activate(&self, device: &Device, wide: View<'_>, activated: View<'_>) -> Done {
        device.activation(self.activation, wide, activated)
    }

    /// `y =` what the block makes of rows of the input, with additions to what is wide and to down.
    pub(super) fn run(&self, device: &Device, [wider, down]: [Addition<'_>; 2], x: View<'_>, y: View<'_>) -> Done {
        let (rows, wide, inner) = (x.height(), self.wide.out(), self.inner());
        let buffer = device.alloc(rows * wide, x.float())?;
        let activated = device.alloc(rows * inner, x.float())?;
        let (buffer, activated) = (buffer.view(0, rows, wide, wide), activated.view(0, rows, inner, inner));
        self.wide.forward(device, wider, x, buffer)?;
        self.activate(device, buffer, activated)?;
        self.down.forward(device, down, activated, y)
    }
}
