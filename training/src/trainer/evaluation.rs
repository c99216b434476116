//! Evaluation during training: the loss on validation rows, tasks, and when to stop.

use std::{collections::BTreeMap, fs};

use super::{Preference, Trainer};
use crate::{
    TrainingError,
    backend::Backend,
    checkpoint::Best,
    model::MicroStep,
    parallel::all_gather_f64,
    params::ParamStore,
    telemetry::{MetricLine, MetricLog, Progress},
};

impl<B: Backend> Trainer<B> {
    /// Whether the present step is to be evaluated and is not yet.
    pub(super) fn evaluation_is_due(&self) -> bool {
        let (options, step) = (&self.setup.options, self.state.step);
        if step == 0 || self.state.evaluated >= step {
            return false;
        }
        let last = step >= self.total_steps;
        last || options.eval_steps.is_some_and(|every| step.is_multiple_of(every))
    }

    /// Whether too many evaluations have passed without a better one.
    pub(super) fn is_stopped_early(&self) -> bool {
        self.setup.options.early_stopping_patience.is_some_and(|patience| self.state.without_gain >= patience)
    }

    /// The mean loss over the validation labels.
    ///
    /// # Errors
    /// If the weights of a block cannot be had, memory runs out, the device or another rank fails, or a run of one rank is
    /// told to stop.
    pub fn evaluate(&self, progress: &mut dyn Progress) -> Result<f64, TrainingError> {
        let validation = &self.setup.validation;
        let (rank, world, total) = (self.ranks.rank(), self.ranks.world(), validation.len());
        let mut losses = vec![];
        for round in 0..total.div_ceil(world) {
            if self.is_first() {
                progress.evaluating(round * world, total);
            }
            match validation.get(round * world + rank) {
                Some(batch) => losses.push(match &self.preference {
                    None => self.model.loss(batch, &self.store.values)?,
                    Some(Preference { beta, reference }) => {
                        let step = MicroStep::mean(1);
                        self.model.preference(batch, &self.store.values, reference, *beta, &step, None)?
                    }
                }),
                None => {
                    for _ in 0..1 + usize::from(self.preference.is_some()) {
                        self.model.participate(&self.store.values, None)?;
                    }
                }
            }
        }
        if self.is_first() {
            progress.evaluating(total, total);
        }
        let labels: usize = validation.iter().map(|batch| self.units(batch)).sum();
        if world > 1 {
            let all = all_gather_f64(&*self.ranks, &losses)?;
            // In the order of the batches, as one rank would add them up.
            losses = (0..total).filter_map(|i| all.get(i % world)?.get(i / world).copied()).collect();
        }
        Ok(losses.iter().sum::<f64>() / labels.max(1) as f64)
    }

    /// Evaluates the present step and remembers the best; `false` if the run is told to stop meanwhile.
    pub(super) fn evaluate_and_log(
        &mut self,
        log: Option<&mut MetricLog>,
        progress: &mut dyn Progress,
    ) -> Result<bool, TrainingError> {
        let step = self.state.step;
        let before = self.state.clone();
        let mut line = MetricLine { step, epoch: self.epoch(), ..MetricLine::default() };
        if !self.setup.validation.is_empty() {
            let eval_loss = match self.evaluate(progress) {
                Err(TrainingError::Stopped) => return Ok(false),
                loss => loss?,
            };
            if !eval_loss.is_finite() {
                let kept = self.kept();
                return Err(TrainingError::NonFinite { what: "validation loss", step, value: eval_loss, kept });
            }
            line.eval_loss = Some(eval_loss);
            // The loss of preferences is no log-probability of a token.
            line.eval_perplexity = self.preference.is_none().then(|| eval_loss.exp());
            if self.is_first() {
                progress.evaluated(step, eval_loss, line.eval_perplexity);
            }
            self.judge(step, eval_loss);
        }
        if !self.setup.options.eval_tasks.is_empty() {
            let whole = self.whole()?;
            let mut stopped = false;
            if self.is_first() {
                match self.evaluate_tasks(whole.as_ref().unwrap_or(&self.store), progress) {
                    Ok(metrics) => line.tasks = metrics,
                    Err(_) if self.stop.is_requested() => stopped = true,
                    Err(error) => return Err(error),
                }
            }
            if self.agreed(stopped)? {
                // As if this evaluation had not begun: the loss counts when it is done as a whole.
                self.state = before;
                return Ok(false);
            }
        }
        if let Some(log) = log.filter(|_| line.eval_loss.is_some() || !line.tasks.is_empty()) {
            log.append(&line)?;
        }
        Ok(true)
    }

    /// Remembers a loss if it is the best, and for how long there was no better one.
    fn judge(&mut self, step: u64, eval_loss: f64) {
        self.state.eval_loss = Some(eval_loss);
        let threshold = self.setup.options.early_stopping_threshold;
        match self.state.best {
            Some(best) if eval_loss >= best.eval_loss - threshold => self.state.without_gain += 1,
            _ => self.state.without_gain = 0,
        }
        if self.state.best.is_none_or(|best| eval_loss < best.eval_loss) {
            self.state.best = Some(Best { step, eval_loss });
        }
    }

    /// Writes what is trained so far aside and has tasks evaluated on it.
    fn evaluate_tasks(
        &self,
        store: &ParamStore<B>,
        progress: &mut dyn Progress,
    ) -> Result<BTreeMap<String, f64>, TrainingError> {
        let folder = self.setup.output.join("partial-evaluation");
        fs::create_dir_all(&folder).map_err(TrainingError::io("create", &folder))?;
        self.setup.artifact.write(self.model.backend(), store, &folder)?;
        let options = &self.setup.options;
        let metrics = progress.tasks(self.state.step, &folder, &options.eval_tasks, options.eval_tasks_limit);
        fs::remove_dir_all(&folder).map_err(TrainingError::io("remove", &folder))?;
        metrics.map_err(TrainingError::Evaluation)
    }
}
