//! A training that is watched, and whose tasks are evaluated on the way.

use std::{collections::BTreeMap, path::Path};

use harness_training::telemetry::{Progress, StepReport};

use super::tasks::TaskEvaluator;
use crate::events::TrainingEvents;

/// Tells of a training, and evaluates the recipe's tasks when it is time.
pub(super) struct Watched<'a> {
    pub(super) events: Box<dyn TrainingEvents>,
    pub(super) tasks: Option<TaskEvaluator<'a>>,
}

impl Progress for Watched<'_> {
    fn started(&mut self, done: u64, total_steps: u64) {
        self.events.started(done, total_steps);
    }

    fn step(&mut self, report: &StepReport) {
        self.events.step(report);
    }

    fn evaluated(&mut self, step: u64, eval_loss: f64, perplexity: Option<f64>) {
        self.events.validated(step, eval_loss, perplexity);
    }

    fn tasks(
        &mut self,
        step: u64,
        folder: &Path,
        _: &[String],
        _: Option<f64>,
    ) -> Result<BTreeMap<String, f64>, String> {
        let Some(tasks) = &mut self.tasks else { return Ok(BTreeMap::new()) };
        let metrics = tasks.evaluate(step, folder).map_err(|error| error.message())?;
        self.events.evaluated(step, &metrics);
        Ok(metrics)
    }

    fn saved(&mut self, checkpoint: &Path) {
        self.events.saved(checkpoint);
    }
}
