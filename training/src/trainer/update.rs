//! One update: micro-batches, reduction over ranks, optimizer.

use super::{
    Preference, Trainer,
    summing::{SummingSink, runs},
};
use crate::{
    TrainingError,
    backend::{Backend, Span},
    block::DropoutPlan,
    checkpoint,
    data::Batch,
    model::{MicroStep, NoisePlan},
    parallel::all_gather_f64,
    params::ParamStore,
    telemetry::Progress,
};

/// One update's figures, over all ranks.
pub(super) struct Update {
    pub(super) loss: f64,
    pub(super) labels: usize,
    pub(super) tokens: usize,
    pub(super) samples: usize,
    pub(super) grad_norm: f64,
    pub(super) learning_rate: f64,
    pub(super) spike: bool,
}

impl<B: Backend> Trainer<B> {
    /// The micro-batches of the next update, of all ranks: an update never spans two epochs.
    pub(super) fn window(&mut self) -> Vec<Batch> {
        let mut window = Vec::new();
        for _ in 0..self.setup.options.gradient_accumulation_steps.max(1) {
            window.extend(self.setup.train.next_batch());
            if self.setup.train.cursor().index >= self.setup.train.batches_per_epoch() {
                break;
            }
        }
        window
    }

    /// The summed loss over a window; this rank's gradients of its own micro-batches.
    pub(super) fn accumulate(&mut self, window: &[Batch], progress: &mut dyn Progress) -> Result<f64, TrainingError> {
        let labels: usize = window.iter().map(|batch| self.units(batch)).sum();
        self.store.clear_grads(self.model.backend());
        let (rank, world) = (self.ranks.rank(), self.ranks.world());
        let scale = self.state.scaler.map_or(1.0, |scaler| scaler.scale as f32);
        let runs = match world {
            1 => vec![],
            _ => runs(self.store.layout(), self.model.lowest()),
        };
        let ParamStore { values, grads, .. } = &mut self.store;
        let mut sink = SummingSink::new(self.model.backend(), grads, &*self.ranks, &runs);
        let mut loss = 0.0;
        let rounds = window.len().div_ceil(world);
        for round in 0..rounds {
            let micro_batch = round * world + rank;
            sink.is_last = round + 1 == rounds;
            let Some(batch) = window.get(micro_batch) else {
                if self.preference.is_some() {
                    self.model.participate(false)?;
                }
                self.model.participate(true)?;
                continue;
            };
            let (seed, step) = (self.setup.options.seed, self.state.step);
            let noise = self.setup.options.neftune_noise_alpha;
            let micro = MicroStep {
                scale: scale / labels.max(1) as f32,
                dropout: DropoutPlan::new(seed, step, micro_batch as u64, self.setup.dropout),
                noise: NoisePlan::new(seed, step, micro_batch as u64, noise),
            };
            loss += match &self.preference {
                None => self.model.forward_backward(batch, values, &micro, &mut sink)?,
                Some(Preference { beta, reference }) => {
                    self.model.preference(batch, values, reference, *beta, &micro, Some(&mut sink))?
                }
            };
            progress.micro_batch(micro_batch + 1, window.len());
        }
        sink.finish()?;
        if world == 1 {
            return Ok(loss);
        }
        Ok(all_gather_f64(&*self.ranks, &[loss])?.iter().flatten().sum())
    }

    /// Sums the gradients over the ranks; the global norm. With sharded states only the own slice is a sum afterwards.
    pub(super) fn reduce(&mut self) -> Result<f64, TrainingError> {
        let (backend, parts) = (self.model.backend(), self.partition());
        let sharded = self.is_sharded();
        if self.ranks.world() > 1 {
            let grads = &mut self.store.grads;
            match sharded {
                true => self.ranks.reduce_scatter_sum(backend, grads, &parts)?,
                false => self.ranks.all_reduce_sum(backend, grads, &parts)?,
            }
        }
        let grads = &self.store.grads;
        // Slice by slice in both cases, so that sharding changes no bit.
        let square =
            |slice: std::ops::Range<usize>| backend.sum_squares(Span { buf: grads, at: slice.start, len: slice.len() });
        let squares: Vec<f64> = match sharded {
            true => all_gather_f64(&*self.ranks, &[square(parts.of(self.ranks.rank()))])?.concat(),
            false => parts.slices().map(square).collect(),
        };
        Ok(squares.iter().sum::<f64>().sqrt())
    }

    pub(super) fn update(&mut self, progress: &mut dyn Progress) -> Result<Update, TrainingError> {
        let window = self.window();
        let labels: usize = window.iter().map(|batch| self.units(batch)).sum();
        let tokens: usize = window.iter().map(Batch::len).sum();
        let samples: usize = window.iter().map(Batch::num_samples).sum();
        let loss = self.accumulate(&window, progress)?;
        let scale = self.state.scaler.map_or(1.0, |scaler| scaler.scale);
        let grad_norm = self.reduce()? / scale;
        let overflowed = match &mut self.state.scaler {
            Some(scaler) if loss.is_finite() && !scaler.is_exhausted() => !scaler.update(grad_norm.is_finite()),
            _ => false,
        };
        for (what, value) in [("loss", loss), ("gradient norm", grad_norm)] {
            if !value.is_finite() && !overflowed {
                let kept = self.keep_last_good()?;
                return Err(TrainingError::NonFinite { what, step: self.state.step + 1, value, kept });
            }
        }
        let spike = self.state.spikes.observe(loss / labels.max(1) as f64);
        let learning_rate = self.setup.options.learning_rate * self.schedule.factor(self.state.step);
        let number = self.state.step + 1;
        if overflowed || (spike && self.setup.options.skip_spikes) {
            self.state.skipped += 1;
        } else {
            // What was left out does not count for the moments' bias correction.
            let done = number - self.state.skipped;
            let backend = self.model.backend();
            self.optimizer.update(backend, &mut self.store, done, learning_rate, grad_norm, scale);
            if self.is_sharded() {
                let parts = self.partition();
                self.ranks.all_gather(self.model.backend(), &mut self.store.values, &parts)?;
            }
        }
        self.state.step = number;
        self.state.cursor = self.setup.train.cursor();
        self.state.tokens += tokens as u64;
        self.state.pending.loss += loss;
        self.state.pending.labels += labels as u64;
        Ok(Update { loss, labels, tokens, samples, grad_norm, learning_rate, spike })
    }

    /// Saves the state before a failed update, if its parameters are numbers; says which checkpoint there is.
    fn keep_last_good(&mut self) -> Result<String, TrainingError> {
        let values = Span { buf: &self.store.values, at: 0, len: self.store.len() };
        let good = self.model.backend().sum_squares(values).is_finite();
        if good && self.state.step > 0 {
            self.setup.train.seek(self.state.cursor);
            self.save(&mut crate::telemetry::Silent)?;
        }
        Ok(self.kept())
    }

    /// Which checkpoint there is, in words.
    pub(super) fn kept(&self) -> String {
        match checkpoint::steps(&self.setup.output).pop() {
            Some(step) => format!("the checkpoint of step {step} is kept"),
            None => "no checkpoint had been written".to_owned(),
        }
    }
}
