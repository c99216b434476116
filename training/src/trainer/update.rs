//! One update: micro-batches, reduction over ranks, optimizer.

use super::{
    Preference, Trainer,
    figures::Update,
    summing::{RUNS, SummingSink, runs},
};
use crate::{
    TrainingError,
    backend::{self, Backend, Span, SpanMut},
    block::{DropoutPlan, GradSink},
    checkpoint,
    data::Batch,
    model::{MicroStep, NoisePlan},
    parallel::{UnitSink, all_gather_f64},
    params::ParamStore,
    telemetry::{LeftOut, Progress},
};

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

    /// The summed loss over a window, and gradients: this rank's of its own micro-batches; where all parameters are trained
    /// over several ranks, the sum over the ranks, of which the own slice is defined.
    pub(super) fn accumulate(&mut self, window: &[Batch], progress: &mut dyn Progress) -> Result<f64, TrainingError> {
        let labels: usize = window.iter().map(|batch| self.units(batch)).sum();
        self.store.clear_grads(self.model.backend())?;
        let (rank, world) = (self.ranks.rank(), self.ranks.world());
        let scale = self.state.scaler.map_or(1.0, |scaler| scaler.scale as f32);
        // All parameters are too many for a rank to keep gradients that are not its own: every round of micro-batches is
        // summed over the ranks by itself, sharded or not, so that sharding changes no bit.
        let mut summed = None;
        let each_round = world > 1 && self.model.is_fully_trained();
        let mut loss = 0.0;
        let rounds = window.len().div_ceil(world);
        for round in 0..rounds {
            let micro_batch = round * world + rank;
            let (seed, step) = (self.setup.options.seed, self.state.step);
            let noise = self.setup.options.neftune_noise_alpha;
            let micro = MicroStep {
                scale: scale / labels.max(1) as f32,
                dropout: DropoutPlan::new(seed, step, micro_batch as u64, self.setup.dropout),
                noise: NoisePlan::new(seed, step, micro_batch as u64, noise),
            };
            let batch = window.get(micro_batch);
            loss += self.micro_batch(batch, &micro, round + 1 == rounds)?;
            if each_round && !self.store.is_part() {
                self.add_round(&mut summed)?;
            }
            if batch.is_some() {
                progress.micro_batch(micro_batch + 1, window.len());
            }
        }
        if let Some(summed) = summed {
            let (backend, own) = (self.model.backend(), self.partition().of(rank));
            let to = SpanMut { buf: &mut self.store.grads, at: own.start, len: own.len() };
            backend.accumulate(Span { buf: &summed, at: 0, len: own.len() }, to)?;
        }
        if world == 1 {
            return Ok(loss);
        }
        Ok(all_gather_f64(&*self.ranks, &[loss])?.iter().flatten().sum())
    }

    /// Adds the gradients of one micro-batch, or of none, of which `is_last` is the last one of the update; its summed loss.
    fn micro_batch(&mut self, batch: Option<&Batch>, micro: &MicroStep, is_last: bool) -> Result<f64, TrainingError> {
        let all = self.model.is_fully_trained();
        let begins = self.ranks.world() > 1 && (is_last || all);
        let about = if all { usize::MAX } else { RUNS };
        let runs = if begins { runs(self.store.layout(), self.model.lowest(), about) } else { vec![] };
        let owners = all.then(|| self.partition());
        let ParamStore { values, grads, .. } = &mut self.store;
        let backend = self.model.backend();
        let (mut units, mut summing) = (None, None);
        let sink: &mut dyn GradSink<B> = match self.model.units() {
            Some(of) => units.insert(UnitSink::new(backend, of, grads)),
            None => summing.insert(SummingSink::new(backend, grads, &*self.ranks, &runs, owners)),
        };
        let loss = match (batch, &self.preference) {
            (None, preference) => {
                if preference.is_some() {
                    self.model.participate(values, None)?;
                }
                self.model.participate(values, Some(sink))?;
                0.0
            }
            (Some(batch), None) => self.model.forward_backward(batch, values, micro, sink)?,
            (Some(batch), Some(Preference { beta, reference })) => {
                self.model.preference(batch, values, reference, *beta, micro, Some(sink))?
            }
        };
        summing.map_or(Ok(()), SummingSink::finish)?;
        Ok(loss)
    }

    /// Sums the gradients of a round over the ranks, adds the own slice to `summed`, and clears them for the next round.
    fn add_round(&mut self, summed: &mut Option<B::Buf>) -> Result<(), TrainingError> {
        let (backend, parts) = (self.model.backend(), self.partition());
        let own = parts.of(self.ranks.rank());
        self.ranks.end_reduce(backend, &mut self.store.grads, &parts)?;
        let sum = match summed {
            Some(sum) => sum,
            None => summed.insert(backend.zeros(own.len())?),
        };
        let from = Span { buf: &self.store.grads, at: own.start, len: own.len() };
        backend.accumulate(from, SpanMut { buf: sum, at: 0, len: own.len() })?;
        self.store.clear_grads(backend)?;
        Ok(())
    }

    /// Sums the gradients over the ranks; the global norm. With sharded states only the own slice is a sum afterwards.
    pub(super) fn reduce(&mut self) -> Result<f64, TrainingError> {
        let (backend, parts) = (self.model.backend(), self.partition());
        let sharded = self.is_sharded();
        if self.ranks.world() > 1 {
            let grads = &mut self.store.grads;
            match (self.model.is_fully_trained(), sharded) {
                (true, true) => {}
                (true, false) => self.ranks.all_gather(backend, grads, &parts)?,
                (false, true) => self.ranks.reduce_scatter_sum(backend, grads, &parts)?,
                (false, false) => self.ranks.all_reduce_sum(backend, grads, &parts)?,
            }
        }
        let (grads, first) = (&self.store.grads, self.store.held().start);
        // Slice by slice in both cases, so that sharding changes no bit.
        let square = |slice: std::ops::Range<usize>| {
            backend.sum_squares(Span { buf: grads, at: slice.start - first, len: slice.len() })
        };
        let squares: Vec<f64> = match sharded {
            true => all_gather_f64(&*self.ranks, &[square(parts.of(self.ranks.rank()))?])?.concat(),
            false => parts.slices().map(square).collect::<backend::Result<_>>()?,
        };
        Ok(squares.iter().sum::<f64>().sqrt())
    }

    pub(super) fn update(&mut self, progress: &mut dyn Progress) -> Result<Update, TrainingError> {
        let window = self.window();
        let labels: usize = window.iter().map(|batch| self.units(batch)).sum();
        let tokens: usize = window.iter().map(Batch::num_tokens).sum();
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
                let kept = self.keep_last_good(!loss.is_finite())?;
                return Err(TrainingError::NonFinite { what, step: self.state.step + 1, value, kept });
            }
        }
        let spike = self.state.spikes.observe(loss / labels.max(1) as f64);
        let learning_rate = self.setup.options.learning_rate * self.schedule.factor(self.state.step);
        let number = self.state.step + 1;
        let left_out = match (overflowed, spike && self.setup.options.skip_spikes) {
            (true, _) => Some(LeftOut::Overflow { scale: self.state.scaler.map_or(1.0, |scaler| scaler.scale) }),
            (false, true) => Some(LeftOut::Spike),
            (false, false) => None,
        };
        if left_out.is_some() {
            self.state.skipped += 1;
        } else {
            // What was left out does not count for the moments' bias correction.
            let done = number - self.state.skipped;
            let backend = self.model.backend();
            self.optimizer.update(backend, &mut self.store, done, learning_rate, grad_norm, scale)?;
            if self.is_sharded() && !self.store.is_part() {
                let parts = self.partition();
                self.ranks.all_gather(self.model.backend(), &mut self.store.values, &parts)?;
            }
        }
        self.state.step = number;
        self.state.cursor = self.setup.train.cursor();
        self.state.tokens += tokens as u64;
        self.state.pending.loss += loss;
        self.state.pending.labels += labels as u64;
        Ok(Update { loss, labels, tokens, samples, grad_norm, learning_rate, spike, left_out })
    }

    /// Saves the state before a failed update, if its parameters are numbers; says which checkpoint there is. Where it was
    /// their loss that failed, they may be what is wrong, and the checkpoints before stay too.
    fn keep_last_good(&mut self, suspect: bool) -> Result<String, TrainingError> {
        let values = Span { buf: &self.store.values, at: 0, len: self.store.held().len() };
        let mut squares = vec![vec![self.model.backend().sum_squares(values)?]];
        if self.store.is_part() {
            squares = all_gather_f64(&*self.ranks, &squares[0])?;
        }
        let good = squares.iter().flatten().all(|square| square.is_finite());
        if good && self.state.step > 0 {
            self.setup.train.seek(self.state.cursor);
            match suspect {
                true => drop(self.write_checkpoint()?),
                false => self.save(&mut crate::telemetry::Silent)?,
            }
        }
        let mut kept = self.kept();
        if let [.., before, last] = checkpoint::steps(&self.setup.output).as_slice()
            && suspect
            && *last == self.state.step
        {
            kept += &format!(" (this is its loss; the checkpoint of step {before} is there too)");
        }
        Ok(kept)
    }

    /// What to tell after memory has run out; the last whole state is saved if that is possible.
    pub(super) fn out_of_memory(&mut self, what: String) -> TrainingError {
        self.model.backend().release();
        // Saving is done by all ranks together, and the others are elsewhere. If it fails too, what matters is why.
        let kept = match self.ranks.world() {
            1 => self.keep_last_good(false).unwrap_or_else(|_| self.kept()),
            _ => self.kept(),
        };
        let options = &self.setup.options;
        let mut advice = vec![];
        if options.batch_size > 1 {
            let (rows, steps) = (options.batch_size, options.gradient_accumulation_steps);
            advice.push(format!(
                "lower training.batch_size (now {rows}) and raise training.gradient_accumulation_steps (now {steps}) by \
                 as much, which gives the same updates"
            ));
        }
        if self.model.policy().segment().is_none() {
            advice.push("set training.gradient_checkpointing = \"layer\"".to_owned());
        }
        if B::OWN_MEMORY && self.model.is_fully_trained() && !options.paged_optimizer {
            advice.push("keep AdamW's states in host memory (training.paged_optimizer = true)".to_owned());
        }
        advice.push("lower data.max_length".to_owned());
        advice.push(
            match self.model.is_fully_trained() {
                true => {
                    "share parameters over ranks (--nproc N --sharding fsdp), or train an adapter (method = \"lora\")"
                }
                false => "store the base in 4 bits ([quantization])",
            }
            .to_owned(),
        );
        let when = format!("at step {}", self.state.step + 1);
        TrainingError::OutOfMemory { when, what, kept, advice: advice.join(", or ") }
    }

    /// Which checkpoint there is, in words.
    pub(super) fn kept(&self) -> String {
        match checkpoint::steps(&self.setup.output).pop() {
            Some(step) => format!("the checkpoint of step {step} is kept"),
            None => "no checkpoint had been written".to_owned(),
        }
    }
}
