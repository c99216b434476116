//! What long work tells of itself while it goes on.

use std::{collections::BTreeMap, path::Path, time::Instant};

use harness_training::telemetry::StepReport;

/// Someone who watches. All methods do nothing unless they are written.
pub trait Events: Send + Sync {
    /// A sentence that a person should read now: a warning, or what was chosen for them.
    fn note(&self, text: &str) {
        let _ = text;
    }

    /// A stage of so many steps begins; of 0 if nobody knows how many there are.
    fn stage(&self, title: &str, steps: u64) -> Box<dyn StageEvents> {
        let _ = (title, steps);
        Box::new(Unwatched)
    }

    /// The training of the run of this name begins.
    fn training(&self, name: &str) -> Box<dyn TrainingEvents> {
        let _ = name;
        Box::new(Unwatched)
    }
}

/// Someone who watches one stage.
pub trait StageEvents {
    /// One step is done.
    fn step(&self) {}

    /// The stage is done; `summary` says what was done in it, if there is something to say.
    fn finished(&self, summary: &str, seconds: f64) {
        let _ = (summary, seconds);
    }
}

/// Someone who watches a training.
pub trait TrainingEvents {
    /// It begins, or goes on after `done` of `total` updates.
    fn started(&mut self, done: u64, total: u64) {
        let _ = (done, total);
    }

    /// An update is done.
    fn step(&mut self, report: &StepReport) {
        let _ = report;
    }

    /// The validation loss was measured.
    fn validated(&mut self, step: u64, loss: f64, perplexity: Option<f64>) {
        let _ = (step, loss, perplexity);
    }

    /// Tasks were evaluated: their metrics by name.
    fn evaluated(&mut self, step: u64, metrics: &BTreeMap<String, f64>) {
        let _ = (step, metrics);
    }

    /// A checkpoint was written.
    fn saved(&mut self, checkpoint: &Path) {
        let _ = checkpoint;
    }

    /// It is over; `summary` says what was done.
    fn finished(&mut self, summary: &str) {
        let _ = summary;
    }
}

/// Nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Events for Unwatched {}
impl StageEvents for Unwatched {}
impl TrainingEvents for Unwatched {}

/// A stage that is going on.
pub struct Stage {
    events: Box<dyn StageEvents>,
    start: Instant,
}

impl Stage {
    pub(crate) fn new(events: Box<dyn StageEvents>) -> Self {
        Self { events, start: Instant::now() }
    }

    /// One step more.
    pub fn step(&self) {
        self.events.step();
    }

    /// Seconds since the beginning.
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Ends the stage.
    pub fn finish(self, summary: &str) {
        self.events.finished(summary, self.seconds());
    }
}
