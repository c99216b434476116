//! Mixtures of experts on a GPU. The router's logits are read, and the processor chooses.

use harness_kernels::{
    HostTensor, KernelError,
    cuda::{By, Device, DeviceBuffer, Float, View},
};
use rayon::prelude::*;

use super::{
    adapter::BlockLora,
    feed_forward::DeviceGated,
    linear::{DeviceLinear, Done, Stacked},
};
use crate::{
    DecoderConfig, ExpertWeights, Experts,
    Projection::{Router, SharedDown, SharedGate, SharedSigmoid, SharedUp},
    Routing,
    routing::route,
};

/// An expert's rows are filled up to a multiple of this, so that products come in few shapes.
const PADDING: usize = 16;

/// The experts of one block.
#[derive(Debug)]
pub(super) struct DeviceExperts {
    /// In f32, as a near tie is decided by the last bits.
    router: DeviceLinear,
    selection_bias: Vec<f32>,
    pub(super) experts: Vec<DeviceGated>,
    shared: Option<(DeviceGated, Option<DeviceLinear>)>,
    per_token: usize,
    settings: Experts,
}

/// The rows that every expert gets, one expert after the other.
struct Dispatch {
    /// Row of the input for every place, filling included.
    rows: Vec<u32>,
    /// Weight of every place.
    weights: Vec<f32>,
    /// First place of every expert, and the number of places.
    starts: Vec<usize>,
    /// For every row its places, in order of the experts.
    places: Vec<u32>,
    /// Their weights.
    shares: Vec<f32>,
}

impl Dispatch {
    fn new(routes: &mut [Vec<(usize, f32)>], experts: usize) -> Self {
        let mut counts = vec![0usize; experts];
        for route in routes.iter_mut() {
            route.sort_unstable_by_key(|(expert, _)| *expert);
            route.iter().for_each(|(expert, _)| counts[*expert] += 1);
        }
        let mut starts = vec![0];
        for count in &counts {
            starts.push(starts[starts.len() - 1] + count.next_multiple_of(PADDING));
        }
        let all = starts[experts];
        let (mut rows, mut weights) = (vec![0; all], vec![0.0; all]);
        let mut next = starts.clone();
        let (mut places, mut shares) = (vec![], vec![]);
        for (row, route) in routes.iter().enumerate() {
            for &(expert, weight) in route {
                let place = next[expert];
                next[expert] += 1;
                (rows[place], weights[place]) = (row as u32, weight);
                places.push(place as u32);
                shares.push(weight);
            }
        }
        Self { rows, weights, starts, places, shares }
    }
}

impl DeviceExperts {
    /// Uploads the experts of a layer.
    pub(super) fn new(
        device: &Device,
        float: Float,
        weights: &ExpertWeights,
        experts: &Experts,
        config: &DecoderConfig,
        layer: usize,
    ) -> Result<Self, KernelError> {
        let activation = config.block.activation;
        let gated = |[gate, up, down]: &[HostTensor; 3], biases: Option<&[Vec<f32>; 3]>| {
            let bias = |part: usize| biases.map(|biases| &biases[part]);
            DeviceGated::new(device, float, [gate, up, down], [bias(0), bias(1), bias(2)], true, activation)
        };
        let each = weights.experts.iter().enumerate().map(|(number, parts)| gated(parts, weights.biases.get(number)));
        let shared = weights.shared.as_ref().map(|parts| {
            let gate = weights.shared_gate.as_ref();
            let gate = gate.map(|gate| DeviceLinear::new(device, Float::F32, &[gate], &[None])).transpose()?;
            Ok::<_, KernelError>((gated(parts, weights.shared_biases.as_ref())?, gate))
        });
        Ok(Self {
            router: DeviceLinear::new(device, Float::F32, &[&weights.router], &[weights.router_bias.as_ref()])?,
            selection_bias: weights.selection_bias.clone(),
            experts: each.collect::<Result<_, _>>()?,
            shared: shared.transpose()?,
            per_token: experts.per_token(layer),
            settings: experts.clone(),
        })
    }

    /// The linears that every row passes, as far as adapters can change them.
    pub(super) fn linears(&self) -> Vec<Stacked<'_>> {
        let shared = self.shared.iter();
        shared.flat_map(|(block, _)| block.linears([SharedGate, SharedUp, SharedDown])).collect()
    }

    /// Likewise those that are computed in f32.
    pub(super) fn exact_linears(&self) -> Vec<Stacked<'_>> {
        let gate = self.shared.iter().filter_map(|(_, gate)| gate.as_ref());
        std::iter::once((&self.router, vec![Router])).chain(gate.map(|gate| (gate, vec![SharedSigmoid]))).collect()
    }

    /// Bytes of the weights.
    pub(super) fn bytes(&self) -> usize {
        let shared = self.shared.as_ref().map_or(0, |(block, _)| block.bytes());
        self.experts.iter().map(DeviceGated::bytes).sum::<usize>() + shared + self.router.bytes()
    }

    /// `y =` what the mixture makes of contiguous rows of the input.
    pub(super) fn run(&self, device: &Device, lora: BlockLora<'_>, x: View<'_>, y: View<'_>) -> Done {
        let (rows, hidden, count) = (x.height(), self.experts[0].down.out(), self.experts.len());
        if rows == 0 {
            return Ok(());
        }
        let exact = device.alloc(rows * hidden, Float::F32)?;
        let exact = exact.view(0, rows, hidden, hidden);
        device.cast(x, exact)?;
        let logits = device.alloc(rows * count, Float::F32)?;
        let logits = logits.view(0, rows, count, count);
        self.router.forward(device, lora.at(Router), exact, logits)?;
        let logits = device.read(logits)?;
        let choose = |logits: &[f32]| route(logits, &self.selection_bias, self.per_token, &self.settings);
        let mut routes: Vec<_> = logits.par_chunks_exact(count).with_min_len(64).map(choose).collect();
        let mut dispatch = Dispatch::new(&mut routes, count);

        let all = dispatch.rows.len();
        let sources = device.bytes(&dispatch.rows)?;
        let gathered = device.alloc(all * hidden, x.float())?;
        let gathered = gathered.view(0, all, hidden, hidden);
        device.gather(x, &sources, gathered)?;
        if self.settings.routing == Routing::SigmoidOnInput {
            device.scale_by(&device.floats(&dispatch.weights)?, By::Row, gathered)?;
            dispatch.shares.fill(1.0);
        }
        self.each(device, lora, &dispatch, gathered)?;
        let (places, shares) = (device.bytes(&dispatch.places)?, device.floats(&dispatch.shares)?);
        device.combine(gathered, &places, &shares, y)?;
        self.add_shared(device, lora, [x, exact], y)
    }

    /// Every expert over its rows, in place.
    fn each(&self, device: &Device, lora: BlockLora<'_>, dispatch: &Dispatch, x: View<'_>) -> Done {
        let first = &self.experts[0];
        let (rows, wide, inner) = (x.height(), first.wide.out(), first.inner());
        let buffer = device.alloc(rows * wide, x.float())?;
        let activated = device.alloc(rows * inner, x.float())?;
        let (buffer, activated) = (buffer.view(0, rows, wide, wide), activated.view(0, rows, inner, inner));
        let busy = || {
            let ranges = dispatch.starts.windows(2).map(|w| (w[0], w[1] - w[0]));
            self.experts.iter().zip(ranges).enumerate().filter(|(_, (_, (_, len)))| *len > 0)
        };
        for (number, (block, (from, len))) in busy() {
            block.wide.forward(device, lora.expert(number)[0], x.rows(from, len), buffer.rows(from, len))?;
        }
        first.activate(device, buffer, activated)?;
        for (number, (block, (from, len))) in busy() {
            block.down.forward(device, lora.expert(number)[1], activated.rows(from, len), x.rows(from, len))?;
        }
        Ok(())
    }

    /// Adds what the shared expert makes of the rows; `exact` are they in f32.
    fn add_shared(&self, device: &Device, lora: BlockLora<'_>, [x, exact]: [View<'_>; 2], y: View<'_>) -> Done {
        let Some((block, gate)) = &self.shared else { return Ok(()) };
        let (rows, hidden) = (x.height(), block.down.out());
        let out: DeviceBuffer = device.alloc(rows * hidden, x.float())?;
        let out = out.view(0, rows, hidden, hidden);
        let wide = lora.at(block.first([SharedGate, SharedUp]));
        block.run(device, [wide, lora.at(SharedDown)], x, out)?;
        if let Some(gate) = gate {
            let logits = device.alloc(rows, Float::F32)?;
            gate.forward(device, lora.at(SharedSigmoid), exact, logits.view(0, rows, 1, 1))?;
            device.scale_by(&logits, By::RowSigmoid, out)?;
        }
        device.add_scaled(1.0, out, y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_to_their_experts() {
        let mut routes = [vec![(2, 0.75), (0, 0.25)], vec![(2, 0.5), (1, 0.5)]];
        let dispatch = Dispatch::new(&mut routes, 4);
        assert_eq!(dispatch.starts, [0, 16, 32, 48, 48]);
        assert_eq!((dispatch.places, dispatch.shares), (vec![0, 32, 16, 33], vec![0.25, 0.75, 0.5, 0.5]));
        assert_eq!((dispatch.rows[0], dispatch.rows[16], &dispatch.rows[32..34]), (0, 1, &[0, 1][..]));
        assert_eq!((dispatch.weights[16], dispatch.weights[33], dispatch.weights[34]), (0.5, 0.5, 0.0));
    }
}
