//! The steps of one block on a GPU.

use harness_kernels::{
    KernelError,
    cuda::{AttentionWork, By, Device, DeviceBuffer, FewKeys, FewLinear, FewRows, Rotation as DeviceRotation, View},
};

use super::{
    DeviceFeedForward, DeviceLayer, DeviceModel,
    adapter::{BlockLora, Loras},
    cache::Cache,
    linear::{Addition, DeviceLinear, DeviceNorm, Done},
    mixer::{DeviceAttention, DeviceMixer, DeviceProjections},
    rotary::DeviceRotary,
};
use crate::{
    Placement,
    Projection::{ConvIn, ConvOut, Down, Gate, O, Q, Up},
    QueryScale, Rotation, Span,
    steps::{BlockNorm, Steps},
};

/// Buffers of one pass, reused from layer to layer.
pub(super) struct Activations {
    /// Residual stream `[rows, hidden]`, without what is in `out` while that is pending.
    x: DeviceBuffer,
    normed: DeviceBuffer,
    qkv: DeviceBuffer,
    /// What the mixer gives, as wide as the block's mixer makes it.
    mixed: DeviceBuffer,
    /// What a part adds to the residual stream.
    out: DeviceBuffer,
    gate_up: DeviceBuffer,
    inner: DeviceBuffer,
    /// Rows there are now.
    rows: usize,
    /// Whether `out` is still to be added: the norm that mostly follows does it on the way.
    pending: bool,
    /// The norm that is still to be applied to `x`: by the products that follow, where they take few rows.
    unnormed: Option<BlockNorm>,
    /// How queries and keys are still to be rotated: what mostly follows writes them to the cache on the way.
    unturned: Option<Rotation>,
}

impl Activations {
    pub(super) fn new(model: &DeviceModel, x: DeviceBuffer, rows: usize) -> Result<Self, KernelError> {
        let c = &model.config;
        let alloc = |cols: usize| model.device.alloc(rows * cols, model.float);
        let wide = if c.block.gated { 2 } else { 1 } * c.intermediate_size;
        Ok(Self {
            x,
            normed: alloc(c.hidden_size)?,
            qkv: alloc(c.q_dim() + 2 * c.kv_dim())?,
            mixed: alloc(if c.block.convolution.is_some() { c.q_dim().max(c.hidden_size) } else { c.q_dim() })?,
            out: alloc(c.hidden_size)?,
            gate_up: alloc(wide)?,
            inner: alloc(c.intermediate_size)?,
            rows,
            pending: false,
            unnormed: None,
            unturned: None,
        })
    }

    /// Adds what is pending.
    fn settle(&mut self, model: &DeviceModel) -> Done {
        if !std::mem::take(&mut self.pending) {
            return Ok(());
        }
        let n = self.rows * model.config.hidden_size;
        let (out, x) = (self.out.view(0, 1, n, n.max(1)), self.x.view(0, 1, n, n.max(1)));
        match model.config.block.residual_scale {
            1.0 => model.device.add(out, x),
            scale => model.device.add_scaled(scale, out, x),
        }
    }

    /// The residual stream after the last block, and its number of rows.
    pub(super) fn finish(mut self, model: &DeviceModel) -> Result<(DeviceBuffer, usize), KernelError> {
        self.settle(model)?;
        Ok((self.x, self.rows))
    }
}

/// What all blocks of a pass share.
pub(super) struct Pass<'a> {
    pub(super) cache: &'a Cache,
    pub(super) slots: &'a DeviceBuffer,
    pub(super) work: &'a AttentionWork,
    /// In the last layer only the wanted rows go on: their number, their numbers, and their attention; `None` = all of them.
    pub(super) last: Option<(usize, &'a DeviceBuffer, &'a AttentionWork)>,
    /// For every row the positions that a short convolution sees.
    pub(super) taps: Option<&'a DeviceBuffer>,
    /// The rows' places in the rotary table, and in the second one.
    pub(super) places: [&'a DeviceBuffer; 2],
    pub(super) query_factors: Option<&'a DeviceBuffer>,
    pub(super) acts: Activations,
}

/// One block of a pass.
pub(super) struct DeviceSteps<'p, 'c> {
    model: &'p DeviceModel,
    layer: &'p DeviceLayer,
    lora: BlockLora<'p>,
    index: usize,
    pass: &'p mut Pass<'c>,
}

impl<'p, 'c> DeviceSteps<'p, 'c> {
    pub(super) fn new(model: &'p DeviceModel, loras: Loras<'p>, index: usize, pass: &'p mut Pass<'c>) -> Self {
        Self { model, layer: &model.layers[index], lora: loras.block(index), index, pass }
    }

    /// The rows of a buffer that are there now.
    fn view<'b>(&self, buffer: &'b DeviceBuffer, cols: usize) -> View<'b> {
        buffer.view(0, self.pass.acts.rows, cols, cols)
    }

    fn hidden<'b>(&self, buffer: &'b DeviceBuffer) -> View<'b> {
        self.view(buffer, self.model.config.hidden_size)
    }

    fn qkv(&self) -> View<'_> {
        let c = &self.model.config;
        self.view(&self.pass.acts.qkv, c.q_dim() + 2 * c.kv_dim())
    }

    fn attention(&self) -> Option<&'p DeviceAttention> {
        match &self.layer.mixer {
            DeviceMixer::Attention(attention) => Some(attention),
            DeviceMixer::Convolution(_) => None,
        }
    }

    /// Width of what the mixer gives.
    fn mixed_width(&self) -> usize {
        match &self.layer.mixer {
            DeviceMixer::Attention(_) => self.model.config.q_dim(),
            DeviceMixer::Convolution(_) => self.model.config.hidden_size,
        }
    }

    /// In the last layer only the wanted rows go on.
    fn compact(&mut self) -> Done {
        let (model, device) = (self.model, &self.model.device);
        let hidden = model.config.hidden_size;
        let last = self.pass.last.filter(|_| self.index + 1 == model.config.num_layers);
        let Some((rows, wanted_rows, _)) = last else { return Ok(()) };
        self.pass.acts.settle(model)?;
        let (all, mixed) = (self.pass.acts.rows, self.mixed_width());
        let normed = model.config.block.placement == Placement::Parallel;
        let Activations { x, normed: n, mixed: m, .. } = &mut self.pass.acts;
        for (buffer, cols, wanted) in [(x, hidden, true), (m, mixed, true), (n, hidden, normed)] {
            if wanted {
                let kept = device.alloc(rows * cols, model.float)?;
                let to = kept.view(0, rows, cols, cols);
                device.gather(buffer.view(0, all, cols, cols), wanted_rows, to)?;
                *buffer = kept;
            }
        }
        self.pass.acts.rows = rows;
        Ok(())
    }

    /// The rotary table of a rotation, and the rows' places in it.
    fn rotary(&self, rotation: Rotation) -> Option<(&'p DeviceRotary, &DeviceBuffer)> {
        let [main, local] = self.pass.places;
        match rotation {
            Rotation::Main => Some((&self.model.rotary, main)),
            Rotation::Local => self.model.local.as_ref().map(|table| (table, local)),
            Rotation::None => None,
        }
    }

    /// Whether products of the rows take with them what stands around them.
    fn takes_few(&self) -> bool {
        let c = &self.model.config;
        c.block.placement == Placement::Pre
            && Device::takes_few(self.model.float, self.pass.acts.rows, c.hidden_size, c.intermediate_size)
    }

    fn norm_of(&self, norm: BlockNorm) -> &'p DeviceNorm {
        match norm {
            BlockNorm::First => &self.layer.input_norm,
            BlockNorm::Second => &self.layer.post_attention_norm,
        }
    }

    /// Whether what follows a norm applies it.
    fn is_taken_along(&self, norm: BlockNorm) -> bool {
        let follows = match (norm, &self.layer.feed_forward) {
            (BlockNorm::First, ..) => self.few_projections().is_some(),
            (BlockNorm::Second, DeviceFeedForward::Dense(block)) => {
                block.few(self.lora.at(block.first([Gate, Up]))).is_some()
            }
            _ => false,
        };
        follows && self.norm_of(norm).short(self.model.config.block.norm).is_some()
    }

    /// The rows of the residual stream, to which a norm is still to be applied.
    fn unnormed(&self, norm: BlockNorm) -> FewRows<'_> {
        let c = &self.model.config;
        let weights = self.norm_of(norm).short(c.block.norm).expect("the weights of a norm that is taken along");
        FewRows { rows: self.hidden(&self.pass.acts.x), norm: Some((weights, c.norm_eps)) }
    }

    /// The projections of the attention for products of few rows.
    fn few_projections(&self) -> Option<FewLinear<'p>> {
        match &self.attention()?.projections {
            DeviceProjections::Merged(linear) => linear.few(self.lora.at(Q)),
            DeviceProjections::Latent(_) => None,
        }
    }

    /// Projects what is still to be projected.
    fn project_now(&mut self) -> Done {
        match (self.pass.acts.unnormed.take(), self.few_projections()) {
            (Some(norm), Some(linear)) => self.model.device.few_linear(self.unnormed(norm), linear, false, self.qkv()),
            _ => Ok(()),
        }
    }

    /// Projects what is still to be projected, rotates it, and writes keys and values; false if nothing is to be projected,
    /// or not all of that can be done at once.
    fn project_and_store(&mut self, rotation: Rotation) -> Result<bool, KernelError> {
        let c = &self.model.config;
        let whole = |rotation: DeviceRotation<'_>| {
            rotation.dims == c.head_dim && !rotation.pairs && c.head_dim.is_multiple_of(16)
        };
        let rotary = self.rotary(rotation).map(|(table, positions)| (table.rotation(), positions));
        let (Some((rotation, positions)), Some(norm), Some(linear)) =
            (rotary.filter(|(rotation, _)| whole(*rotation)), self.pass.acts.unnormed, self.few_projections())
        else {
            return Ok(false);
        };
        let to = FewKeys { rotation, positions, slots: self.pass.slots, cache: self.pass.cache.layer(self.index) };
        let q = self.qkv().columns(0, c.q_dim());
        self.model.device.few_project(self.unnormed(norm), linear, [c.num_heads, c.num_kv_heads], to, q)?;
        self.pass.acts.unnormed = None;
        Ok(true)
    }

    /// Adds the product of few rows to the residual stream, to which nothing else is to be added; false if that cannot be done
    /// at once.
    fn add_few(
        &self,
        linear: &DeviceLinear,
        addition: Addition<'_>,
        norm: Option<&DeviceNorm>,
        rows: View<'_>,
    ) -> Result<bool, KernelError> {
        let plain = self.takes_few() && norm.is_none() && self.model.config.block.residual_scale == 1.0;
        let Some(linear) = linear.few(addition).filter(|_| plain) else { return Ok(false) };
        let x = self.hidden(&self.pass.acts.x);
        self.model.device.few_linear(FewRows { rows, norm: None }, linear, true, x)?;
        Ok(true)
    }

    /// Rotates what is still to be rotated.
    fn turn(&mut self) -> Done {
        self.project_now()?;
        let rotation = self.pass.acts.unturned.take().unwrap_or(Rotation::None);
        let c = &self.model.config;
        let Some((table, places)) = self.rotary(rotation) else { return Ok(()) };
        let heads = c.num_heads + c.num_kv_heads;
        table.rotate(&self.model.device, self.qkv().columns(0, heads * c.head_dim), heads, places)
    }

    /// What becomes of a part's result on its way to the residual stream.
    fn add(&mut self, norm: Option<&DeviceNorm>) -> Done {
        let (device, c) = (&self.model.device, &self.model.config);
        if let Some(norm) = norm {
            let out = self.hidden(&self.pass.acts.out);
            norm.run(device, c.block.norm, 1, c.norm_eps, out, out)?;
        }
        self.pass.acts.pending = true;
        Ok(())
    }
}

impl Steps for DeviceSteps<'_, '_> {
    type Error = KernelError;

    fn norm(&mut self, norm: BlockNorm) -> Done {
        let (model, device, c) = (self.model, &self.model.device, &self.model.config);
        if self.takes_few() && self.is_taken_along(norm) {
            self.pass.acts.settle(model)?;
            self.pass.acts.unnormed = Some(norm);
            return Ok(());
        }
        let weights = self.norm_of(norm);
        if let (true, 1.0, Some(w)) = (self.pass.acts.pending, c.block.residual_scale, weights.plain(c.block.norm)) {
            self.pass.acts.pending = false;
            let acts = &self.pass.acts;
            let (out, x, normed) = (self.hidden(&acts.out), self.hidden(&acts.x), self.hidden(&acts.normed));
            return device.add_rmsnorm(out, x, w, c.norm_eps, normed, None);
        }
        self.pass.acts.settle(model)?;
        let acts = &self.pass.acts;
        weights.run(device, c.block.norm, 1, c.norm_eps, self.hidden(&acts.x), self.hidden(&acts.normed))
    }

    fn copy(&mut self) -> Done {
        self.pass.acts.settle(self.model)?;
        let acts = &self.pass.acts;
        self.model.device.cast(self.hidden(&acts.x), self.hidden(&acts.normed))
    }

    fn replace(&mut self) -> Done {
        self.pass.acts.settle(self.model)?;
        let acts = &self.pass.acts;
        self.model.device.cast(self.hidden(&acts.normed), self.hidden(&acts.x))
    }

    fn keep_first(&mut self) -> Done {
        // It still lies where the first norm put it; rows were left out there too.
        Ok(())
    }

    fn project(&mut self) -> Done {
        if self.pass.acts.unnormed.is_some() {
            // It is done with what follows.
            return Ok(());
        }
        let Some(DeviceProjections::Merged(linear)) = self.attention().map(|layer| &layer.projections) else {
            return Ok(());
        };
        linear.forward(&self.model.device, self.lora.at(Q), self.hidden(&self.pass.acts.normed), self.qkv())
    }

    fn project_latent(&mut self) -> Done {
        if let Some(DeviceProjections::Latent(latent)) = self.attention().map(|layer| &layer.projections) {
            latent.project(&self.model.device, self.lora, self.hidden(&self.pass.acts.normed), self.qkv())?;
        }
        self.rotate(self.model.config.block.rotation(self.index))
    }

    fn norm_heads(&mut self) -> Done {
        self.turn()?;
        let (device, c) = (&self.model.device, &self.model.config);
        let (Some(norm), Some(layer)) = (c.block.qk_norm, self.attention()) else { return Ok(()) };
        let parts = [(&layer.q_norm, 0, c.num_heads), (&layer.k_norm, c.q_dim(), c.num_kv_heads)];
        for (weights, from, heads) in parts {
            let Some(weights) = weights else { continue };
            let part = self.qkv().columns(from, heads * c.head_dim);
            let heads = if norm.span == Span::Whole { 1 } else { heads };
            weights.run(device, norm.norm, heads, c.norm_eps, part, part)?;
        }
        Ok(())
    }

    fn clip(&mut self, limit: f32) -> Done {
        self.turn()?;
        self.model.device.clip(limit, self.qkv())
    }

    fn rotate(&mut self, rotation: Rotation) -> Done {
        self.pass.acts.unturned = Some(rotation);
        Ok(())
    }

    fn scale_queries(&mut self, _: QueryScale) -> Done {
        self.turn()?;
        let Some(factors) = self.pass.query_factors else { return Ok(()) };
        self.model.device.scale_by(factors, By::Row, self.qkv().columns(0, self.model.config.q_dim()))
    }

    fn attend(&mut self) -> Done {
        let unturned = self.pass.acts.unturned.take().unwrap_or(Rotation::None);
        let stored = self.project_and_store(unturned)?;
        self.project_now()?;
        let (device, c) = (&self.model.device, &self.model.config);
        let Some(layer) = self.attention() else { return Ok(()) };
        let [keys, values] = self.pass.cache.layer(self.index);
        match self.rotary(unturned) {
            _ if stored => {}
            Some((table, places)) => {
                let heads = [c.num_heads, c.num_kv_heads];
                let (rotation, slots) = (table.rotation(), self.pass.slots);
                device.rotate_and_store(self.qkv(), heads, rotation, places, slots, keys, values)?;
            }
            None => device.store_kv(self.qkv(), c.q_dim(), self.pass.slots, keys, values)?,
        }
        let last = self.pass.last.filter(|_| self.index + 1 == c.num_layers);
        let work = last.map_or(self.pass.work, |(_, _, work)| work);
        let scores = self.model.scores(self.index, layer);
        let q = self.qkv().columns(0, c.q_dim());
        let o = self.view(&self.pass.acts.mixed, c.q_dim());
        device.attention_with([q, keys, values], c.attention(self.index), scores, work, o, None)?;
        self.compact()
    }

    fn convolve(&mut self) -> Done {
        let (device, hidden) = (&self.model.device, self.model.config.hidden_size);
        let DeviceMixer::Convolution(layer) = &self.layer.mixer else { return Ok(()) };
        let wide = device.alloc(self.pass.acts.rows * 3 * hidden, self.model.float)?;
        let wide = self.view(&wide, 3 * hidden);
        layer.input.forward(device, self.lora.at(ConvIn), self.hidden(&self.pass.acts.normed), wide)?;
        let [_, values] = self.pass.cache.layer(self.index);
        device.convolution_input(wide, self.pass.slots, values)?;
        let (out, taps) = (self.hidden(&self.pass.acts.mixed), self.pass.taps);
        let taps = taps.ok_or_else(|| device.fail("a short convolution without the positions that it sees"))?;
        device.convolution(values, taps, &layer.taps, layer.bias.as_ref(), wide, out)?;
        self.compact()
    }

    fn add_mixed(&mut self) -> Done {
        let (model, device, c) = (self.model, &self.model.device, &self.model.config);
        self.pass.acts.settle(model)?;
        let acts = &self.pass.acts;
        let (mixed, out) = (self.view(&acts.mixed, self.mixed_width()), self.hidden(&acts.out));
        match &self.layer.mixer {
            DeviceMixer::Convolution(layer) => layer.output.forward(device, self.lora.at(ConvOut), mixed, out)?,
            DeviceMixer::Attention(layer) => {
                let lora = self.lora.at(O);
                match c.block.latent {
                    Some(latent) => {
                        // Of every head its values, without what fills them up.
                        let (rows, heads) = (acts.rows, acts.rows * c.num_heads);
                        let values = device.alloc(rows * c.o_dim(), model.float)?;
                        let from = acts.mixed.view(0, heads, latent.value, c.head_dim);
                        device.copy_rows(from, values.view(0, heads, latent.value, latent.value))?;
                        layer.o.forward(device, lora, self.view(&values, c.o_dim()), out)?;
                    }
                    None if self.add_few(&layer.o, lora, self.layer.attention_out_norm.as_ref(), mixed)? => {
                        return Ok(());
                    }
                    None => layer.o.forward(device, lora, mixed, out)?,
                }
            }
        }
        self.add(self.layer.attention_out_norm.as_ref())
    }

    fn feed_forward(&mut self) -> Done {
        let (model, device) = (self.model, &self.model.device);
        self.pass.acts.settle(model)?;
        let unnormed = self.pass.acts.unnormed.take();
        let acts = &self.pass.acts;
        let (normed, out) = (self.hidden(&acts.normed), self.hidden(&acts.out));
        match &self.layer.feed_forward {
            DeviceFeedForward::Dense(block) => {
                let activated = self.view(&acts.inner, block.inner());
                let wider = self.lora.at(block.first([Gate, Up]));
                match (unnormed, block.few(wider)) {
                    (Some(norm), Some(wide)) => {
                        device.few_gated(self.unnormed(norm), wide, block.activation, activated)?;
                    }
                    _ => {
                        let wide = self.view(&acts.gate_up, block.wide.out());
                        block.wide.forward(device, wider, normed, wide)?;
                        block.activate(device, wide, activated)?;
                    }
                }
                let (lora, norm) = (self.lora.at(Down), self.layer.feed_forward_out_norm.as_ref());
                if self.add_few(&block.down, lora, norm, activated)? {
                    return Ok(());
                }
                block.down.forward(device, lora, activated, out)?;
            }
            DeviceFeedForward::Experts(experts) => experts.run(device, self.lora, normed, out)?,
        }
        self.add(self.layer.feed_forward_out_norm.as_ref())
    }
}
