//! The loop: micro-batches to updates, evaluation, checkpoints, over one rank or several.

mod evaluation;
mod figures;
mod saving;
mod summary;
mod summing;
mod update;

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use figures::Update;
use harness_core::{Digest, Stop};
use harness_kernels::check_maps;
pub use summary::{Estimate, TrainingSummary};

pub use crate::spikes::SpikeDetector;
use crate::{
    TrainingError,
    backend::Backend,
    checkpoint::{self, TrainerState},
    data::{Batch, BatchSource, Cursor},
    export::Artifact,
    model::Model,
    optimizer::AdamW,
    parallel::{Collective, FACTS, Host, Partition, Single, all_gather_f64},
    params::ParamStore,
    recipe::{Precision, Sharding, TrainingOptions},
    scaler::LossScaler,
    schedule::Schedule,
    telemetry::{MetricLine, MetricLog, Progress, StepReport},
};

/// What a run is made of besides its model.
#[derive(Clone, Debug)]
pub struct TrainerSetup {
    /// The optimisation.
    pub options: TrainingOptions,
    /// Dropout of low-rank additions.
    pub dropout: f32,
    /// Training batches.
    pub train: BatchSource,
    /// Validation batches; none = no evaluation.
    pub validation: Vec<Batch>,
    /// What is written.
    pub artifact: Artifact,
    /// The folder of the run, made if it does not exist.
    pub output: PathBuf,
    /// Names what is trained on what, so that only its own checkpoints are resumed from.
    pub run: Digest,
}

/// A training run, or one rank of it.
pub struct Trainer<B: Backend> {
    model: Model<B>,
    store: ParamStore<B>,
    setup: TrainerSetup,
    optimizer: AdamW,
    schedule: Schedule,
    total_steps: u64,
    state: TrainerState,
    ranks: Arc<dyn Collective<B>>,
    preference: Option<Preference<B>>,
    /// Asked from outside (Ctrl-C): the run writes a checkpoint and ends. Alone, it leaves the update in flight; several
    /// ranks finish it, since they have to agree.
    stop: Stop,
    clock: Box<dyn Fn() -> Duration + Send>,
    /// Seconds since 1970, where events for TensorBoard are written.
    calendar: Option<fn() -> f64>,
    timing: Timing,
}

/// Training on pairs, of which the first is preferred.
struct Preference<B: Backend> {
    beta: f64,
    /// Parameters that change nothing: the base without its adapter.
    reference: B::Buf,
}

/// What this process spent on updates.
#[derive(Clone, Copy, Debug, Default)]
struct Timing {
    busy: Duration,
    tokens: u64,
    samples: u64,
    first_step: u64,
}

impl Timing {
    fn rate(&self, count: u64) -> f64 {
        count as f64 / self.busy.as_secs_f64().max(1e-9)
    }
}

impl<B: Backend> Trainer<B> {
    /// A run at its beginning.
    ///
    /// # Errors
    /// If there is nothing to train on or for.
    pub fn new(model: Model<B>, store: ParamStore<B>, setup: TrainerSetup) -> Result<Self, TrainingError> {
        let options = &setup.options;
        let total_steps = options.total_steps(setup.train.batches_per_epoch());
        if total_steps == 0 {
            let expected = "at least one update: give training.epochs or training.max_steps, and rows to train on";
            return Err(TrainingError::setting("training", "0 updates", expected));
        }
        let optimizer = AdamW {
            beta1: options.adam_beta1,
            beta2: options.adam_beta2,
            epsilon: options.adam_epsilon,
            weight_decay: options.weight_decay,
            max_grad_norm: options.max_grad_norm,
        };
        let schedule = Schedule::new(options, total_steps);
        let start = Instant::now();
        Ok(Self {
            model,
            store,
            optimizer,
            schedule,
            total_steps,
            state: TrainerState {
                scaler: (options.precision == Some(Precision::Fp16)).then(|| LossScaler::new(options.loss_scale)),
                ..TrainerState::new(setup.run)
            },
            ranks: Arc::new(Host(Single)),
            preference: None,
            stop: Stop::default(),
            clock: Box::new(move || start.elapsed()),
            calendar: None,
            timing: Timing::default(),
            setup,
        })
    }

    /// Makes this one of several ranks, which deal the micro-batches of every update out among themselves.
    ///
    /// # Errors
    /// If the micro-batches of an update cannot be dealt out evenly, or there is not enough memory.
    pub fn with_ranks(mut self, ranks: Arc<dyn Collective<B>>) -> Result<Self, TrainingError> {
        self.setup.options.divide(ranks.world())?;
        self.ranks = ranks;
        // The longest parts are all parameters, and the losses of all validation batches.
        self.ranks.allow(FACTS + 4 * self.store.len() as u64 + 8 * self.setup.validation.len() as u64)?;
        if self.is_sharded() && !self.store.is_part() {
            let own = self.partition().of(self.ranks.rank());
            self.store.shard_moments(self.model.backend(), own)?;
        }
        Ok(self)
    }

    /// Trains on preferences: rows of two samples, the preferred one first. The reference is the base without adapter.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn with_preference(mut self, beta: f64) -> Result<Self, TrainingError> {
        let reference = self.model.backend().zeros(self.store.len())?;
        self.preference = Some(Preference { beta, reference });
        Ok(self)
    }

    /// What the mean loss of a batch is taken over: labels, or pairs.
    fn units(&self, batch: &Batch) -> usize {
        if self.preference.is_some() { batch.num_samples() / 2 } else { batch.num_labels() }
    }

    /// Watches this: once asked to stop, the run writes a checkpoint and ends.
    pub fn with_stop(mut self, stop: impl Into<Stop>) -> Self {
        self.stop = stop.into();
        self
    }

    /// Writes events for TensorBoard; `now` gives seconds since 1970.
    pub fn with_events(mut self, now: fn() -> f64) -> Self {
        self.calendar = Some(now);
        self
    }

    /// Measures time with this clock instead of the system's.
    pub fn with_clock(mut self, clock: impl Fn() -> Duration + Send + 'static) -> Self {
        self.clock = Box::new(clock);
        self
    }

    /// The trained parameters.
    pub fn store(&self) -> &ParamStore<B> {
        &self.store
    }

    /// The model.
    pub fn model(&self) -> &Model<B> {
        &self.model
    }

    /// The operations of all ranks.
    pub fn ranks(&self) -> &Arc<dyn Collective<B>> {
        &self.ranks
    }

    /// Updates in the whole run.
    pub fn total_steps(&self) -> u64 {
        self.total_steps
    }

    /// Where the run is.
    pub fn state(&self) -> &TrainerState {
        &self.state
    }

    /// Whether this is the rank that writes.
    pub fn is_first(&self) -> bool {
        self.ranks.rank() == 0
    }

    /// Whether each rank has only its part of the optimizer's states.
    fn is_sharded(&self) -> bool {
        self.setup.options.sharding == Sharding::Fsdp && self.ranks.world() > 1
    }

    /// Which rank owns which of the trained parameters.
    fn partition(&self) -> Partition {
        Partition::new(self.store.len(), self.ranks.world())
    }

    /// Runs to the end, or until stopped; then writes the result. Only rank 0 writes.
    ///
    /// # Errors
    /// If loss or gradient stop being numbers, memory runs out, the device or another rank fails, or a file cannot be
    /// written. What was saved before stays, and of a run of one rank the state before the failed update is saved.
    pub fn run(&mut self, progress: &mut dyn Progress) -> Result<TrainingSummary, TrainingError> {
        let result = match self.run_to_the_end(progress) {
            Err(TrainingError::Backend(error)) => Err(match error.out_of_memory() {
                Some(missing) => self.out_of_memory(missing.to_string()),
                None => error.into(),
            }),
            result => result,
        };
        // Of a device that failed, whoever runs this as a rank tells: it may have failed because another one did.
        if let Err(error) = &result
            && !matches!(error, TrainingError::Peer { .. } | TrainingError::Backend(_))
        {
            self.ranks.abort(&error.to_string());
        }
        result
    }

    fn run_to_the_end(&mut self, progress: &mut dyn Progress) -> Result<TrainingSummary, TrainingError> {
        if self.ranks.world() == 1 {
            self.model.leave_passes(self.stop.clone());
        }
        let output = self.setup.output.clone();
        let mut log = None;
        if self.is_first() {
            fs::create_dir_all(&output).map_err(TrainingError::io("create", &output))?;
            if self.state.step == 0 {
                checkpoint::prune(&output, &[])?;
            }
            let opened = MetricLog::open(&output.join("metrics.jsonl"), self.state.step, self.state.evaluated)?;
            log = Some(match self.calendar {
                Some(now) => opened.with_events(now)?,
                None => opened,
            });
            progress.started(self.state.step, self.total_steps);
        }
        self.timing = Timing { first_step: self.state.step, ..Timing::default() };
        let mut last_loss = f64::NAN;
        let mut saved = self.state.step;
        let mut unsaved = None;
        loop {
            if self.evaluation_is_due() {
                match self.evaluate_and_log(log.as_mut(), progress)? {
                    true => self.state.evaluated = self.state.step,
                    // Stopped meanwhile: the evaluation is done when the run goes on.
                    false => {
                        self.save(progress)?;
                        return self.summary(true, last_loss);
                    }
                }
            }
            let ended = self.state.step >= self.total_steps || self.is_stopped_early();
            let step = self.state.step;
            if step > saved && (ended || step.is_multiple_of(self.save_interval()) || self.is_best()) {
                self.save(progress)?;
                (saved, unsaved) = (step, None);
            }
            if ended {
                break;
            }
            let began = (self.clock)();
            let update = match self.agreed(self.stop.is_requested())? {
                true => Err(TrainingError::Stopped),
                false => self.update(progress),
            };
            let update = match update {
                Err(TrainingError::Stopped) => {
                    if step > saved || step == 0 {
                        self.save(progress)?;
                    }
                    return self.summary(true, last_loss);
                }
                update => update?,
            };
            check_maps().map_err(|(path, error)| TrainingError::io("read", &path)(error))?;
            unsaved.get_or_insert_with(|| self.stop.unsaved());
            self.timing.busy += (self.clock)().saturating_sub(began);
            self.timing.tokens += update.tokens as u64;
            self.timing.samples += update.samples as u64;
            last_loss = update.loss / update.labels.max(1) as f64;
            self.report(&update, last_loss, progress);
            if let Some(log) = &mut log {
                self.log_update(&update, log)?;
            }
        }
        self.finish()?;
        self.summary(false, last_loss)
    }

    /// One update, which is neither logged nor saved; its mean loss. For measurements.
    ///
    /// # Errors
    /// As [`Trainer::run`], without advice where memory runs out.
    pub fn advance(&mut self) -> Result<f64, TrainingError> {
        let update = self.update(&mut crate::telemetry::Silent)?;
        Ok(update.loss / update.labels.max(1) as f64)
    }

    fn report(&self, update: &Update, loss: f64, progress: &mut dyn Progress) {
        let (done, left) = (self.state.step - self.timing.first_step, self.total_steps - self.state.step);
        if self.is_first() {
            progress.step(&StepReport {
                step: self.state.step,
                total_steps: self.total_steps,
                loss,
                learning_rate: update.learning_rate,
                grad_norm: update.grad_norm,
                tokens: self.state.tokens,
                tokens_per_second: self.timing.rate(self.timing.tokens),
                seconds_left: self.timing.busy.as_secs_f64() / done.max(1) as f64 * left as f64,
                spike: update.spike,
                left_out: update.left_out,
                skipped: self.state.skipped,
                spikes: self.state.spikes.count,
            });
        }
    }

    /// Writes a line where one is due. The sums since the last one are kept in the state in any case.
    fn log_update(&mut self, update: &Update, log: &mut MetricLog) -> Result<(), TrainingError> {
        let last = self.state.step >= self.total_steps;
        if !last && !self.state.step.is_multiple_of(self.setup.options.log_steps) {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.state.pending);
        log.append(&MetricLine {
            step: self.state.step,
            epoch: self.epoch(),
            loss: Some(pending.loss / pending.labels.max(1) as f64),
            learning_rate: Some(update.learning_rate),
            grad_norm: Some(update.grad_norm),
            tokens: Some(self.state.tokens),
            tokens_per_second: Some(self.timing.rate(self.timing.tokens)),
            spikes: (self.state.spikes.count > 0).then_some(self.state.spikes.count),
            skipped: (self.state.skipped > 0).then_some(self.state.skipped),
            loss_scale: self.state.scaler.map(|scaler| scaler.scale),
            memory_bytes: Some(self.model.backend().peak_bytes() as u64),
            ..MetricLine::default()
        })
    }

    /// Whether any rank is to stop.
    fn agreed(&self, own: bool) -> Result<bool, TrainingError> {
        if self.ranks.world() == 1 {
            return Ok(own);
        }
        let all = all_gather_f64(&*self.ranks, &[f64::from(u8::from(own))])?;
        Ok(all.iter().flatten().any(|&stop| stop > 0.0))
    }

    /// Passes over the data done, with the fraction of the current one.
    fn epoch(&self) -> f64 {
        let Cursor { epoch, index } = self.setup.train.cursor();
        epoch as f64 + index as f64 / self.setup.train.batches_per_epoch().max(1) as f64
    }

    fn summary(&self, interrupted: bool, loss: f64) -> Result<TrainingSummary, TrainingError> {
        let Timing { busy, tokens, samples, .. } = self.timing;
        let mine = self.model.backend().peak_bytes();
        let memory = all_gather_f64(&*self.ranks, &[mine as f64])?;
        let per_epoch = self.setup.options.steps_per_epoch(self.setup.train.batches_per_epoch()).max(1);
        let done = (self.state.step - self.timing.first_step).max(1);
        Ok(TrainingSummary {
            steps: self.state.step,
            total_steps: self.total_steps,
            tokens: self.state.tokens,
            trainable_parameters: self.store.len(),
            loss,
            best: self.state.best,
            eval_loss: self.state.eval_loss,
            seconds: busy.as_secs_f64(),
            epoch_seconds: busy.as_secs_f64() / done as f64 * per_epoch as f64,
            tokens_per_second: self.timing.rate(tokens),
            samples_per_second: self.timing.rate(samples),
            memory_bytes: memory.iter().flatten().copied().fold(0.0, f64::max) as u64,
            world_size: self.ranks.world(),
            spikes: self.state.spikes.count,
            skipped: self.state.skipped,
            stopped_early: self.is_stopped_early() && self.state.step < self.total_steps,
            interrupted,
        })
    }

    /// What the run will take: one window is computed, without an update, to measure the speed.
    ///
    /// # Errors
    /// If the weights of a block cannot be had, memory runs out, or the device fails.
    pub fn estimate(&mut self) -> Result<Estimate, TrainingError> {
        let cursor = self.setup.train.cursor();
        let window = self.window();
        self.setup.train.seek(cursor);
        let tokens: usize = window.iter().map(Batch::num_tokens).sum();
        let began = (self.clock)();
        self.accumulate(&window, &mut crate::telemetry::Silent)?;
        self.reduce()?;
        self.store.clear_grads(self.model.backend())?;
        let seconds = (self.clock)().saturating_sub(began).as_secs_f64();
        let per_epoch = self.setup.options.steps_per_epoch(self.setup.train.batches_per_epoch()).max(1);
        let epochs = self.total_steps as f64 / per_epoch as f64;
        let total_tokens = self.setup.train.tokens_per_epoch() as f64 * epochs;
        let rate = tokens as f64 / seconds.max(1e-9);
        Ok(Estimate {
            steps: self.total_steps,
            warmup_steps: self.schedule.warmup_steps,
            epochs,
            tokens: total_tokens as u64,
            trainable_parameters: self.store.len(),
            parameters: self.model.config().num_parameters(),
            memory_bytes: self.model.backend().peak_bytes(),
            tokens_per_second: rate,
            seconds: total_tokens / rate.max(1e-9),
        })
    }
}
