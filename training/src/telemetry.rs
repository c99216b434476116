//! What a run tells while it goes on: a log that grows line by line, and callbacks for progress.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::TrainingError;

/// One line of `metrics.jsonl`: either of training (`loss`) or of evaluation (`eval_loss`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MetricLine {
    /// Updates done.
    pub step: u64,
    /// Passes over the training rows done.
    pub epoch: f64,
    /// Mean loss over the labels since the last line, natural logarithm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Learning rate of the last update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Global norm of the last update's gradient, before clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// Tokens seen since the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Tokens a second since this process began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// Mean loss over the validation labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
    /// `exp(eval_loss)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_perplexity: Option<f64>,
}

/// The file `metrics.jsonl`; every line is on disk before the run goes on.
#[derive(Debug)]
pub struct MetricLog {
    path: PathBuf,
    file: File,
}

impl MetricLog {
    /// Opens the log of a run that has done `step` updates: later lines, which will be written again, are dropped.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn open(path: &Path, step: u64) -> Result<Self, TrainingError> {
        let kept: String = read_lines(path)?.iter().filter(|line| line.step <= step && step > 0).map(to_text).collect();
        crate::export::write_file(path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(path).map_err(TrainingError::io("open", path))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append(&mut self, line: &MetricLine) -> Result<(), TrainingError> {
        let text = to_text(line);
        self.file.write_all(text.as_bytes()).map_err(TrainingError::io("write", &self.path))
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
    /// Validation batches: `done` of `total`.
    fn evaluating(&mut self, done: usize, total: usize) {
        let _ = (done, total);
    }
    /// An evaluation is done.
    fn evaluated(&mut self, step: u64, eval_loss: f64) {
        let _ = (step, eval_loss);
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
