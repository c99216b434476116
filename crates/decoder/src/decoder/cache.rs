//! Keys and values of computed positions.

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
    pub(crate) fn len(&self) -> usize {
        match &self.0 {
            Held::Host(kv) => kv.len,
            #[cfg(feature = "cuda")]
            Held::Device(kv) => kv.len(),
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
    width: usize,
}

#[derive(Debug)]
pub(crate) struct LayerKv {
    pub(crate) keys: Vec<f32>,
    pub(crate) values: Vec<f32>,
}

impl HostKv {
    /// An empty block with room for `capacity` positions of `width` channels.
    pub(crate) fn new(layers: usize, width: usize, capacity: usize) -> Self {
        let layer = || LayerKv { keys: vec![0.0; width * capacity], values: vec![0.0; width * capacity] };
        Self { layers: (0..layers).map(|_| layer()).collect(), len: 0, capacity, width }
    }

    /// Bytes of a block of `positions` positions.
    pub(crate) fn bytes(layers: usize, width: usize, positions: usize) -> usize {
        layers * width * positions * 2 * size_of::<f32>()
    }

    /// Positions held.
    pub(crate) fn len(&self) -> usize {
        self.len
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
        let (len, capacity, width) = (self.len, self.capacity, self.width);
        let LayerKv { keys: held, values: held_values } = &mut self.layers[layer];
        for channel in 0..width {
            held[channel * capacity + len..][..count].copy_from_slice(&keys[channel * key_stride..][..count]);
        }
        for (row, value) in held_values[len * width..].chunks_exact_mut(width).zip(values) {
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
            let mut keys = vec![0.0; self.width * capacity];
            for channel in 0..self.width {
                keys[channel * capacity..][..self.len]
                    .copy_from_slice(&layer.keys[channel * self.capacity..][..self.len]);
            }
            layer.keys = keys;
            layer.values.resize(self.width * capacity, 0.0);
        }
        self.capacity = capacity;
    }
}
