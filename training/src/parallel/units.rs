//! Trained parameters of which every rank holds a part (FSDP of all parameters): a block at a time is gathered, and its
//! gradients are summed and given back to their owners as soon as they are complete.
//!
//! Where the device can, the next block is gathered while one is computed with, and gradients are summed while those of the
//! block below are computed: two blocks' parameters and two blocks' gradients are whole at most.

use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Collective, Elements, Gathered, Partition, Unit};
use crate::{
    TrainingError,
    backend::{Backend, Span, SpanMut},
    block::{GradSink, ModelPart},
};

/// The units of a model: each block, and all that lies outside of the blocks.
pub struct Units<B: Backend> {
    ranks: Arc<dyn Collective<B>>,
    /// The elements that this rank holds.
    own: Range<usize>,
    /// Embedding, last norm and head, which are used at both ends of the model.
    outer: Unit,
    layers: Vec<Unit>,
    blocks: Mutex<Blocks<B>>,
}

/// Which blocks are whole.
struct Blocks<B: Backend> {
    /// The one computed with.
    current: Option<(usize, Arc<Gathered<B>>)>,
    /// The one that comes next.
    next: Option<(usize, Gathered<B>)>,
}

impl<B: Backend> Units<B> {
    /// Units of a flat buffer by their elements. Every rank holds its slice of the buffer.
    pub fn new(ranks: Arc<dyn Collective<B>>, outer: &Elements, layers: &[Elements]) -> Self {
        let len = layers.iter().map(|layer| layer.range.end).fold(outer.range.end, usize::max);
        let (parts, rank) = (Partition::new(len, ranks.world()), ranks.rank());
        let unit = |elements: &Elements| Unit::new(elements, &parts, rank);
        let (outer, layers) = (unit(outer), layers.iter().map(unit).collect());
        let blocks = Mutex::new(Blocks { current: None, next: None });
        Self { ranks, own: parts.of(rank), outer, layers, blocks }
    }

    /// The elements that this rank holds.
    pub fn own(&self) -> Range<usize> {
        self.own.clone()
    }

    fn of(&self, part: ModelPart) -> &Unit {
        match part {
            ModelPart::Layer(layer) => &self.layers[layer],
            ModelPart::Head | ModelPart::Embedding => &self.outer,
        }
    }

    fn blocks(&self) -> MutexGuard<'_, Blocks<B>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a pass over the model: what was gathered before is older than the parameters. Returns what lies outside of the
    /// blocks; `own` is what this rank holds.
    ///
    /// # Errors
    /// If another rank is gone or has failed, memory runs out, or the device fails.
    pub fn begin(&self, backend: &B, own: &B::Buf) -> Result<Gathered<B>, TrainingError> {
        *self.blocks() = Blocks { current: None, next: None };
        let outer = self.ranks.gather(backend, own, &self.outer)?;
        self.announce(backend, own, 0)?;
        outer.arrived()
    }

    /// A block's parameters. Blocks are asked for and announced in the same order on all ranks.
    ///
    /// # Errors
    /// If another rank is gone or has failed, memory runs out, or the device fails.
    pub fn block(&self, backend: &B, own: &B::Buf, layer: usize) -> Result<Arc<Gathered<B>>, TrainingError> {
        let mut blocks = self.blocks();
        if let Some((_, gathered)) = blocks.current.as_ref().filter(|(current, _)| *current == layer) {
            return Ok(Arc::clone(gathered));
        }
        // The block of before is no longer needed: its memory is free before the next one's is asked for.
        blocks.current = None;
        let gathered = match blocks.next.take() {
            Some((next, gathered)) if next == layer => gathered,
            _ => self.ranks.gather(backend, own, &self.layers[layer])?,
        };
        let gathered = Arc::new(gathered.arrived()?);
        blocks.current = Some((layer, Arc::clone(&gathered)));
        Ok(gathered)
    }

    /// Says which block comes next: it is gathered beside what is computed from now on, where the device can.
    ///
    /// # Errors
    /// If another rank is gone or has failed, memory runs out, or the device fails.
    pub fn announce(&self, backend: &B, own: &B::Buf, layer: usize) -> Result<(), TrainingError> {
        let mut blocks = self.blocks();
        let current = blocks.current.as_ref().map(|(current, _)| *current);
        let next = blocks.next.as_ref().map(|(next, _)| *next);
        if self.ranks.runs_beside() && current != Some(layer) && next != Some(layer) {
            blocks.next = None;
            blocks.next = Some((layer, self.ranks.gather(backend, own, &self.layers[layer])?));
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
    /// A unit's gradients whose sum is under way.
    begun: Option<(ModelPart, B::Buf)>,
}

impl<'a, B: Backend> UnitSink<'a, B> {
    /// Adds to the gradients that this rank owns.
    pub fn new(backend: &'a B, units: &'a Units<B>, own: &'a mut B::Buf) -> Self {
        Self { backend, units, own, outer: None, layer: None, begun: None }
    }

    /// Adds what this rank owns of the sum of a unit's gradients, once it is there.
    fn add(&mut self, part: ModelPart, mut grads: B::Buf) -> Result<(), TrainingError> {
        let unit = self.units.of(part);
        self.units.ranks.end_reduce(self.backend, &mut grads, unit.parts())?;
        let Range { start, end } = unit.mine();
        if start < end {
            let to = SpanMut { buf: self.own, at: unit.at(), len: end - start };
            self.backend.accumulate(Span { buf: &grads, at: start, len: end - start }, to)?;
        }
        Ok(())
    }
}

impl<B: Backend> GradSink<B> for UnitSink<'_, B> {
    fn begin(&mut self, part: ModelPart) -> Result<(), TrainingError> {
        let zeros = || self.backend.zeros(self.units.of(part).len());
        match part {
            ModelPart::Layer(_) => self.layer = Some(zeros()?),
            ModelPart::Head | ModelPart::Embedding if self.outer.is_none() => self.outer = Some(zeros()?),
            ModelPart::Head | ModelPart::Embedding => {}
        }
        Ok(())
    }

    fn grads(&mut self) -> &mut B::Buf {
        self.layer.as_mut().or(self.outer.as_mut()).expect("a part has been begun")
    }

    fn done(&mut self, part: ModelPart) -> Result<(), TrainingError> {
        let grads = match part {
            // The embedding's gradients, and a tied head's second ones, are still to come.
            ModelPart::Head => None,
            ModelPart::Layer(_) => self.layer.take(),
            ModelPart::Embedding => self.outer.take(),
        };
        let Some(mut grads) = grads else { return Ok(()) };
        if let Some((above, grads)) = self.begun.take() {
            self.add(above, grads)?;
        }
        let unit = self.units.of(part);
        let begun = self.units.ranks.begin_reduce(self.backend, &mut grads, 0..unit.len(), unit.parts())?;
        // Nothing comes after the embedding.
        if begun && part != ModelPart::Embedding {
            self.begun = Some((part, grads));
            return Ok(());
        }
        self.add(part, grads)
    }
}
