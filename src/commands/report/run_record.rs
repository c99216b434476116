//! One finished run as its folder tells it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use harness_training::{
    TrainingRecord,
    telemetry::{MetricLine, read_lines},
    trainer::TrainingSummary,
};
use serde::Serialize;

use crate::failure::Failure;

/// What a report says of a run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RunRecord {
    /// Name of the folder.
    pub(super) name: String,
    /// Where it lies.
    pub(super) folder: PathBuf,
    /// Name of the recipe.
    pub(super) recipe: String,
    /// Names what was trained on what: the same for any number of ranks.
    pub(super) run: String,
    /// The base model's name.
    pub(super) base: Option<String>,
    /// The type that frozen weights were stored in.
    pub(super) weights: Option<String>,
    /// What ranks shared.
    pub(super) sharding: Option<String>,
    /// The end of the run.
    pub(super) summary: TrainingSummary,
    /// Metrics of tasks at the last evaluation.
    pub(super) tasks: BTreeMap<String, f64>,
    /// The log.
    #[serde(skip)]
    pub(super) lines: Vec<MetricLine>,
}

impl RunRecord {
    /// The run in a folder, or those in its folders, by name.
    ///
    /// # Errors
    /// If a record cannot be read.
    pub(super) fn find(folder: &Path) -> Result<Vec<Self>, Failure> {
        if folder.join(TrainingRecord::FILE).is_file() {
            return Ok(vec![Self::read(folder)?]);
        }
        let entries =
            std::fs::read_dir(folder).map_err(|e| Failure::usage(format!("cannot read {}: {e}", folder.display())))?;
        let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        folders.retain(|path| path.join(TrainingRecord::FILE).is_file());
        folders.sort_by_key(|path| natural(&path.to_string_lossy()));
        folders.iter().map(|folder| Self::read(folder)).collect()
    }

    fn read(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join(TrainingRecord::FILE);
        let wrong = |why: &str| Failure::usage(format!("{}: {why}", path.display()));
        let record = TrainingRecord::read_file(&path)?.ok_or_else(|| wrong("there is no such file"))?;
        let summary = record.summary.clone().ok_or_else(|| wrong("no summary of a finished run"))?;
        let lines = read_lines(&folder.join("metrics.jsonl"))?;
        let last =
            |name: &String| Path::new(name).file_name().map_or(name.clone(), |n| n.to_string_lossy().into_owned());
        Ok(Self {
            name: folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            folder: folder.to_owned(),
            recipe: record.recipe_name().unwrap_or_default().to_owned(),
            run: record.run.map(|run| run.to_string()).unwrap_or_default(),
            base: record.base.as_ref().and_then(|base| base.name.as_ref()).map(last),
            weights: record.weights_stored_as.clone(),
            sharding: record.sharding.filter(|_| summary.world_size > 1).map(|kind| kind.name().to_owned()),
            tasks: lines.iter().rev().find(|line| !line.tasks.is_empty()).map(|l| l.tasks.clone()).unwrap_or_default(),
            summary,
            lines,
        })
    }

    /// The run that this one's speed is set against, unless one is named: the same training on the fewest ranks.
    pub(super) fn single<'a>(&self, runs: &'a [Self]) -> Option<&'a Self> {
        let same = runs.iter().filter(|other| other.run == self.run);
        same.min_by_key(|other| other.summary.world_size)
    }

    /// Mean loss of the last line of the log.
    pub(super) fn loss(&self) -> Option<f64> {
        self.lines.iter().rev().find_map(|line| line.loss)
    }

    /// The validation loss of what was kept.
    pub(super) fn eval_loss(&self) -> Option<f64> {
        self.summary.best.map(|best| best.eval_loss).or(self.summary.eval_loss)
    }

    /// The first task metric whose name holds a word.
    pub(super) fn task_metric(&self, word: &str) -> Option<f64> {
        self.tasks.iter().find(|(name, _)| name.to_lowercase().contains(word)).map(|(_, value)| *value)
    }
}

/// A key that sorts numbers in names by their value: `r8` before `r32`.
fn natural(name: &str) -> Vec<(String, u64)> {
    let mut parts: Vec<(String, u64)> = vec![(String::new(), 0)];
    let mut digits = String::new();
    for c in name.chars().chain(['\0']) {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        if let (Ok(number), Some(part)) = (digits.parse(), parts.last_mut()) {
            part.1 = number;
            parts.push((String::new(), 0));
        }
        digits.clear();
        if let Some(part) = parts.last_mut() {
            part.0.push(c);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::natural;

    #[test]
    fn numbers_in_names_are_numbers() {
        let mut names = ["r32-2", "r8-16", "r8-2-none", "b", "r8-2-fsdp", "r8"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["b", "r8", "r8-2-fsdp", "r8-2-none", "r8-16", "r32-2"]);
    }
}
