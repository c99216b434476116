//! Adapters on a GPU.

use std::collections::BTreeMap;

use harness_kernels::{HostTensor, KernelError, cuda::DeviceMatrix};

use super::{
    DeviceModel,
    linear::{DeviceLinear, DeviceLora},
};
use crate::{Adapter, AdapterLayer, DecoderError, LoraPair, Projection};

/// The additions to one block.
#[derive(Debug)]
pub(super) struct DeviceLayerLora {
    /// By the first of the projections that stand side by side.
    linears: BTreeMap<Projection, DeviceLora>,
    /// Of every expert: to gate and up, and to down.
    experts: Vec<[Option<DeviceLora>; 2]>,
}

/// The additions to one block, if there are any.
#[derive(Clone, Copy)]
pub(super) struct BlockLora<'a>(pub(super) Option<&'a DeviceLayerLora>);

impl<'a> BlockLora<'a> {
    /// The addition to the linear whose first projection is this.
    pub(super) fn at(self, first: Projection) -> Option<&'a DeviceLora> {
        self.0.and_then(|lora| lora.linears.get(&first))
    }

    /// The additions to an expert.
    pub(super) fn expert(self, number: usize) -> [Option<&'a DeviceLora>; 2] {
        let pair = self.0.and_then(|lora| lora.experts.get(number));
        pair.map_or([None, None], |pair| pair.each_ref().map(Option::as_ref))
    }
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
    /// If there is not enough memory; if the adapter changes linears that this model has not, or replaces modules other
    /// than embedding and head.
    pub(crate) fn new(model: &DeviceModel, adapter: &Adapter) -> Result<Self, DecoderError> {
        let [head, embedding] = adapter.whole_modules()?;
        let unknown = |p: &&Projection| matches!(p, Projection::Router | Projection::SharedSigmoid);
        if let Some(other) = adapter.layers.iter().flat_map(AdapterLayer::keys).find(unknown) {
            let reason = format!("LoRA on {other}: not supported on a GPU yet; use --device cpu");
            return Err(model.device.fail(reason).into());
        }
        let layers = adapter.layers.iter().enumerate();
        let layers = layers.map(|(number, layer)| {
            let experts = adapter.experts.get(number).map(Vec::as_slice).unwrap_or_default();
            DeviceLayerLora::new(model, number, layer, experts)
        });
        let layers = layers.collect::<Result<_, DecoderError>>()?;
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
    ) -> Result<Self, DecoderError> {
        let base = &model.layers[number];
        let upload = |pairs: &[(Option<&LoraPair>, usize)], linear: &DeviceLinear| {
            DeviceLora::new(&model.device, model.float, pairs, linear)
        };
        let (mut linears, mut packed) = (BTreeMap::new(), 0);
        for (linear, projections) in base.linears() {
            packed += projections.iter().filter(|projection| layer.contains_key(projection)).count();
            let pairs: Vec<_> = projections.iter().map(|part| (layer.get(part), part.dims(&model.config).0)).collect();
            linears.extend(upload(&pairs, linear)?.map(|lora| (projections[0], lora)));
        }
        if packed < layer.len() {
            let module = format!("{:?} of layer {number}", layer.keys().collect::<Vec<_>>());
            return Err(DecoderError::AdapterModule { module });
        }
        let experts = experts.iter().zip(base.feed_forward.experts()).map(|(pairs, block)| {
            let of = |pair: &Option<LoraPair>, linear| upload(&[(pair.as_ref(), DeviceLinear::out(linear))], linear);
            Ok([of(&pairs[0], &block.wide)?, of(&pairs[1], &block.down)?])
        });
        Ok(Self { linears, experts: experts.collect::<Result<_, KernelError>>()? })
    }
}
