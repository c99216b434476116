//! The loop: micro-batches to updates, evaluation, checkpoints.

mod summary;

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use harness_core::Digest;
pub use summary::{Estimate, TrainingSummary};

use crate::{
    TrainingError,
    backend::Backend,
    block::DropoutPlan,
    checkpoint::{self, Best, TrainerState},
    data::{Batch, BatchSource, Cursor},
    export::Artifact,
    model::{LocalSink, Model},
    optimizer::{AdamW, gradient_norm},
    params::ParamStore,
    recipe::TrainingOptions,
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

/// A training run.
pub struct Trainer<B: Backend> {
    model: Model<B>,
    store: ParamStore<B>,
    setup: TrainerSetup,
    optimizer: AdamW,
    schedule: Schedule,
    total_steps: u64,
    state: TrainerState,
    /// Set from outside (Ctrl-C): the run writes a checkpoint and ends after the update in flight.
    stop: Arc<AtomicBool>,
    clock: Box<dyn Fn() -> Duration + Send>,
}

/// One update's figures.
struct Update {
    loss: f64,
    labels: usize,
    tokens: usize,
    grad_norm: f64,
    learning_rate: f64,
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
            state: TrainerState::new(setup.run),
            stop: Arc::default(),
            clock: Box::new(move || start.elapsed()),
            setup,
        })
    }

    /// Watches this flag: once set, the run writes a checkpoint and ends.
    pub fn with_stop(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = stop;
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

    /// Updates in the whole run.
    pub fn total_steps(&self) -> u64 {
        self.total_steps
    }

    /// Goes to the latest checkpoint of the run; returns the updates already done, 0 if there is none.
    ///
    /// # Errors
    /// If the latest checkpoint is broken or belongs to another run.
    pub fn resume(&mut self) -> Result<u64, TrainingError> {
        let Some(step) = checkpoint::steps(&self.setup.output).pop() else { return Ok(0) };
        let folder = checkpoint::folder(&self.setup.output, step);
        let state = checkpoint::read_state(&folder, self.setup.run)?;
        checkpoint::load(self.model.backend(), &mut self.store, &folder, false)?;
        self.setup.train.seek(state.cursor);
        self.state = state;
        Ok(step)
    }

    /// Runs to the end, or until stopped; then writes the result.
    ///
    /// # Errors
    /// If loss or gradient stop being numbers, or a file cannot be written. What was saved before stays.
    pub fn run(&mut self, progress: &mut dyn Progress) -> Result<TrainingSummary, TrainingError> {
        let output = self.setup.output.clone();
        fs::create_dir_all(&output).map_err(TrainingError::io("create", &output))?;
        let mut log = MetricLog::open(&output.join("metrics.jsonl"), self.state.step)?;
        progress.started(self.state.step, self.total_steps);
        let (mut busy, mut tokens, first) = (Duration::ZERO, 0u64, self.state.step);
        let mut last_loss = f64::NAN;
        while self.state.step < self.total_steps {
            if self.stop.load(Ordering::Relaxed) {
                self.save(progress)?;
                return Ok(self.summary(true, last_loss, tokens, busy));
            }
            let began = (self.clock)();
            let update = self.update()?;
            busy += (self.clock)().saturating_sub(began);
            tokens += update.tokens as u64;
            last_loss = update.loss / update.labels.max(1) as f64;
            let rate = tokens as f64 / busy.as_secs_f64().max(1e-9);
            let (done, left) = (self.state.step - first, self.total_steps - self.state.step);
            progress.step(&StepReport {
                step: self.state.step,
                total_steps: self.total_steps,
                loss: last_loss,
                learning_rate: update.learning_rate,
                grad_norm: update.grad_norm,
                tokens: self.state.tokens,
                tokens_per_second: rate,
                seconds_left: busy.as_secs_f64() / done as f64 * left as f64,
            });
            let step = self.state.step;
            let at = |every: u64| every > 0 && step.is_multiple_of(every);
            let last = left == 0;
            if last || at(self.setup.options.log_steps) {
                let pending = std::mem::take(&mut self.state.pending);
                log.append(&MetricLine {
                    step: self.state.step,
                    epoch: self.epoch(),
                    loss: Some(pending.loss / pending.labels.max(1) as f64),
                    learning_rate: Some(update.learning_rate),
                    grad_norm: Some(update.grad_norm),
                    tokens: Some(self.state.tokens),
                    tokens_per_second: Some(rate),
                    ..MetricLine::default()
                })?;
            }
            let interval = self.setup.options.eval_steps.unwrap_or_else(|| self.total_steps.div_ceil(10));
            let evaluate = last || self.setup.options.eval_steps.is_some_and(at);
            if evaluate && !self.setup.validation.is_empty() {
                self.evaluate_and_log(&mut log, progress)?;
            }
            if last || at(interval) {
                self.save(progress)?;
            }
        }
        self.finish()?;
        Ok(self.summary(false, last_loss, tokens, busy))
    }

    /// Passes over the data done, with the fraction of the current one.
    fn epoch(&self) -> f64 {
        let Cursor { epoch, index } = self.setup.train.cursor();
        epoch as f64 + index as f64 / self.setup.train.batches_per_epoch().max(1) as f64
    }

    /// The micro-batches of the next update: an update never spans two epochs.
    fn window(&mut self) -> Vec<Batch> {
        let mut window = Vec::new();
        for _ in 0..self.setup.options.gradient_accumulation_steps.max(1) {
            window.extend(self.setup.train.next_batch());
            if self.setup.train.cursor().index >= self.setup.train.batches_per_epoch() {
                break;
            }
        }
        window
    }

    /// Sums loss and gradients over a window.
    fn accumulate(&mut self, window: &[Batch]) -> f64 {
        let labels: usize = window.iter().map(Batch::num_labels).sum();
        self.store.clear_grads(self.model.backend());
        let ParamStore { values, grads, .. } = &mut self.store;
        let mut sink = LocalSink::<B>(grads);
        let mut loss = 0.0;
        for (micro_batch, batch) in window.iter().enumerate() {
            let (seed, step) = (self.setup.options.seed, self.state.step);
            let dropout = DropoutPlan::new(seed, step, micro_batch as u64, self.setup.dropout);
            loss += self.model.forward_backward(batch, values, labels.max(1), dropout, &mut sink);
        }
        loss
    }

    fn update(&mut self) -> Result<Update, TrainingError> {
        let window = self.window();
        let labels: usize = window.iter().map(Batch::num_labels).sum();
        let tokens: usize = window.iter().map(Batch::len).sum();
        let loss = self.accumulate(&window);
        let grad_norm = gradient_norm(self.model.backend(), &self.store);
        for (what, value) in [("loss", loss), ("gradient norm", grad_norm)] {
            if !value.is_finite() {
                return Err(TrainingError::NonFinite { what, step: self.state.step + 1, value, kept: self.kept() });
            }
        }
        let learning_rate = self.setup.options.learning_rate * self.schedule.factor(self.state.step);
        let number = self.state.step + 1;
        self.optimizer.update(self.model.backend(), &mut self.store, number, learning_rate, grad_norm);
        self.state.step = number;
        self.state.cursor = self.setup.train.cursor();
        self.state.tokens += tokens as u64;
        self.state.pending.loss += loss;
        self.state.pending.labels += labels as u64;
        Ok(Update { loss, labels, tokens, grad_norm, learning_rate })
    }

    /// Which checkpoint there is, in words.
    fn kept(&self) -> String {
        match checkpoint::steps(&self.setup.output).pop() {
            Some(step) => format!("the checkpoint of step {step} is kept"),
            None => "no checkpoint had been written".to_owned(),
        }
    }

    /// The mean loss over the validation labels.
    pub fn evaluate(&self, progress: &mut dyn Progress) -> f64 {
        let (mut loss, mut labels) = (0.0, 0usize);
        let total = self.setup.validation.len();
        for (done, batch) in self.setup.validation.iter().enumerate() {
            progress.evaluating(done, total);
            loss += self.model.loss(batch, &self.store.values);
            labels += batch.num_labels();
        }
        progress.evaluating(total, total);
        loss / labels.max(1) as f64
    }

    fn evaluate_and_log(&mut self, log: &mut MetricLog, progress: &mut dyn Progress) -> Result<(), TrainingError> {
        let (step, eval_loss) = (self.state.step, self.evaluate(progress));
        if !eval_loss.is_finite() {
            return Err(TrainingError::NonFinite {
                what: "validation loss",
                step,
                value: eval_loss,
                kept: self.kept(),
            });
        }
        progress.evaluated(step, eval_loss);
        log.append(&MetricLine {
            step,
            epoch: self.epoch(),
            eval_loss: Some(eval_loss),
            eval_perplexity: Some(eval_loss.exp()),
            ..MetricLine::default()
        })?;
        if self.state.best.is_none_or(|best| eval_loss < best.eval_loss) {
            self.state.best = Some(Best { step, eval_loss });
        }
        Ok(())
    }

    /// Writes a checkpoint; only it and the best one are kept.
    fn save(&mut self, progress: &mut dyn Progress) -> Result<(), TrainingError> {
        let (setup, backend) = (&self.setup, self.model.backend());
        let folder = checkpoint::save(backend, &mut self.store, &setup.artifact, &self.state, &setup.output)?;
        let keep: Vec<u64> = [self.state.step].into_iter().chain(self.state.best.map(|best| best.step)).collect();
        checkpoint::prune(&setup.output, &keep)?;
        progress.saved(&folder);
        Ok(())
    }

    /// Writes the result: the best parameters where the recipe says so and there is a better one than the last.
    fn finish(&mut self) -> Result<(), TrainingError> {
        let best = self.state.best.filter(|best| self.setup.options.save_best && best.step != self.state.step);
        if let Some(best) = best {
            let folder = checkpoint::folder(&self.setup.output, best.step);
            checkpoint::load(self.model.backend(), &mut self.store, &folder, true)?;
        }
        self.setup.artifact.write(self.model.backend(), &self.store, &self.setup.output)
    }

    fn summary(&self, interrupted: bool, loss: f64, tokens: u64, busy: Duration) -> TrainingSummary {
        TrainingSummary {
            steps: self.state.step,
            total_steps: self.total_steps,
            tokens: self.state.tokens,
            trainable_parameters: self.store.len(),
            loss,
            best: self.state.best,
            seconds: busy.as_secs_f64(),
            tokens_per_second: tokens as f64 / busy.as_secs_f64().max(1e-9),
            interrupted,
        }
    }

    /// What the run will take: one window is computed, without an update, to measure the speed.
    pub fn estimate(&mut self) -> Estimate {
        let cursor = self.setup.train.cursor();
        let window = self.window();
        self.setup.train.seek(cursor);
        let tokens: usize = window.iter().map(Batch::len).sum();
        let began = (self.clock)();
        self.accumulate(&window);
        self.store.clear_grads(self.model.backend());
        let seconds = (self.clock)().saturating_sub(began).as_secs_f64();
        let per_epoch = self.setup.options.steps_per_epoch(self.setup.train.batches_per_epoch()).max(1);
        let epochs = self.total_steps as f64 / per_epoch as f64;
        let total_tokens = self.setup.train.tokens_per_epoch() as f64 * epochs;
        let rate = tokens as f64 / seconds.max(1e-9);
        Estimate {
            steps: self.total_steps,
            warmup_steps: self.schedule.warmup_steps,
            epochs,
            tokens: total_tokens as u64,
            trainable_parameters: self.store.len(),
            parameters: self.model.config().num_parameters(),
            memory_bytes: self.model.backend().peak_bytes(),
            tokens_per_second: rate,
            seconds: total_tokens / rate.max(1e-9),
        }
    }
}
