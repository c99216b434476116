//! Trained parameters of which every rank holds a part (FSDP of all parameters): a block at a time is gathered, and its
//! gradients are summed and given back to their owners as soon as they are complete.

use std::{ops::Range, sync::Arc};

use super::{Collective, Partition};
use crate::{
    TrainingError,
    backend::{Backend, Span, SpanMut},
    block::{GradSink, ModelPart},
};

/// What is gathered together: each block, and all that lies outside of the blocks.
pub struct Units<B: Backend> {
    ranks: Arc<dyn Collective<B>>,
    parts: Partition,
    /// Embedding, last norm and head, which are used at both ends of the model.
    outer: Range<usize>,
    layers: Vec<Range<usize>>,
}

impl<B: Backend> Units<B> {
    /// Units of a flat buffer by their elements. Every rank holds its slice of the buffer.
    pub fn new(ranks: Arc<dyn Collective<B>>, outer: Range<usize>, layers: Vec<Range<usize>>) -> Self {
        let len = layers.iter().map(|layer| layer.end).fold(outer.end, usize::max);
        let parts = Partition::new(len, ranks.world());
        Self { ranks, parts, outer, layers }
    }

    /// The elements that this rank holds.
    pub fn own(&self) -> Range<usize> {
        self.parts.of(self.ranks.rank())
    }

    fn range(&self, part: ModelPart) -> &Range<usize> {
        match part {
            ModelPart::Layer(layer) => &self.layers[layer],
            ModelPart::Head | ModelPart::Embedding => &self.outer,
        }
    }

    /// All elements of a unit, from what the ranks hold; `own` is what this one holds.
    ///
    /// # Errors
    /// If another rank is gone or has failed.
    pub fn gather(&self, backend: &B, part: ModelPart, own: &B::Buf) -> Result<B::Buf, TrainingError> {
        let range = self.range(part);
        let parts = self.parts.within(range);
        let mine = parts.of(self.ranks.rank());
        let mut unit = backend.zeros(range.len());
        if !mine.is_empty() {
            let at = range.start + mine.start - self.own().start;
            let data = backend.read(Span { buf: own, at, len: mine.len() });
            backend.write(&data, SpanMut { buf: &mut unit, at: mine.start, len: mine.len() });
        }
        self.ranks.all_gather(backend, &mut unit, &parts)?;
        Ok(unit)
    }

    /// Sums the gradients of a unit over the ranks, and adds what this rank owns of the sum to `own`.
    fn reduce(&self, backend: &B, part: ModelPart, mut unit: B::Buf, own: &mut B::Buf) -> Result<(), TrainingError> {
        let range = self.range(part);
        let parts = self.parts.within(range);
        self.ranks.reduce_scatter_sum(backend, &mut unit, &parts)?;
        let mine = parts.of(self.ranks.rank());
        if !mine.is_empty() {
            let to = SpanMut { buf: own, at: range.start + mine.start - self.own().start, len: mine.len() };
            backend.accumulate(Span { buf: &unit, at: mine.start, len: mine.len() }, to);
        }
        Ok(())
    }
}

/// Gradients of a micro-batch on their way to their owners.
pub struct UnitSink<'a, B: Backend> {
    backend: &'a B,
    units: &'a Units<B>,
    own: &'a mut B::Buf,
    outer: Option<B::Buf>,
    layer: Option<B::Buf>,
}

impl<'a, B: Backend> UnitSink<'a, B> {
    /// Adds to the gradients that this rank owns.
    pub fn new(backend: &'a B, units: &'a Units<B>, own: &'a mut B::Buf) -> Self {
        Self { backend, units, own, outer: None, layer: None }
    }
}

impl<B: Backend> GradSink<B> for UnitSink<'_, B> {
    fn begin(&mut self, part: ModelPart) {
        let zeros = || self.backend.zeros(self.units.range(part).len());
        match part {
            ModelPart::Layer(_) => self.layer = Some(zeros()),
            ModelPart::Head | ModelPart::Embedding => drop(self.outer.get_or_insert_with(zeros)),
        }
    }

    fn grads(&mut self) -> &mut B::Buf {
        self.layer.as_mut().or(self.outer.as_mut()).expect("a part has been begun")
    }

    fn done(&mut self, part: ModelPart) -> Result<(), TrainingError> {
        let unit = match part {
            // The embedding's gradients, and a tied head's second ones, are still to come.
            ModelPart::Head => None,
            ModelPart::Layer(_) => self.layer.take(),
            ModelPart::Embedding => self.outer.take(),
        };
        unit.map_or(Ok(()), |unit| self.units.reduce(self.backend, part, unit, self.own))
    }
}
