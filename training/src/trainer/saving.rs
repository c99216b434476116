//! Checkpoints of a run, over one rank or several, and its result.

use std::path::{Path, PathBuf};

use super::Trainer;
use crate::{
    TrainingError,
    backend::{Backend, Span, SpanMut},
    checkpoint::{self, TrainerState},
    export::Artifact,
    parallel::{from_bytes, to_bytes},
    params::ParamStore,
    telemetry::Progress,
};

impl<B: Backend> Trainer<B> {
    /// Updates between checkpoints.
    pub(super) fn save_interval(&self) -> u64 {
        let options = &self.setup.options;
        options.save_steps.or(options.eval_steps).unwrap_or_else(|| self.total_steps.div_ceil(10)).max(1)
    }

    /// Whether the present step has the lowest validation loss and is to be kept for that.
    pub(super) fn is_best(&self) -> bool {
        self.setup.options.save_best && self.state.best.is_some_and(|best| best.step == self.state.step)
    }

    /// Writes a checkpoint; of the older ones, the best and as many as the recipe says are kept. All ranks take part, the
    /// first one writes.
    pub(super) fn save(&mut self, progress: &mut dyn Progress) -> Result<(), TrainingError> {
        let Some(folder) = self.write_checkpoint()? else { return Ok(()) };
        let (setup, state) = (&self.setup, &self.state);
        let steps = checkpoint::steps(&setup.output);
        let last = setup.options.save_total_limit.unwrap_or(1);
        let mut keep: Vec<u64> = steps.iter().rev().copied().filter(|&step| step <= state.step).take(last).collect();
        keep.extend(state.best.map(|best| best.step));
        checkpoint::prune(&setup.output, &keep)?;
        progress.saved(&folder);
        Ok(())
    }

    /// Writes a checkpoint; its folder, on the first rank. All ranks take part.
    pub(super) fn write_checkpoint(&mut self) -> Result<Option<PathBuf>, TrainingError> {
        let whole = self.whole()?;
        let mut moments = |number: usize| self.gathered([&self.store.mean, &self.store.square][number]);
        if !self.is_first() {
            (0..2).try_for_each(|number| moments(number).map(drop))?;
            return Ok(None);
        }
        let (backend, setup, state) = (self.model.backend(), &self.setup, &self.state);
        let store = whole.as_ref().unwrap_or(&self.store);
        checkpoint::save(backend, store, &setup.artifact, state, &setup.output, &mut moments).map(Some)
    }

    /// All elements of one of the buffers that ranks hold slices of, on rank 0; nothing elsewhere. Without sharding they
    /// are here.
    fn gathered(&self, buf: &B::Buf) -> Result<Vec<f32>, TrainingError> {
        let own = self.store.moments();
        let mine = self.model.backend().read(Span { buf, at: 0, len: own.len() })?;
        if !self.is_sharded() {
            return Ok(mine);
        }
        let all = self.ranks.gather_bytes(to_bytes(&mine))?;
        drop(mine);
        Ok(if self.is_first() { all.iter().flat_map(|bytes| from_bytes(bytes)).collect() } else { vec![] })
    }

    /// All values on rank 0, where ranks hold parts of them; `None` elsewhere, and where they are all here. All ranks
    /// take part.
    pub(super) fn whole(&self) -> Result<Option<ParamStore<B>>, TrainingError> {
        if !self.store.is_part() {
            return Ok(None);
        }
        let values = self.gathered(&self.store.values)?;
        if !self.is_first() {
            return Ok(None);
        }
        let backend = self.model.backend();
        let mut whole = ParamStore::values(backend, self.store.layout().clone())?;
        backend.write(&values, SpanMut { buf: &mut whole.values, at: 0, len: values.len() })?;
        Ok(Some(whole))
    }

    /// Goes to the latest checkpoint of the run; returns the updates already done, 0 if there is none. Rank 0 reads it
    /// and gives it to the others.
    ///
    /// # Errors
    /// If the latest checkpoint is broken or belongs to another run, or the device or another rank fails.
    pub fn resume(&mut self) -> Result<u64, TrainingError> {
        if self.ranks.world() == 1 {
            return self.resume_from_disk();
        }
        let result = self.share_checkpoint();
        if let Err(error) = &result
            && !matches!(error, TrainingError::Peer { .. } | TrainingError::Backend(_))
        {
            self.ranks.abort(&error.to_string());
        }
        result
    }

    fn latest(&self) -> Result<Option<(TrainerState, PathBuf)>, TrainingError> {
        let rank = if let Artifact::Adapter { spec, .. } = &self.setup.artifact { Some(spec.rank) } else { None };
        checkpoint::latest(&self.setup.output, self.setup.run, rank)
    }

    fn share_checkpoint(&mut self) -> Result<u64, TrainingError> {
        let latest = if self.is_first() { self.latest()? } else { None };
        let mine = latest.as_ref().map(|(state, _)| serde_json::to_vec(state).unwrap_or_default()).unwrap_or_default();
        let all = self.ranks.all_gather_bytes(mine.into())?;
        if all[0].is_empty() {
            return Ok(0);
        }
        let state: TrainerState = serde_json::from_slice(&all[0]).map_err(|error| TrainingError::Peer {
            rank: 0,
            message: format!("sent a state that cannot be read: {error}"),
        })?;
        self.setup.train.seek(state.cursor);
        self.state = state;
        self.share_buffers(latest.map(|(_, folder)| folder).as_deref())?;
        Ok(self.state.step)
    }

    /// Gives every rank what it holds of the values and moments in a checkpoint, which rank 0 reads.
    fn share_buffers(&mut self, folder: Option<&Path>) -> Result<(), TrainingError> {
        let (backend, ranks, len) = (self.model.backend(), &self.ranks, self.store.len());
        let (held, moments) = (self.store.held(), self.store.moments());
        let ParamStore { values, mean, square, .. } = &mut self.store;
        let buffers = [(values, held), (mean, moments.clone()), (square, moments)];
        for (name, (to, range)) in checkpoint::BUFFERS.into_iter().zip(buffers) {
            let mine = folder.map_or(Ok(vec![]), |folder| checkpoint::buffer(folder, name, len))?;
            let all = ranks.all_gather_bytes(to_bytes(&mine))?;
            if all[0].len() != 4 * len {
                let message = format!("has {} trained parameters, this rank has {len}", all[0].len() / 4);
                return Err(TrainingError::Peer { rank: 0, message });
            }
            let data = from_bytes(&all[0][4 * range.start..4 * range.end]);
            backend.write(&data, SpanMut { buf: to, at: 0, len: range.len() })?;
        }
        Ok(())
    }

    fn resume_from_disk(&mut self) -> Result<u64, TrainingError> {
        let Some((state, folder)) = self.latest()? else { return Ok(0) };
        checkpoint::load(self.model.backend(), &mut self.store, &folder, false)?;
        self.setup.train.seek(state.cursor);
        self.state = state;
        Ok(self.state.step)
    }

    /// Writes the result: the best parameters where the recipe says so and there is a better one than the last. All ranks
    /// take part.
    pub(super) fn finish(&mut self) -> Result<(), TrainingError> {
        let mut whole = self.whole()?;
        if !self.is_first() {
            return Ok(());
        }
        let backend = self.model.backend();
        let store = whole.as_mut().unwrap_or(&mut self.store);
        let best = self.state.best.filter(|best| self.setup.options.save_best && best.step != self.state.step);
        if let Some(best) = best {
            let folder = checkpoint::folder(&self.setup.output, best.step);
            checkpoint::load(backend, store, &folder, true)?;
        }
        self.setup.artifact.write(backend, store, &self.setup.output)
    }
}
