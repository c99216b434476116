//! A decoder in training: embedding, blocks, last norm, head and loss, forward and backward.

mod head;
mod layout;
mod noise;
mod outer;
mod rotary;
mod scratch;

use std::sync::Arc;

use harness_core::Stop;
use harness_decoder::{DecoderConfig, LayerWeights, Weights};
pub use layout::{Places, full_layout, lora_layout};
pub use noise::NoisePlan;
use outer::{Outer, Tables};
pub use scratch::random_weights;

pub use crate::block::{Pass, Resident, WeightSource};
use crate::{
    TrainingError,
    backend::{self, Backend, Mat, Span, SpanMut, Weight},
    block::{BlockContext, DropoutPlan, FrozenLayer, GradSink, LayerView, ModelPart, Rows, SavePolicy, Saved},
    data::Batch,
    lora::LoraSpec,
    parallel::{Collective, Gathered, Units},
    params::{Layout, ParamStore},
};

/// Which parameters are trained.
#[derive(Clone, Debug, PartialEq)]
pub enum Trainable {
    /// All of them.
    Full,
    /// Low-rank additions beside frozen weights.
    Lora(LoraSpec),
}

/// Fails unless a decoder can be trained on documents of up to `max_length` tokens: all parameters with `full`.
///
/// # Errors
/// If its kind is not known here, or its rotary embedding depends on the length of such documents.
pub fn check(config: &DecoderConfig, max_length: usize, full: bool) -> Result<(), TrainingError> {
    let unsupported = |feature| TrainingError::Unsupported { feature, architecture: config.architecture.name() };
    if full {
        if let Some(feature) = config.beyond_llama() {
            return Err(unsupported(feature));
        }
        if !config.is_named_like_llama() {
            return Err(unsupported("linears that hold several projections, or of other names"));
        }
    }
    rotary::check(config, max_length)
}

/// With what the gradient of a micro-batch is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MicroStep {
    /// Factor on the summed loss: the loss scale over the number of labels in the whole update, over all of its
    /// micro-batches.
    pub scale: f32,
    /// Dropout of the low-rank additions.
    pub dropout: Option<DropoutPlan>,
    /// Noise on the embeddings.
    pub noise: Option<NoisePlan>,
}

impl MicroStep {
    /// The mean over `labels` labels, without dropout and noise.
    pub fn mean(labels: usize) -> Self {
        Self { scale: 1.0 / labels as f32, dropout: None, noise: None }
    }

    /// The same with dropout.
    pub fn with_dropout(self, dropout: Option<DropoutPlan>) -> Self {
        Self { dropout, ..self }
    }
}

/// A decoder whose trained parameters live in a [`ParamStore`] and whose other weights are frozen.
pub struct Model<B: Backend> {
    backend: B,
    config: DecoderConfig,
    places: Places,
    /// Frozen blocks; `None` where all parameters are trained.
    source: Option<Box<dyn WeightSource<B>>>,
    /// How trained parameters are had of which ranks hold parts; `None` where this one has them all.
    units: Option<Units<B>>,
    outer: Outer<B>,
    tables: Tables<B>,
    policy: SavePolicy,
    /// Once asked, a pass ends before its next block.
    stop: Stop,
}

/// Gradients summed in one flat buffer on this device.
pub struct LocalSink<'a, B: Backend>(
    /// The buffer.
    pub &'a mut B::Buf,
);

impl<B: Backend> GradSink<B> for LocalSink<'_, B> {
    fn grads(&mut self) -> &mut B::Buf {
        self.0
    }
}

/// What a block leaves for its backward: everything, or its input only.
enum Kept<B: Backend> {
    Saved(Saved<B>),
    Input(Arc<B::Buf>),
}

/// A forward pass.
struct Forward<B: Backend> {
    /// Embedding, norm and head, where they were gathered from other ranks.
    outer: Option<Gathered<B>>,
    /// What goes into the last norm.
    x: B::Buf,
    rows: Rows<B>,
    tokens: B::Ints,
    kept: Vec<Kept<B>>,
}

impl<B: Backend> Forward<B> {
    /// The buffer with embedding, norm and head.
    fn outer<'a>(&'a self, params: &'a B::Buf) -> &'a B::Buf {
        self.outer.as_ref().map_or(params, Gathered::unit)
    }
}

/// What a block computes with, where it is not in the buffer of trained parameters: its frozen weights, and its trained
/// ones where they were gathered from other ranks.
type BlockWeights<B> = (Option<Arc<FrozenLayer<B>>>, Option<Arc<Gathered<B>>>);

impl<B: Backend> Model<B> {
    /// Places the weights on the device; returns the model and its trained parameters at their first values.
    /// `max_length` is the longest document in tokens; `seed` draws the low-rank matrices.
    ///
    /// # Errors
    /// If documents may be longer than the rotary embedding can rotate exactly, or there is not enough memory.
    pub fn new(
        backend: B,
        config: &DecoderConfig,
        weights: &Weights,
        trainable: &Trainable,
        max_length: usize,
        seed: harness_core::Seed,
    ) -> Result<(Self, ParamStore<B>), TrainingError>
    where
        B: Clone,
    {
        let resident = |backend: &B, layers: &[LayerWeights], backward: &[bool]| {
            let frozen = |(layer, backward): (_, &bool)| FrozenLayer::new(backend, layer, *backward).map(Arc::new);
            let layers = layers.iter().zip(backward).map(frozen).collect::<backend::Result<_>>()?;
            Ok(Box::new(Resident::new(layers)) as Box<dyn WeightSource<B>>)
        };
        Self::with_source(backend, config, weights, trainable, max_length, seed, resident)
    }

    /// As [`Model::new`] with another source of frozen blocks, made from the backend, the blocks' weights, and whether
    /// gradients flow through each.
    ///
    /// # Errors
    /// As [`Model::new`], and those of `source`.
    pub fn with_source(
        backend: B,
        config: &DecoderConfig,
        weights: &Weights,
        trainable: &Trainable,
        max_length: usize,
        seed: harness_core::Seed,
        source: impl FnOnce(&B, &[LayerWeights], &[bool]) -> Result<Box<dyn WeightSource<B>>, TrainingError>,
    ) -> Result<(Self, ParamStore<B>), TrainingError>
    where
        B: Clone,
    {
        let tables = Self::tables(&backend, config, max_length, *trainable == Trainable::Full)?;
        let (layout, places): (Layout, Places) = match trainable {
            Trainable::Full => full_layout(config),
            Trainable::Lora(spec) => lora_layout(config, spec),
        };
        let mut store = ParamStore::new(&backend, layout)?;
        let (source, outer) = match trainable {
            Trainable::Full => {
                layout::fill(&backend, &mut store, weights)?;
                (None, Outer::none())
            }
            Trainable::Lora(spec) => {
                spec.initialise(&backend, &mut store, seed)?;
                let lowest = places.lowest().unwrap_or(config.num_layers);
                let backward: Vec<bool> = (0..config.num_layers).map(|layer| layer >= lowest).collect();
                let source = source(&backend, &weights.layers, &backward)?;
                if spec.dora {
                    layout::set_magnitudes(&backend, &mut store, &places, &*source)?;
                }
                (Some(source), Outer::new(&backend, weights)?)
            }
        };
        let (config, policy) = (config.clone(), SavePolicy::default());
        Ok((Self { backend, config, places, source, units: None, outer, tables, policy, stop: Stop::default() }, store))
    }

    /// As [`Model::new`] with all parameters trained, of which this rank holds its part only.
    ///
    /// # Errors
    /// As [`Model::new`].
    pub fn sharded(
        backend: B,
        config: &DecoderConfig,
        weights: &Weights,
        max_length: usize,
        ranks: Arc<dyn Collective<B>>,
    ) -> Result<(Self, ParamStore<B>), TrainingError> {
        let tables = Self::tables(&backend, config, max_length, true)?;
        let (layout, mut places) = full_layout(config);
        let (outer, layers) = layout::units(&layout);
        // Each unit is gathered into a buffer of its own.
        for (layer, unit) in places.layers.iter_mut().zip(&layers) {
            *layer = layer.shifted(unit.range.start);
        }
        let units = Units::new(ranks, &outer, &layers);
        let mut store = ParamStore::part(&backend, layout, units.own())?;
        layout::fill(&backend, &mut store, weights)?;
        let outer = Outer::none();
        let (config, policy) = (config.clone(), SavePolicy::default());
        Ok((
            Self {
                backend,
                config,
                places,
                source: None,
                units: Some(units),
                outer,
                tables,
                policy,
                stop: Stop::default(),
            },
            store,
        ))
    }

    fn tables(backend: &B, config: &DecoderConfig, max_length: usize, full: bool) -> Result<Tables<B>, TrainingError> {
        check(config, max_length, full)?;
        Ok(Tables::new(backend, config, max_length)?)
    }

    /// Chooses what the forward pass keeps for the backward pass.
    pub fn with_policy(mut self, policy: SavePolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Watches this: once asked to stop, a pass ends before its next block with [`TrainingError::Stopped`]. Not where
    /// other ranks gather the same blocks.
    pub(crate) fn leave_passes(&mut self, stop: Stop) {
        self.stop = stop;
    }

    /// What the forward pass keeps for the backward pass.
    pub fn policy(&self) -> SavePolicy {
        self.policy
    }

    /// The device.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Whether all parameters are trained.
    pub fn is_fully_trained(&self) -> bool {
        self.source.is_none()
    }

    /// How trained parameters are gathered, where ranks hold parts of them.
    pub fn units(&self) -> Option<&Units<B>> {
        self.units.as_ref()
    }

    /// Begins a pass: embedding, last norm and head, where they have to be gathered from other ranks; else they are in
    /// `params`.
    fn begin(&self, params: &B::Buf) -> Result<Option<Gathered<B>>, TrainingError> {
        self.units.as_ref().map(|units| units.begin(&self.backend, params)).transpose()
    }

    /// The decoder's dimensions.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    fn rows(&self, batch: &Batch) -> backend::Result<Rows<B>> {
        self.tables.rows(&self.backend, &self.config, batch)
    }

    /// The embedding, or the head, whether frozen or trained.
    fn table<'a>(&'a self, place: Option<usize>, frozen: Option<&'a B::Frozen>, params: &'a B::Buf) -> Weight<'a, B> {
        match (place, frozen) {
            (Some(at), _) => Weight::Live(Mat::new(params, at, self.config.vocab_size, self.config.hidden_size)),
            (None, Some(frozen)) => Weight::Frozen(frozen),
            (None, None) => unreachable!("the constructor places every table"),
        }
    }

    fn embedding<'a>(&'a self, params: &'a B::Buf) -> Weight<'a, B> {
        self.table(self.places.embed, self.outer.embed.as_ref(), params)
    }

    /// The weights of a block; `at` is its number, the one that comes next, and the pass.
    fn weights(
        &self,
        (layer, next, pass): (usize, Option<usize>, Pass),
        params: &B::Buf,
    ) -> Result<BlockWeights<B>, TrainingError> {
        let next = next.filter(|&next| next < self.config.num_layers);
        let frozen = self.source.as_ref().map(|source| source.acquire(layer, pass)).transpose()?;
        if let (Some(source), Some(next)) = (&self.source, next) {
            source.prefetch(next, pass)?;
        }
        let gathered = self.units.as_ref().map(|units| units.block(&self.backend, params, layer)).transpose()?;
        if let (Some(units), Some(next)) = (&self.units, next) {
            units.announce(&self.backend, params, next)?;
        }
        Ok((frozen, gathered))
    }

    /// Computes with one block; `at` is its number, the one that comes next, and the pass.
    fn block<R>(
        &self,
        at: (usize, Option<usize>, Pass),
        rows: &Rows<B>,
        params: &B::Buf,
        dropout: Option<DropoutPlan>,
        f: impl FnOnce(&BlockContext<'_, B>, &LayerView<'_, B>) -> backend::Result<R>,
    ) -> Result<R, TrainingError> {
        if self.stop.is_requested() {
            return Err(TrainingError::Stopped);
        }
        let (frozen, gathered) = self.weights(at, params)?;
        let (layer, params) = (at.0, gathered.as_deref().map_or(params, Gathered::unit));
        let view = LayerView::new(frozen.as_deref(), &self.places.layers[layer], params);
        let (backend, config, shared) = (&self.backend, &self.config, &self.tables.shared);
        Ok(f(&BlockContext { backend, config, layer, rows, shared, params, dropout }, &view)?)
    }

    fn embed(&self, batch: &Batch, params: &B::Buf) -> backend::Result<(B::Buf, B::Ints)> {
        let tokens = self.backend.ints(&batch.tokens)?;
        let x = self.outer.embed((&self.backend, &self.config), self.embedding(params), &tokens, batch)?;
        Ok((x, tokens))
    }

    /// Whether nobody needs the gradient of a block's input.
    fn is_lowest(&self, layer: usize) -> bool {
        self.places.lowest().is_none_or(|lowest| layer <= lowest) && self.places.embed.is_none()
    }

    /// Calls for the weights of all blocks as a micro-batch would, without one: a rank that has none left takes part in
    /// the others' gathering, and gives gradients of 0. With a sink as [`Model::forward_backward`] would, otherwise as
    /// [`Model::loss`].
    ///
    /// # Errors
    /// If the weights of a block cannot be had, memory runs out, or the device fails.
    pub fn participate(&self, params: &B::Buf, sink: Option<&mut dyn GradSink<B>>) -> Result<(), TrainingError> {
        self.begin(params)?;
        for layer in 0..self.config.num_layers {
            self.weights((layer, Some(layer + 1), Pass::Forward), params)?;
        }
        let Some(sink) = sink.filter(|_| self.places.lowest().is_some()) else { return Ok(()) };
        sink.begin(ModelPart::Head)?;
        sink.done(ModelPart::Head)?;
        self.participate_backward(params, sink)
    }

    /// The part of [`Model::participate`] that comes after the head.
    fn participate_backward(&self, params: &B::Buf, sink: &mut dyn GradSink<B>) -> Result<(), TrainingError> {
        let (Some(lowest), layers) = (self.places.lowest(), self.config.num_layers) else { return Ok(()) };
        let mut nothing = |part: ModelPart| {
            sink.begin(part)?;
            sink.done(part)
        };
        let mut again = 0;
        for layer in (lowest..layers).rev() {
            if let Some(k) = self.policy.segment().filter(|_| again == 0) {
                let first = lowest + (layer - lowest) / k * k;
                for below in first..=layer {
                    self.weights((below, (below < layer).then_some(below + 1), Pass::Backward), params)?;
                }
                again = layer - first + 1;
            }
            again = again.saturating_sub(1);
            self.weights((layer, self.below(layer, lowest), Pass::Backward), params)?;
            nothing(ModelPart::Layer(layer))?;
        }
        self.places.embed.map_or(Ok(()), |_| nothing(ModelPart::Embedding))
    }

    /// The block that comes next in the backward pass.
    fn below(&self, layer: usize, lowest: usize) -> Option<usize> {
        let (below, above) = (layer.checked_sub(1)?, layer.checked_sub(lowest).filter(|&above| above > 0)?);
        match self.policy.segment() {
            // The blocks below are run again together, from their first on.
            Some(k) if above.is_multiple_of(k) => Some(lowest + (below - lowest) / k * k),
            _ => Some(below),
        }
    }

    /// The lowest block whose backward is computed, if anything is trained.
    pub fn lowest(&self) -> Option<usize> {
        self.places.lowest()
    }

    /// The summed loss of a batch (natural logarithm, over its labels), without gradients or dropout.
    ///
    /// # Errors
    /// If the weights of a block cannot be had, memory runs out, or the device fails.
    pub fn loss(&self, batch: &Batch, params: &B::Buf) -> Result<f64, TrainingError> {
        let rows = self.rows(batch)?;
        let outer = self.begin(params)?;
        let outer_params = outer.as_ref().map_or(params, Gathered::unit);
        let (mut x, _) = self.embed(batch, outer_params)?;
        for layer in 0..self.config.num_layers {
            let at = (layer, Some(layer + 1), Pass::Forward);
            x = self.block(at, &rows, params, None, |ctx, w| Ok(ctx.forward(Arc::new(x), w, true, false)?.0))?;
        }
        Ok(self.head(outer_params).loss(&x, batch)?)
    }

    /// The summed loss of a batch; the gradient of `scale * loss` is added to the sink.
    ///
    /// # Errors
    /// If the weights of a block cannot be had, memory runs out, or the device fails.
    pub fn forward_backward(
        &self,
        batch: &Batch,
        params: &B::Buf,
        step: &MicroStep,
        sink: &mut dyn GradSink<B>,
    ) -> Result<f64, TrainingError> {
        let forward = self.forward(batch, params, step)?;
        let scales = head::Scales::Same(step.scale);
        sink.begin(ModelPart::Head)?;
        let (loss, dx) = self.head(forward.outer(params)).loss_and_gradient(&forward.x, batch, scales, sink)?;
        sink.done(ModelPart::Head)?;
        self.backward(dx, forward, params, step, sink)?;
        Ok(loss)
    }

    /// The preference loss of a batch of pairs (Rafailov et al. 2023): documents 0, 2, 4, … are preferred over those after
    /// them. With `z = β ((π₀ - r₀) - (π₁ - r₁))` of the log-probabilities under `params` and under `reference`, the loss is
    /// `-log σ(z)`; the gradient of `scale` times its sum is added to the sink if there is one.
    ///
    /// # Errors
    /// If the weights of a block cannot be had, memory runs out, or the device fails.
    pub fn preference(
        &self,
        batch: &Batch,
        params: &B::Buf,
        reference: &B::Buf,
        beta: f64,
        step: &MicroStep,
        sink: Option<&mut dyn GradSink<B>>,
    ) -> Result<f64, TrainingError> {
        let plain = MicroStep { dropout: None, noise: None, ..*step };
        let before = {
            let forward = self.forward(batch, reference, &plain)?;
            self.head(forward.outer(reference)).losses(&forward.x, batch)?
        };
        let forward = self.forward(batch, params, if sink.is_some() { step } else { &plain })?;
        let now = self.head(forward.outer(params)).losses(&forward.x, batch)?;
        let mut scales = vec![0f32; now.len()];
        let mut loss = 0.0;
        for pair in (0..now.len() / 2).map(|pair| 2 * pair) {
            // Losses are negative log-probabilities.
            let margin = |at: usize| before[at] - now[at];
            let z = beta * (margin(pair) - margin(pair + 1));
            loss += if z > 0.0 { (-z).exp().ln_1p() } else { z.exp().ln_1p() - z };
            let slope = beta / (1.0 + z.exp()) * f64::from(step.scale);
            (scales[pair], scales[pair + 1]) = (slope as f32, -slope as f32);
        }
        if let Some(sink) = sink {
            let by_document = head::Scales::ByDocument(&scales);
            sink.begin(ModelPart::Head)?;
            let head = self.head(forward.outer(params));
            let (_, dx) = head.loss_and_gradient(&forward.x, batch, by_document, sink)?;
            sink.done(ModelPart::Head)?;
            self.backward(dx, forward, params, step, sink)?;
        }
        Ok(loss)
    }

    /// The forward pass of a micro-batch up to the last norm, and what its backward needs.
    fn forward(&self, batch: &Batch, params: &B::Buf, step: &MicroStep) -> Result<Forward<B>, TrainingError> {
        let (rows, dropout) = (self.rows(batch)?, step.dropout);
        let outer = self.begin(params)?;
        let (mut x, tokens) = self.embed(batch, outer.as_ref().map_or(params, Gathered::unit))?;
        if let Some(noise) = step.noise {
            let noise = self.backend.upload(&noise.values(batch, self.config.hidden_size))?;
            self.backend.add(&noise, &mut x)?;
        }
        let (lowest, segment) = (self.places.lowest(), self.policy.segment());
        let full = self.policy == SavePolicy::Full;
        let mut kept: Vec<Kept<B>> = Vec::new();
        for layer in 0..self.config.num_layers {
            let at = (layer, Some(layer + 1), Pass::Forward);
            let bottom = self.is_lowest(layer);
            let run = |ctx: &BlockContext<'_, B>, w: &LayerView<'_, B>| ctx.forward(Arc::new(x), w, bottom, full);
            let (y, saved) = self.block(at, &rows, params, dropout, run)?;
            if let Some(above) = lowest.and_then(|lowest| layer.checked_sub(lowest)) {
                match segment {
                    None => kept.push(Kept::Saved(saved)),
                    Some(k) if above % k == 0 => kept.extend(saved.into_input().map(Kept::Input)),
                    Some(_) => {}
                }
            }
            x = y;
        }
        Ok(Forward { outer, x, rows, tokens, kept })
    }

    /// The backward pass of a micro-batch, from the gradient of what went into the last norm.
    fn backward(
        &self,
        dx: Option<B::Buf>,
        forward: Forward<B>,
        params: &B::Buf,
        step: &MicroStep,
        sink: &mut dyn GradSink<B>,
    ) -> Result<(), TrainingError> {
        let Forward { outer, x, rows, tokens, mut kept } = forward;
        drop((outer, x));
        let (dropout, segment) = (step.dropout, self.policy.segment());
        let Some(lowest) = self.places.lowest() else { return Ok(()) };
        // Without a label there is no gradient, but other ranks count on this one.
        let Some(mut dx) = dx else { return self.participate_backward(params, sink) };
        let mut again: Vec<Saved<B>> = Vec::new();
        for layer in (lowest..self.config.num_layers).rev() {
            let saved = match again.pop() {
                Some(saved) => saved,
                None => match kept.pop() {
                    Some(Kept::Saved(saved)) => saved,
                    Some(Kept::Input(mut x)) => {
                        let k = segment.unwrap_or(1);
                        for below in lowest + (layer - lowest) / k * k..layer {
                            let bottom = self.is_lowest(below);
                            let run = |ctx: &BlockContext<'_, B>, w: &LayerView<'_, B>| ctx.forward(x, w, bottom, true);
                            let at = (below, Some(below + 1), Pass::Backward);
                            let (y, saved) = self.block(at, &rows, params, dropout, run)?;
                            again.push(saved);
                            x = Arc::new(y);
                        }
                        let bottom = self.is_lowest(layer);
                        let run = |ctx: &BlockContext<'_, B>, w: &LayerView<'_, B>| ctx.replay(x, w, bottom);
                        self.block((layer, None, Pass::Backward), &rows, params, dropout, run)?
                    }
                    None => break,
                },
            };
            let at = (layer, self.below(layer, lowest), Pass::Backward);
            sink.begin(ModelPart::Layer(layer))?;
            let below = self.block(at, &rows, params, dropout, |ctx, w| ctx.backward(dx, saved, w, sink))?;
            sink.done(ModelPart::Layer(layer))?;
            let Some(below) = below else { return Ok(()) };
            dx = below;
        }
        if let Some(at) = self.places.embed {
            let (hidden, vocab) = (self.config.hidden_size, self.config.vocab_size);
            sink.begin(ModelPart::Embedding)?;
            let to = SpanMut { buf: sink.grads(), at, len: vocab * hidden };
            self.backend.embed_backward(Mat::new(&dx, 0, rows.len, hidden), &tokens, to)?;
            sink.done(ModelPart::Embedding)?;
        }
        Ok(())
    }

    fn head<'a>(&'a self, params: &'a B::Buf) -> head::Head<'a, B> {
        let mut norm = self.outer.last_norm(&self.config);
        if let Some(at) = self.places.norm {
            norm.weight = Some(Span { buf: params, at, len: self.config.hidden_size });
        }
        let tied = self.config.tie_word_embeddings || (self.places.head.is_none() && self.outer.head.is_none());
        let weight = match tied {
            true => self.embedding(params),
            false => self.table(self.places.head, self.outer.head.as_ref(), params),
        };
        let weight_grad = if tied { self.places.embed } else { self.places.head };
        head::Head {
            backend: &self.backend,
            config: &self.config,
            norm,
            norm_grad: self.places.norm,
            narrow: self.outer.projections.as_ref().map(|[_, back]| back),
            weight,
            weight_grad,
            bias: self.outer.head_bias.as_ref().map(|(buf, len)| Span { buf, at: 0, len: *len }),
        }
    }
}
