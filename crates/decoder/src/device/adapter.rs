//! Adapters on a GPU.

use harness_kernels::{HostTensor, KernelError, cuda::DeviceMatrix};

use super::{
    DeviceModel,
    linear::{DeviceLinear, DeviceLora},
};
use crate::{Adapter, AdapterLayer, DecoderError, LoraPair, Projection};

/// The additions to one block.
#[derive(Debug)]
pub(super) struct DeviceLayerLora {
    pub(super) qkv: Option<DeviceLora>,
    pub(super) o: Option<DeviceLora>,
    pub(super) gate_up: Option<DeviceLora>,
    pub(super) down: Option<DeviceLora>,
    /// Of every expert: to gate and up, and to down.
    pub(super) experts: Vec<[Option<DeviceLora>; 2]>,
}

/// An adapter on a GPU.
#[derive(Debug)]
pub(crate) struct DeviceAdapter {
    pub(super) layers: Vec<DeviceLayerLora>,
    pub(super) embed: Option<DeviceMatrix>,
    pub(super) head: Option<DeviceMatrix>,
}

impl DeviceAdapter {
    /// Uploads the pairs of all blocks, and what replaces embedding and head.
    ///
    /// # Errors
    /// If there is not enough memory; if another module than embedding and head is replaced.
    pub(crate) fn new(model: &DeviceModel, adapter: &Adapter) -> Result<Self, DecoderError> {
        let [head, embedding] = adapter.whole_modules()?;
        let unknown = |projection: &&Projection| !Projection::ALL.contains(projection);
        if let Some(other) = adapter.layers.iter().flat_map(AdapterLayer::keys).find(unknown) {
            let reason = format!("LoRA on {other}: not supported on a GPU yet; use --device cpu");
            return Err(model.device.fail(reason).into());
        }
        let layers = adapter.layers.iter().enumerate();
        let layers = layers.map(|(number, layer)| {
            let experts = adapter.experts.get(number).map(Vec::as_slice).unwrap_or_default();
            DeviceLayerLora::new(model, number, layer, experts)
        });
        let layers = layers.collect::<Result<_, KernelError>>()?;
        let matrix = |tensor: Option<&HostTensor>| {
            tensor.map(|tensor| DeviceMatrix::new(&model.device, model.float, &[tensor])).transpose()
        };
        Ok(Self { layers, embed: matrix(embedding)?, head: matrix(head)? })
    }
}

impl DeviceLayerLora {
    fn new(
        model: &DeviceModel,
        number: usize,
        layer: &AdapterLayer,
        experts: &[[Option<LoraPair>; 2]],
    ) -> Result<Self, KernelError> {
        use Projection::{Down, Gate, K, O, Q, Up, V};
        let (c, base) = (&model.config, &model.layers[number]);
        let (q, kv, hidden, inner) = (c.q_dim(), c.kv_dim(), c.hidden_size, c.intermediate_size);
        let wide: &[(Projection, usize)] = if c.block.gated { &[(Gate, inner), (Up, inner)] } else { &[(Up, inner)] };
        let of = |stacked: &[(Projection, usize)], base: Option<&DeviceLinear>| {
            let new = |base| DeviceLora::new(&model.device, model.float, layer, stacked, base);
            base.map(new).transpose().map(Option::flatten)
        };
        let dense = base.feed_forward.dense();
        let blocks = base.feed_forward.experts();
        let of_expert = |(pairs, block): (&[Option<LoraPair>; 2], &super::feed_forward::DeviceGated)| {
            let of = |part: usize, base: &DeviceLinear| {
                let pair = vec![(pairs[part].as_ref(), base.out())];
                DeviceLora::stacked(&model.device, model.float, pair, base)
            };
            Ok([of(0, &block.wide)?, of(1, &block.down)?])
        };
        Ok(Self {
            qkv: of(&[(Q, q), (K, kv), (V, kv)], base.mixer.merged())?,
            o: of(&[(O, hidden)], base.mixer.o())?,
            gate_up: of(wide, dense.map(|block| &block.wide))?,
            down: of(&[(Down, hidden)], dense.map(|block| &block.down))?,
            experts: experts.iter().zip(blocks).map(of_expert).collect::<Result<_, KernelError>>()?,
        })
    }
}
