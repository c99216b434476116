//! Results of another tool, as they are kept below `HARNESS_HOME/imports`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use harness_core::{Digest, DocId, MetricKey, SampleScore};
use harness_metrics::{
    Statistic,
    comparison::{Aggregate, Column, ModelFacts, Scale, TaskFacts},
};
use harness_store::{DataEntry, atomic_write};
use serde::{Deserialize, Serialize};

use super::super::Failure;

/// Version of the file.
const VERSION: u32 = 1;

/// The results of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::commands) struct ImportRecord {
    version: u32,
    /// Name under which it is compared.
    pub name: String,
    /// What wrote the results.
    pub format: String,
    /// The model as the tool named it, where it says so.
    pub model: Option<String>,
    /// The files read, with their hashes.
    pub files: Vec<DataEntry>,
    /// What the results were made under, by name.
    pub conditions: BTreeMap<String, String>,
    /// The tasks.
    pub tasks: Vec<ImportedTask>,
}

/// The results of one task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::commands) struct ImportedTask {
    /// Its id.
    pub id: String,
    /// Name in tables, where it has one.
    pub alias: Option<String>,
    /// What its results were made under, by name.
    pub conditions: BTreeMap<String, String>,
    /// The tool's own ids of the documents.
    pub labels: BTreeMap<DocId, String>,
    /// Clusters of dependent documents.
    pub clusters: BTreeMap<DocId, String>,
    /// Hash of all outputs in order of the documents, where they are known.
    pub outputs: Option<Digest>,
    /// The metrics.
    pub metrics: Vec<ImportedMetric>,
}

/// The results of one metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::commands) struct ImportedMetric {
    /// Metric and filter.
    pub key: MetricKey,
    /// How summed statistics become the value.
    pub statistic: Statistic,
    /// Whether larger values are better.
    pub higher_is_better: bool,
    /// Whether it stands for the task.
    pub primary: bool,
    /// Additive statistics by document; repeats of a document follow each other.
    pub scores: Vec<(DocId, Vec<f64>)>,
    /// Whether documents have several scores.
    pub repeated: bool,
    /// What is known where there are no documents.
    pub aggregate: Option<Aggregate>,
}

impl ImportedMetric {
    /// What the values are in: shares where all lie between 0 and 1.
    pub(in crate::commands) fn scale(&self) -> Scale {
        if let Some(scale) = self.statistic.scale() {
            return scale;
        }
        let unit = |value: f64| (0.0..=1.0).contains(&value);
        let all = self.scores.iter().all(|(_, stats)| unit(stats[0] / stats[1].max(1.0)));
        let raw = matches!(self.key.metric.as_str(), "perplexity" | "brier_score");
        if all && !raw && self.aggregate.is_none_or(|known| unit(known.value)) { Scale::Fraction } else { Scale::Raw }
    }

    /// The column of a comparison.
    pub(in crate::commands) fn column(&self, model: &str) -> Column {
        let score = |(doc, stats): &(DocId, Vec<f64>)| SampleScore {
            doc: *doc,
            key: self.key.clone(),
            stats: stats.clone(),
            parsed: true,
        };
        Column {
            model: model.to_owned(),
            scores: self.scores.iter().map(score).collect(),
            repeated: self.repeated,
            aggregate: self.aggregate,
        }
    }
}

impl ImportRecord {
    /// A record without tasks.
    pub(super) fn new(name: &str, format: &str, files: Vec<DataEntry>) -> Self {
        let (name, format) = (name.to_owned(), format.to_owned());
        Self { version: VERSION, name, format, model: None, files, conditions: BTreeMap::new(), tasks: Vec::new() }
    }

    /// Where the results of a name lie.
    pub(in crate::commands) fn path(home: &Path, name: &str) -> PathBuf {
        home.join("imports").join(format!("{name}.json"))
    }

    /// The results of a name, if there are any.
    ///
    /// # Errors
    /// If the file cannot be read or is of another version.
    pub(in crate::commands) fn find(home: &Path, name: &str) -> Result<Option<Self>, Failure> {
        let plain = !name.is_empty() && !name.contains(['/', '\\']) && !name.starts_with('.');
        let path = Self::path(home, name);
        if !plain || !path.is_file() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path)
            .map_err(|e| Failure::work(format!("cannot read {}: {e}", path.display())))?;
        let record: Self = serde_json::from_str(&text)
            .map_err(|e| Failure::usage(format!("{}: {e}; import the results again", path.display())))?;
        if record.version != VERSION {
            return Err(Failure::usage(format!(
                "{}: version {}, expected {VERSION}; import the results again",
                path.display(),
                record.version
            )));
        }
        Ok(Some(record))
    }

    /// Writes the record.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn write(&self, home: &Path) -> Result<PathBuf, Failure> {
        let path = Self::path(home, &self.name);
        let text = serde_json::to_string(self).map_err(|e| Failure::work(format!("cannot write the import: {e}")))?;
        atomic_write(&path, text + "\n")?;
        Ok(path)
    }

    /// Hash of the content of all files.
    pub(in crate::commands) fn digest(&self) -> Digest {
        Digest::of_json(&self.files.iter().map(|file| file.hash).collect::<Vec<_>>())
    }

    /// A task by its id.
    pub(in crate::commands) fn task(&self, id: &str) -> Option<&ImportedTask> {
        self.tasks.iter().find(|task| task.id == id)
    }

    /// What is known of the answers.
    pub(in crate::commands) fn facts(&self) -> ModelFacts {
        let facts = |task: &ImportedTask| TaskFacts {
            outputs: task.outputs,
            requests: task.labels.len(),
            conditions: task.conditions.clone(),
            ..TaskFacts::default()
        };
        ModelFacts {
            model: self.name.clone(),
            source: Some(self.digest()),
            conditions: self.conditions.clone(),
            tasks: self.tasks.iter().map(|task| (task.id.clone(), facts(task))).collect(),
            ..ModelFacts::default()
        }
    }
}
