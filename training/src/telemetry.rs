//! What a run tells while it goes on: a log that grows line by line, and callbacks for progress.

mod line;
mod tensorboard;

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

pub use line::MetricLine;
pub use tensorboard::EventFile;

use crate::TrainingError;

/// The file `metrics.jsonl`; every line is on disk before the run goes on.
#[derive(Debug)]
pub struct MetricLog {
    path: PathBuf,
    file: File,
    events: Option<(EventFile, fn() -> f64)>,
}

impl MetricLog {
    /// Opens the log of a run that has done `step` updates, and the evaluations up to that after update `evaluated`: later
    /// lines, which will be written again, are dropped.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn open(path: &Path, step: u64, evaluated: u64) -> Result<Self, TrainingError> {
        let is_done = |line: &&MetricLine| match line.eval_loss.is_some() || !line.tasks.is_empty() {
            true => line.step <= evaluated,
            false => line.step <= step,
        };
        let kept: String = read_lines(path)?.iter().filter(is_done).filter(|_| step > 0).map(to_text).collect();
        crate::files::write_file(path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(path).map_err(TrainingError::io("open", path))?;
        Ok(Self { path: path.to_owned(), file, events: None })
    }

    /// Writes the same as events for TensorBoard, into a folder beside the log; `now` gives seconds since 1970.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn with_events(mut self, now: fn() -> f64) -> Result<Self, TrainingError> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        self.events = Some((EventFile::create(folder, &read_lines(&self.path)?, now())?, now));
        Ok(self)
    }

    /// Appends a line.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append(&mut self, line: &MetricLine) -> Result<(), TrainingError> {
        let text = to_text(line);
        self.file.write_all(text.as_bytes()).map_err(TrainingError::io("write", &self.path))?;
        match &mut self.events {
            Some((events, now)) => events.append(line, now()),
            None => Ok(()),
        }
    }
}

fn to_text(line: &MetricLine) -> String {
    format!("{}\n", serde_json::json!(line))
}

/// The lines of a log; none if there is no file. A last line that a crash cut short is left out.
///
/// # Errors
/// If the file cannot be read.
pub fn read_lines(path: &Path) -> Result<Vec<MetricLine>, TrainingError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(TrainingError::io("read", path)(error)),
    }
}

/// One update, for a progress display.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Updates done.
    pub step: u64,
    /// Updates in the whole run.
    pub total_steps: u64,
    /// Mean loss over the labels of this update.
    pub loss: f64,
    /// Its learning rate.
    pub learning_rate: f64,
    /// Global norm of its gradient before clipping.
    pub grad_norm: f64,
    /// Tokens seen since the beginning.
    pub tokens: u64,
    /// Tokens a second since this process began, evaluation not counted.
    pub tokens_per_second: f64,
    /// Seconds until the last update, evaluation not counted.
    pub seconds_left: f64,
    /// Whether the loss lies far above those before.
    pub spike: bool,
    /// Why the update was left out, if it was.
    pub left_out: Option<LeftOut>,
    /// Updates left out since the beginning.
    pub skipped: u64,
    /// Losses far above those before, since the beginning.
    pub spikes: u64,
}

/// Why an update was left out: the parameters are what they were before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LeftOut {
    /// The scaled gradients did not fit into half precision.
    Overflow {
        /// The loss scale from now on.
        scale: f64,
    },
    /// The loss lay far above those before, and `skip_spikes` is set.
    Spike,
}

/// Called while a run goes on; all methods do nothing unless defined.
pub trait Progress {
    /// The run begins, or goes on after `done` updates.
    fn started(&mut self, done: u64, total_steps: u64) {
        let _ = (done, total_steps);
    }
    /// An update is done.
    fn step(&mut self, report: &StepReport) {
        let _ = report;
    }
    /// A micro-batch of the present update is computed: `done` of `total`.
    fn micro_batch(&mut self, done: usize, total: usize) {
        let _ = (done, total);
    }
    /// Evaluates tasks on the adapter or model in `folder`; the metrics by name. `limit` is the most documents of a task, or
    /// below 1 a fraction.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn tasks(
        &mut self,
        step: u64,
        folder: &Path,
        tasks: &[String],
        limit: Option<f64>,
    ) -> Result<BTreeMap<String, f64>, String> {
        let _ = (step, folder, tasks, limit);
        Ok(BTreeMap::new())
    }
    /// Validation batches: `done` of `total`.
    fn evaluating(&mut self, done: usize, total: usize) {
        let _ = (done, total);
    }
    /// An evaluation is done; losses of preferences have no perplexity.
    fn evaluated(&mut self, step: u64, eval_loss: f64, perplexity: Option<f64>) {
        let _ = (step, eval_loss, perplexity);
    }
    /// A checkpoint is written.
    fn saved(&mut self, folder: &Path) {
        let _ = folder;
    }
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {}
