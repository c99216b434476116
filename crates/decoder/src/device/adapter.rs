//! Adapters on a GPU.

use std::collections::BTreeMap;

use harness_kernels::{
    HostTensor, KernelError,
    cuda::{DeviceBuffer, DeviceMatrix, Float, LoraTable},
};

use super::{
    DeviceModel,
    linear::{Addition, DeviceLinear, DeviceLora, rows_of},
};
use crate::{Adapter, DecoderError, LoraPair, Projection, adapter::without_part, merge::whole_tables};

/// The additions to one block.
#[derive(Debug)]
pub(super) struct DeviceLayerLora {
    /// By the first of the projections that stand side by side.
    linears: BTreeMap<Projection, DeviceLora>,
    /// Of every expert: to gate and up, and to down.
    experts: Vec<[Option<DeviceLora>; 2]>,
}

/// What adapters add to a pass.
#[derive(Clone, Copy)]
pub(super) enum Loras<'a> {
    /// One adapter, or none, to all rows.
    One(Option<&'a DeviceAdapter>),
    /// Several, each to its tiles of rows: the number in the set of every tile's adapter.
    Rows(&'a AdapterSet, &'a DeviceBuffer),
}

impl<'a> Loras<'a> {
    /// Of one block.
    pub(super) fn block(self, layer: usize) -> BlockLora<'a> {
        match self {
            Self::One(adapter) => BlockLora::One(adapter.map(|adapter| &adapter.layers[layer])),
            Self::Rows(set, owners) => BlockLora::Rows(&set.layers[layer], owners),
        }
    }
}

/// The additions to one block.
#[derive(Clone, Copy)]
pub(super) enum BlockLora<'a> {
    One(Option<&'a DeviceLayerLora>),
    Rows(&'a BTreeMap<Projection, LoraTable>, &'a DeviceBuffer),
}

impl<'a> BlockLora<'a> {
    /// The addition to the linear whose first projection is this.
    pub(super) fn at(self, first: Projection) -> Addition<'a> {
        match self {
            Self::One(lora) => lora.and_then(|lora| lora.linears.get(&first)).into(),
            Self::Rows(tables, owners) => {
                tables.get(&first).map_or(Addition::None, |table| Addition::Rows(table, owners))
            }
        }
    }

    /// The additions to an expert.
    pub(super) fn expert(self, number: usize) -> [Addition<'a>; 2] {
        let Self::One(lora) = self else { return [Addition::None; 2] };
        let pair = lora.and_then(|lora| lora.experts.get(number));
        pair.map_or([Addition::None; 2], |pair| pair.each_ref().map(|lora| lora.as_ref().into()))
    }
}

/// Adapters whose additions are computed together, of every block by the first of the projections that stand side by side.
#[derive(Debug)]
pub(super) struct AdapterSet {
    layers: Vec<BTreeMap<Projection, LoraTable>>,
}

impl AdapterSet {
    /// `None` if the kernels do not serve them all.
    pub(super) fn new(model: &DeviceModel, adapters: &[Option<&DeviceAdapter>]) -> Result<Option<Self>, KernelError> {
        if adapters.iter().flatten().any(|adapter| adapter.embed.is_some() || adapter.head.is_some()) {
            return Ok(None);
        }
        let mut layers = vec![];
        for (number, layer) in model.layers.iter().enumerate() {
            let mut tables = BTreeMap::new();
            for (linear, projections) in layer.linears() {
                let mut found = vec![];
                for adapter in adapters {
                    let lora = adapter.and_then(|adapter| adapter.layers[number].linears.get(&projections[0]));
                    found.push(lora.map(DeviceLora::rows));
                }
                if found.iter().flatten().any(Option::is_none) {
                    return Ok(None);
                }
                let found: Vec<_> = found.into_iter().map(Option::flatten).collect();
                if found.iter().any(Option::is_some) {
                    let size = [linear.inputs(), linear.out()];
                    let Some(table) = LoraTable::new(&model.device, &found, size)? else { return Ok(None) };
                    tables.insert(projections[0], table);
                }
            }
            layers.push(tables);
        }
        Ok(Some(Self { layers }))
    }
}

/// An adapter on a GPU.
#[derive(Debug)]
pub(crate) struct DeviceAdapter {
    /// Names it on its device.
    pub(super) id: u64,
    pub(super) layers: Vec<DeviceLayerLora>,
    pub(super) embed: Option<DeviceMatrix>,
    /// With its bias.
    pub(super) head: Option<(DeviceMatrix, Option<DeviceBuffer>)>,
}

impl DeviceAdapter {
    /// Uploads the pairs of all blocks, and embedding and head as they are with the adapter's changes.
    ///
    /// # Errors
    /// If there is not enough memory; if the adapter changes linears that this model has not, or replaces modules other
    /// than embedding and head; if what it began as cannot be taken out of the base.
    pub(crate) fn new(model: &DeviceModel, adapter: &Adapter) -> Result<Self, DecoderError> {
        let layers = (0..adapter.layers.len()).map(|number| DeviceLayerLora::new(model, number, adapter));
        let layers = layers.collect::<Result<_, DecoderError>>()?;
        let table = |matrix: &DeviceMatrix| {
            let values = rows_of(&model.device, matrix, 0..matrix.rows())?;
            Ok(HostTensor::from_f32([matrix.rows(), matrix.cols()], values))
        };
        let (embedding, head) = (|| table(&model.embed), || table(model.head.as_ref().unwrap_or(&model.embed)));
        let [embedding, head] = whole_tables(adapter, [&embedding, &head])?;
        let matrix = |tensor: HostTensor| DeviceMatrix::new(&model.device, model.float, &[&tensor]);
        let head = head.map(|head| Ok::<_, DecoderError>((matrix(head)?, Self::head_bias(model, adapter)?)));
        let id = model.device.next_id();
        Ok(Self { id, layers, embed: embedding.map(matrix).transpose()?, head: head.transpose()? })
    }

    /// The bias of a head that the adapter changes.
    fn head_bias(model: &DeviceModel, adapter: &Adapter) -> Result<Option<DeviceBuffer>, DecoderError> {
        let [whole, _] = adapter.whole_modules()?;
        let mut bias = match (whole, &model.head_bias) {
            (Some(_), _) => adapter.top.head_bias.clone(),
            (None, Some(base)) => Some(model.device.read(base.row())?),
            (None, None) => None,
        };
        if let Some(LoraPair { bias: Some(own), scale, .. }) = &adapter.top.head {
            let bias = bias.get_or_insert_with(|| vec![0.0; own.len()]);
            bias.iter_mut().zip(own).for_each(|(bias, own)| *bias += scale * own);
        }
        Ok(bias.map(|bias| model.device.floats(&bias)).transpose()?)
    }
}

impl DeviceLayerLora {
    fn new(model: &DeviceModel, number: usize, adapter: &Adapter) -> Result<Self, DecoderError> {
        let (base, layer, device) = (&model.layers[number], &adapter.layers[number], &model.device);
        let upload = |pairs: &[(Option<&LoraPair>, usize)], linear: &DeviceLinear, float: Float| {
            DeviceLora::new(device, float, pairs, linear)
        };
        let (mut linears, mut packed) = (BTreeMap::new(), 0);
        let places = model.config.linears(number);
        // What decides about experts is in f32.
        let exact = base.feed_forward.exact_linears().into_iter().map(|linear| (linear, Float::F32));
        for ((linear, projections), float) in base.linears().map(|linear| (linear, model.float)).chain(exact) {
            packed += projections.iter().filter(|projection| layer.contains_key(projection)).count();
            let layer = match adapter.config.initialisation {
                Some(initialisation) => {
                    let rows = |range| Ok(linear.weight_rows(device, range)?);
                    &without_part(initialisation, layer, &projections, &places, linear.inputs(), &rows)?
                }
                None => layer,
            };
            let pairs: Vec<_> = projections.iter().map(|part| (layer.get(part), part.dims(&model.config).0)).collect();
            linears.extend(upload(&pairs, linear, float)?.map(|lora| (projections[0], lora)));
        }
        if packed < layer.len() {
            let module = format!("{:?} of layer {number}", layer.keys().collect::<Vec<_>>());
            return Err(DecoderError::AdapterModule { module });
        }
        let experts: &[[Option<LoraPair>; 2]] = adapter.experts.get(number).map(Vec::as_slice).unwrap_or_default();
        let experts = experts.iter().zip(base.feed_forward.experts()).map(|(pairs, block)| {
            let of = |pair: &Option<LoraPair>, linear| {
                upload(&[(pair.as_ref(), DeviceLinear::out(linear))], linear, model.float)
            };
            Ok([of(&pairs[0], &block.wide)?, of(&pairs[1], &block.down)?])
        });
        Ok(Self { linears, experts: experts.collect::<Result<_, KernelError>>()? })
    }
}
