//! Keys and values of computed positions.

use crate::DecoderConfig;

/// Keys and values of a run of positions in every layer, where the model is that computed them.
#[derive(Debug)]
pub struct KvBlock(pub(crate) Held);

#[derive(Debug)]
pub(crate) enum Held {
    Host(HostKv),
    #[cfg(feature = "cuda")]
    Device(crate::device::DeviceKv),
}

impl KvBlock {
    /// Positions held.
    #[expect(clippy::len_without_is_empty, reason = "a number of positions, not a collection")]
    pub fn len(&self) -> usize {
        match &self.0 {
            Held::Host(kv) => kv.len,
            #[cfg(feature = "cuda")]
            Held::Device(kv) => kv.len(),
        }
    }

    /// Drops the last `count` positions; the next ones are written in their place.
    pub fn drop_last(&mut self, count: usize) {
        let len = self.len().saturating_sub(count);
        match &mut self.0 {
            Held::Host(kv) => kv.truncate(len),
            #[cfg(feature = "cuda")]
            Held::Device(kv) => kv.truncate(len),
        }
    }

    /// The positions in host memory; `None` if a device holds them.
    pub(crate) fn host(&self) -> Option<&HostKv> {
        match &self.0 {
            Held::Host(kv) => Some(kv),
            #[cfg(feature = "cuda")]
            Held::Device(_) => None,
        }
    }

    /// As [`KvBlock::host`], to be extended.
    pub(crate) fn host_mut(&mut self) -> Option<&mut HostKv> {
        match &mut self.0 {
            Held::Host(kv) => Some(kv),
            #[cfg(feature = "cuda")]
            Held::Device(_) => None,
        }
    }

    /// The positions on a GPU; `None` if the host holds them.
    #[cfg(feature = "cuda")]
    pub(crate) fn device(&self) -> Option<&crate::device::DeviceKv> {
        match &self.0 {
            Held::Host(_) => None,
            Held::Device(kv) => Some(kv),
        }
    }

    /// As [`KvBlock::device`], to be extended.
    #[cfg(feature = "cuda")]
    pub(crate) fn device_mut(&mut self) -> Option<&mut crate::device::DeviceKv> {
        match &mut self.0 {
            Held::Host(_) => None,
            Held::Device(kv) => Some(kv),
        }
    }
}

/// Keys and values in host memory, with room to grow.
///
/// Keys lie channel by channel (`[kv_dim, capacity]`), the order in which attention reads them as the right operand of
/// a product; values lie position by position.
#[derive(Debug)]
pub(crate) struct HostKv {
    layers: Vec<LayerKv>,
    len: usize,
    capacity: usize,
}

#[derive(Debug)]
pub(crate) struct LayerKv {
    pub(crate) keys: Vec<f32>,
    pub(crate) values: Vec<f32>,
    widths: Widths,
}

/// Channels of the keys and of the values of a layer. A short convolution holds its inputs as values, and no keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Widths {
    keys: usize,
    values: usize,
}

impl Widths {
    pub(crate) fn of(config: &DecoderConfig) -> Vec<Self> {
        let of = |layer| match config.block.is_convolution(layer) {
            true => Self { keys: 0, values: config.hidden_size },
            false => Self { keys: config.kv_dim(), values: config.kv_dim() },
        };
        (0..config.num_layers).map(of).collect()
    }
}

impl HostKv {
    /// An empty block with room for `capacity` positions.
    pub(crate) fn new(layers: &[Widths], capacity: usize) -> Self {
        let layer = |&widths: &Widths| LayerKv {
            keys: vec![0.0; widths.keys * capacity],
            values: vec![0.0; widths.values * capacity],
            widths,
        };
        Self { layers: layers.iter().map(layer).collect(), len: 0, capacity }
    }

    /// Bytes of a block of `positions` positions.
    pub(crate) fn bytes(layers: &[Widths], positions: usize) -> usize {
        layers.iter().map(|widths| widths.keys + widths.values).sum::<usize>() * positions * size_of::<f32>()
    }

    /// Positions held.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Drops the last positions, so that at most `len` are left.
    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Distance between the channels of a key.
    pub(crate) fn channel_stride(&self) -> usize {
        self.capacity
    }

    pub(crate) fn layer(&self, layer: usize) -> &LayerKv {
        &self.layers[layer]
    }

    /// Writes new positions of one layer behind those held; [`HostKv::advance`] counts them once all layers are in.
    /// `keys` is `[kv_dim, ..]` with the given stride, `values` yields one row a position.
    pub(crate) fn write<'a>(
        &mut self,
        layer: usize,
        keys: &[f32],
        key_stride: usize,
        values: impl ExactSizeIterator<Item = &'a [f32]>,
    ) {
        let count = values.len();
        self.reserve(self.len + count);
        let (len, capacity) = (self.len, self.capacity);
        let LayerKv { keys: held, values: held_values, widths } = &mut self.layers[layer];
        for channel in 0..widths.keys {
            held[channel * capacity + len..][..count].copy_from_slice(&keys[channel * key_stride..][..count]);
        }
        for (row, value) in held_values[len * widths.values..].chunks_exact_mut(widths.values).zip(values) {
            row.copy_from_slice(value);
        }
    }

    /// Counts positions that were written in every layer.
    pub(crate) fn advance(&mut self, count: usize) {
        self.len += count;
        debug_assert!(self.len <= self.capacity, "positions were written");
    }

    /// Makes room for `positions` positions, at least doubling what there is.
    fn reserve(&mut self, positions: usize) {
        if positions <= self.capacity {
            return;
        }
        let capacity = positions.max(self.capacity * 2).max(32);
        for layer in &mut self.layers {
            let mut keys = vec![0.0; layer.widths.keys * capacity];
            for channel in 0..layer.widths.keys {
                keys[channel * capacity..][..self.len]
                    .copy_from_slice(&layer.keys[channel * self.capacity..][..self.len]);
            }
            layer.keys = keys;
            layer.values.resize(layer.widths.values * capacity, 0.0);
        }
        self.capacity = capacity;
    }
}
