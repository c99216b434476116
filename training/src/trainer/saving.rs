//! Checkpoints of a run, over one rank or several, and its result.

use super::Trainer;
use crate::{
    TrainingError,
    backend::{Backend, Span, SpanMut},
    checkpoint::{self, TrainerState},
    telemetry::Progress,
};

impl<B: Backend> Trainer<B> {
    /// Updates between checkpoints.
    pub(super) fn save_interval(&self) -> u64 {
        let options = &self.setup.options;
        options.save_steps.or(options.eval_steps).unwrap_or_else(|| self.total_steps.div_ceil(10)).max(1)
    }

    /// Writes a checkpoint; of the older ones, the best and as many as the recipe says are kept. All ranks take part, the
    /// first one writes.
    pub(super) fn save(&mut self, progress: &mut dyn Progress) -> Result<(), TrainingError> {
        let own = self.store.moments();
        let sharded = self.is_sharded();
        let mut slices = None;
        if sharded {
            slices = Some(self.gather_moments()?);
        }
        let result = self.write_checkpoint(progress);
        if let Some([mean, square]) = slices {
            self.store.put_moments(mean, square, own);
        }
        result
    }

    fn write_checkpoint(&mut self, progress: &mut dyn Progress) -> Result<(), TrainingError> {
        if !self.is_first() {
            return Ok(());
        }
        let (setup, backend) = (&self.setup, self.model.backend());
        let folder = checkpoint::save(backend, &mut self.store, &setup.artifact, &self.state, &setup.output)?;
        let steps = checkpoint::steps(&setup.output);
        let last = setup.options.save_total_limit.unwrap_or(1);
        let mut keep: Vec<u64> =
            steps.iter().rev().copied().filter(|&step| step <= self.state.step).take(last).collect();
        keep.extend(self.state.best.map(|best| best.step));
        checkpoint::prune(&setup.output, &keep)?;
        progress.saved(&folder);
        Ok(())
    }

    /// Replaces this rank's moments by those of all parameters; gives back its own.
    fn gather_moments(&mut self) -> Result<[B::Buf; 2], TrainingError> {
        let (backend, parts, own) = (self.model.backend(), self.partition(), self.store.moments());
        let gather = |slice: &B::Buf| -> Result<B::Buf, TrainingError> {
            let mut all = backend.zeros(self.store.len());
            let data = backend.read(Span { buf: slice, at: 0, len: own.len() });
            backend.write(&data, SpanMut { buf: &mut all, at: own.start, len: own.len() });
            self.ranks.all_gather(backend, &mut all, &parts)?;
            Ok(all)
        };
        let (mean, square) = (gather(&self.store.mean)?, gather(&self.store.square)?);
        let len = self.store.len();
        Ok(self.store.put_moments(mean, square, 0..len))
    }

    /// Goes to the latest checkpoint of the run; returns the updates already done, 0 if there is none. Rank 0 reads it
    /// and gives it to the others.
    ///
    /// # Errors
    /// If the latest checkpoint is broken or belongs to another run, or another rank fails.
    pub fn resume(&mut self) -> Result<u64, TrainingError> {
        if self.ranks.world() == 1 {
            return self.resume_from_disk();
        }
        let own = self.store.moments();
        let len = self.store.len();
        if self.is_sharded() {
            self.store.shard_moments(self.model.backend(), 0..len);
        }
        let result = if self.is_first() { self.resume_from_disk() } else { Ok(0) };
        if let Err(error) = &result {
            self.ranks.abort(&error.to_string());
        }
        result?;
        let mine = if self.is_first() { serde_json::to_vec(&self.state).unwrap_or_default() } else { vec![] };
        let all = self.ranks.all_gather_bytes(mine.into())?;
        let state: TrainerState = serde_json::from_slice(&all[0]).map_err(|error| TrainingError::Peer {
            rank: 0,
            message: format!("sent a state that cannot be read: {error}"),
        })?;
        self.setup.train.seek(state.cursor);
        self.state = state;
        if self.state.step > 0 {
            self.share_buffers(len)?;
        }
        if self.is_sharded() {
            let backend = self.model.backend();
            let part = |buf: &B::Buf| backend.upload(&backend.read(Span { buf, at: own.start, len: own.len() }));
            let (mean, square) = (part(&self.store.mean), part(&self.store.square));
            self.store.put_moments(mean, square, own);
        }
        Ok(self.state.step)
    }

    /// Gives the values and moments of rank 0 to all.
    fn share_buffers(&mut self, len: usize) -> Result<(), TrainingError> {
        let (backend, first, ranks) = (self.model.backend(), self.is_first(), &self.ranks);
        for buf in [&mut self.store.values, &mut self.store.mean, &mut self.store.square] {
            let mine: Vec<u8> = match first {
                true => backend.read(Span { buf, at: 0, len }).iter().flat_map(|x| x.to_le_bytes()).collect(),
                false => vec![],
            };
            let all = ranks.all_gather_bytes(mine.into())?;
            let data: Vec<f32> = all[0].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            if data.len() != len {
                let message = format!("has {} trained parameters, this rank has {len}", data.len());
                return Err(TrainingError::Peer { rank: 0, message });
            }
            backend.write(&data, SpanMut { buf, at: 0, len });
        }
        Ok(())
    }

    fn resume_from_disk(&mut self) -> Result<u64, TrainingError> {
        let Some(step) = checkpoint::steps(&self.setup.output).pop() else { return Ok(0) };
        let folder = checkpoint::folder(&self.setup.output, step);
        let state = checkpoint::read_state(&folder, self.setup.run)?;
        checkpoint::load(self.model.backend(), &mut self.store, &folder, false)?;
        self.setup.train.seek(state.cursor);
        self.state = state;
        Ok(step)
    }

    /// Writes the result: the best parameters where the recipe says so and there is a better one than the last.
    pub(super) fn finish(&mut self) -> Result<(), TrainingError> {
        if !self.is_first() {
            return Ok(());
        }
        let best = self.state.best.filter(|best| self.setup.options.save_best && best.step != self.state.step);
        if let Some(best) = best {
            let folder = checkpoint::folder(&self.setup.output, best.step);
            checkpoint::load(self.model.backend(), &mut self.store, &folder, true)?;
        }
        self.setup.artifact.write(self.model.backend(), &self.store, &self.setup.output)
    }
}
