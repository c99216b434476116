//! A decoder in training: embedding, blocks, last norm, head and loss, forward and backward.

mod head;
mod layout;
mod rotary;
mod scratch;
mod source;

use std::sync::Arc;

use harness_engine::{DecoderConfig, Weights};
pub use layout::{Places, full_layout, lora_layout};
pub use scratch::random_weights;
pub use source::{Pass, Resident, WeightSource};

use crate::{
    TrainingError,
    backend::{Backend, Mat, MatMut, Span, SpanMut, Weight},
    block::{BlockContext, DropoutPlan, FrozenLayer, GradSink, LayerView, ModelPart, Rows, SavePolicy, Saved},
    data::Batch,
    lora::LoraSpec,
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

/// A decoder whose trained parameters live in a [`ParamStore`] and whose other weights are frozen.
pub struct Model<B: Backend> {
    backend: B,
    config: DecoderConfig,
    places: Places,
    /// Frozen blocks; `None` where all parameters are trained.
    source: Option<Box<dyn WeightSource<B>>>,
    outer: Outer<B>,
    rope: B::Buf,
    policy: SavePolicy,
}

/// Frozen weights outside of the blocks.
struct Outer<B: Backend> {
    embed: Option<B::Frozen>,
    norm: Option<B::Buf>,
    head: Option<B::Frozen>,
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

    fn done(&mut self, _: ModelPart) {}
}

/// What a block leaves for its backward: everything, or its input only.
enum Kept<B: Backend> {
    Saved(Saved<B>),
    Input(B::Buf),
}

impl<B: Backend> Model<B> {
    /// Places the weights on the device; returns the model and its trained parameters at their first values.
    /// `max_length` is the longest document in tokens; `seed` draws the low-rank matrices.
    ///
    /// # Errors
    /// If documents may be longer than the rotary embedding can rotate exactly.
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
        let rope = backend.upload(&rotary::table(config, max_length)?);
        let (layout, places): (Layout, Places) = match trainable {
            Trainable::Full => full_layout(config),
            Trainable::Lora(spec) => lora_layout(config, spec),
        };
        let mut store = ParamStore::new(&backend, layout);
        let (source, outer) = match trainable {
            Trainable::Full => {
                layout::fill(&backend, &mut store, weights)?;
                (None, Outer { embed: None, norm: None, head: None })
            }
            Trainable::Lora(spec) => {
                spec.initialise(&backend, &mut store, seed);
                let lowest = places.lowest().unwrap_or(config.num_layers);
                let layers = weights.layers.iter().enumerate();
                let layers = layers.map(|(i, layer)| Arc::new(FrozenLayer::new(&backend, layer, i >= lowest)));
                let source: Box<dyn WeightSource<B>> = Box::new(Resident::new(layers.collect()));
                let embed = backend.frozen(&[&weights.embed], weights.lm_head.is_none());
                let head = weights.lm_head.as_ref().map(|head| backend.frozen(&[head], true));
                (Some(source), Outer { embed: Some(embed), norm: Some(backend.upload(&weights.norm)), head })
            }
        };
        let model =
            Self { backend, config: config.clone(), places, source, outer, rope, policy: SavePolicy::default() };
        Ok((model, store))
    }

    /// Chooses what the forward pass keeps for the backward pass.
    pub fn with_policy(mut self, policy: SavePolicy) -> Self {
        self.policy = policy;
        self
    }

    /// The device.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The decoder's dimensions.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    fn rows(&self, batch: &Batch) -> Rows<B> {
        let bounds: Vec<u32> = batch.boundaries.iter().map(|&row| row as u32).collect();
        Rows { len: batch.len(), positions: self.backend.ints(&batch.positions), bounds: self.backend.ints(&bounds) }
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

    fn block<R>(
        &self,
        layer: usize,
        pass: Pass,
        rows: &Rows<B>,
        params: &B::Buf,
        dropout: Option<DropoutPlan>,
        f: impl FnOnce(&BlockContext<'_, B>, &LayerView<'_, B>) -> R,
    ) -> R {
        let frozen = self.source.as_ref().map(|source| source.acquire(layer, pass));
        let view = LayerView::new(&self.config, frozen.as_deref(), &self.places.layers[layer], params);
        let (backend, config, rope) = (&self.backend, &self.config, &self.rope);
        f(&BlockContext { backend, config, layer, rows, rope, params, dropout }, &view)
    }

    fn embed(&self, batch: &Batch, params: &B::Buf) -> (B::Buf, B::Ints) {
        let (rows, hidden) = (batch.len(), self.config.hidden_size);
        let tokens = self.backend.ints(&batch.tokens);
        let mut x = self.backend.alloc(rows * hidden);
        self.backend.embed(self.embedding(params), &tokens, MatMut::new(&mut x, 0, rows, hidden));
        (x, tokens)
    }

    /// The summed loss of a batch (natural logarithm, over its labels), without gradients or dropout.
    pub fn loss(&self, batch: &Batch, params: &B::Buf) -> f64 {
        let rows = self.rows(batch);
        let (mut x, _) = self.embed(batch, params);
        for layer in 0..self.config.num_layers {
            x = self.block(layer, Pass::Forward, &rows, params, None, |ctx, w| ctx.forward(x, w, false).0);
        }
        self.head(params).loss(&x, batch)
    }

    /// The summed loss of a batch; the gradient of `loss / n_items` is added to the sink. `n_items` is the number of
    /// labels in the whole update, over all of its micro-batches.
    pub fn forward_backward(
        &self,
        batch: &Batch,
        params: &B::Buf,
        n_items: usize,
        dropout: Option<DropoutPlan>,
        sink: &mut dyn GradSink<B>,
    ) -> f64 {
        let rows = self.rows(batch);
        let (mut x, tokens) = self.embed(batch, params);
        let lowest = self.places.lowest();
        let mut kept: Vec<Kept<B>> = Vec::new();
        for layer in 0..self.config.num_layers {
            let full = self.policy == SavePolicy::Full;
            let (y, saved) = self.block(layer, Pass::Forward, &rows, params, dropout, |ctx, w| ctx.forward(x, w, full));
            if lowest.is_some_and(|lowest| layer >= lowest) {
                kept.push(match self.policy {
                    SavePolicy::Layer => Kept::Input(saved.into_input()),
                    SavePolicy::Full | SavePolicy::Lean => Kept::Saved(saved),
                });
            }
            x = y;
        }
        let (loss, dx) = self.head(params).loss_and_gradient(&x, batch, 1.0 / n_items as f32, sink);
        drop(x);
        sink.done(ModelPart::Head);
        let Some(mut dx) = dx else { return loss };
        for layer in (lowest.unwrap_or(self.config.num_layers)..self.config.num_layers).rev() {
            let Some(kept) = kept.pop() else { break };
            let stop = Some(layer) == lowest && self.places.embed.is_none();
            let below = self.block(layer, Pass::Backward, &rows, params, dropout, |ctx, w| {
                let saved = match kept {
                    Kept::Saved(saved) => saved,
                    Kept::Input(x) => ctx.forward(x, w, true).1,
                };
                ctx.backward(dx, saved, w, stop, sink)
            });
            sink.done(ModelPart::Layer(layer));
            let Some(below) = below else { return loss };
            dx = below;
        }
        if let Some(at) = self.places.embed {
            let (hidden, vocab) = (self.config.hidden_size, self.config.vocab_size);
            let to = SpanMut { buf: sink.grads(), at, len: vocab * hidden };
            self.backend.embed_backward(Mat::new(&dx, 0, rows.len, hidden), &tokens, to);
            sink.done(ModelPart::Embedding);
        }
        loss
    }

    fn head<'a>(&'a self, params: &'a B::Buf) -> head::Head<'a, B> {
        let hidden = self.config.hidden_size;
        let norm = match (self.places.norm, &self.outer.norm) {
            (Some(at), _) => Span { buf: params, at, len: hidden },
            (None, Some(buf)) => Span { buf, at: 0, len: hidden },
            (None, None) => unreachable!("the constructor places the norm"),
        };
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
            weight,
            weight_grad,
        }
    }
}
