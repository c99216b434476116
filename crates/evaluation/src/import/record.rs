//! Results of another tool, as they are kept below `HARNESS_HOME/imports`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use harness_core::{Digest, DocId, MetricKey, SampleScore, file_name};
use harness_metrics::{
    Metric, Statistic,
    comparison::{Aggregate, Caveat, Column, Coverage, JudgeFinding, ModelFacts, Scale, TaskFacts},
    stats::Range,
};
use harness_store::{DataEntry, atomic_write};
use serde::{Deserialize, Serialize};

use crate::EvaluationError;

/// Version of the file.
const VERSION: u32 = 1;

/// The results of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportRecord {
    version: u32,
    /// Name under which it is compared.
    pub name: String,
    /// What wrote the results.
    pub format: String,
    /// The model as the tool named it, where it says so.
    pub model: Option<String>,
    /// The files read, with their hashes.
    pub files: Vec<DataEntry>,
    /// What the model was trained with, by name, where `--facts` tells it.
    #[serde(default)]
    pub training: BTreeMap<String, String>,
    /// What the results were made under, by name.
    pub conditions: BTreeMap<String, String>,
    /// The tasks.
    pub tasks: Vec<ImportedTask>,
}

/// The results of one task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImportedTask {
    /// Its id.
    pub id: String,
    /// The tool's other name of it, where it has one.
    pub alias: Option<String>,
    /// Whether it is a group, of whose members there are results too.
    pub is_group: bool,
    /// The group directly above, if any.
    pub group: Option<String>,
    /// What its results were made under, by name.
    pub conditions: BTreeMap<String, String>,
    /// The tool's own ids of the documents.
    pub labels: BTreeMap<DocId, String>,
    /// Clusters of dependent documents.
    pub clusters: BTreeMap<DocId, String>,
    /// Hash of all outputs in order of the documents, where they are known.
    pub outputs: Option<Digest>,
    /// Number of documents that the benchmark has, where the file tells it.
    pub available: Option<usize>,
    /// What verdicts of a judge show of it, where there are some.
    pub judged: Option<Judged>,
    /// The metrics.
    pub metrics: Vec<ImportedMetric>,
}

impl ImportedTask {
    /// What the values of the main metric are between, as a condition: as the format or the call says, else where they are
    /// plainly shares or plainly not.
    fn scale(&self) -> Option<(String, String)> {
        let metric = self.metrics.iter().find(|metric| metric.primary)?;
        let text = match metric.range {
            Some(Range { low: Some(low), high: Some(high) }) => format!("{low} to {high}"),
            _ if !metric.statistic.is_mean() => return None,
            _ => {
                let scores = metric.scores.iter().map(|(_, stats)| stats[0] / stats[1]);
                let largest = scores.chain(metric.aggregate.map(|known| known.value)).fold(0.0, f64::max);
                match largest {
                    x if x > 0.0 && x <= 1.0 => "0 to 1".to_owned(),
                    x if x > 10.0 => "beyond 10".to_owned(),
                    _ => return None,
                }
            }
        };
        Some(("scale".to_owned(), text))
    }
}

/// Who judged, and what the verdicts show.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judged {
    /// The judge as the file names it.
    pub judge: String,
    /// What was found.
    pub findings: Vec<JudgeFinding>,
}

/// The results of one metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportedMetric {
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
    /// Documents from whose answers nothing could be taken.
    #[serde(default)]
    pub unparsed: BTreeSet<DocId>,
    /// Whether documents have several scores.
    pub repeated: bool,
    /// The values that a document's score can have, where the format or the call says so.
    #[serde(default)]
    pub range: Option<Range>,
    /// What is known where there are no documents.
    pub aggregate: Option<Aggregate>,
}

impl ImportedMetric {
    /// A mean, better where larger, without scores.
    pub fn new(key: MetricKey) -> Self {
        Self {
            key,
            statistic: Statistic::Mean,
            higher_is_better: true,
            primary: true,
            scores: vec![],
            unparsed: BTreeSet::new(),
            repeated: false,
            range: None,
            aggregate: None,
        }
    }

    /// Number of documents that the value is over, where it is known.
    pub fn n(&self) -> Option<usize> {
        match self.aggregate {
            Some(known) => known.n,
            None => Some(self.scores.iter().map(|(doc, _)| doc).collect::<BTreeSet<_>>().len()),
        }
    }

    /// What the values are in: shares where all lie between 0 and 1.
    pub fn scale(&self) -> Scale {
        if let Some(scale) = self.statistic.scale() {
            return scale;
        }
        if let Some(range) = self.range {
            return if range == Range::between(0.0, 1.0) { Scale::Fraction } else { Scale::Raw };
        }
        let unit = |value: f64| (0.0..=1.0).contains(&value);
        let all = self.scores.iter().all(|(_, stats)| unit(stats[0] / stats[1].max(1.0)));
        let share = Metric::scale_of_means(&self.key.metric) == Scale::Fraction;
        if all && share && self.aggregate.is_none_or(|known| unit(known.value)) { Scale::Fraction } else { Scale::Raw }
    }

    /// The column of a comparison.
    pub fn column(&self, model: &str) -> Column {
        let score = |(doc, stats): &(DocId, Vec<f64>)| SampleScore {
            doc: *doc,
            key: self.key.clone(),
            stats: stats.clone(),
            parsed: !self.unparsed.contains(doc),
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
    pub fn new(name: &str, format: &str, files: Vec<DataEntry>) -> Self {
        let (name, format) = (name.to_owned(), format.to_owned());
        Self {
            version: VERSION,
            name,
            format,
            model: None,
            files,
            training: BTreeMap::new(),
            conditions: BTreeMap::new(),
            tasks: Vec::new(),
        }
    }

    /// Where the results of a name lie. Earlier versions wrote names as they are.
    pub fn path(home: &Path, name: &str) -> PathBuf {
        let in_home = |file: &str| home.join("imports").join(format!("{file}.json"));
        let (path, earlier) = (in_home(&file_name(name)), in_home(name));
        if is_plain(name) && !path.exists() && earlier.exists() { earlier } else { path }
    }

    /// The results of a name, if there are any.
    ///
    /// # Errors
    /// If the file cannot be read or is of another version.
    pub fn find(home: &Path, name: &str) -> Result<Option<Self>, EvaluationError> {
        let path = Self::path(home, name);
        if !is_plain(name) || !path.is_file() {
            return Ok(None);
        }
        let text = harness_core::read_text(&path)
            .map_err(|e| EvaluationError::work(format!("cannot read {}: {e}", path.display())))?;
        let record: Self = serde_json::from_str(&text)
            .map_err(|e| EvaluationError::usage(format!("{}: {e}; import the results again", path.display())))?;
        if record.version != VERSION {
            return Err(EvaluationError::usage(format!(
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
    pub fn write(&self, home: &Path) -> Result<PathBuf, EvaluationError> {
        let path = Self::path(home, &self.name);
        let text =
            serde_json::to_string(self).map_err(|e| EvaluationError::work(format!("cannot write the import: {e}")))?;
        atomic_write(&path, text + "\n")?;
        Ok(path)
    }

    /// Hash of the content of all files and of what was taken from them: of one file with several models each is another.
    pub fn digest(&self) -> Digest {
        let files: Vec<Digest> = self.files.iter().map(|file| file.hash).collect();
        let taken: Vec<_> = self.tasks.iter().map(|task| (&task.id, &task.metrics)).collect();
        Digest::of_json(&(files, taken))
    }

    /// A task by its id.
    pub fn task(&self, id: &str) -> Option<&ImportedTask> {
        self.tasks.iter().find(|task| task.id == id)
    }

    /// What is known of the answers.
    pub fn facts(&self) -> ModelFacts {
        let facts = |task: &ImportedTask| TaskFacts {
            outputs: task.outputs,
            requests: task.labels.len(),
            conditions: task.conditions.clone().into_iter().chain(task.scale()).collect(),
            coverage: self.coverage(task),
            ..TaskFacts::default()
        };
        ModelFacts {
            model: self.name.clone(),
            source: Some(self.digest()),
            told: self.model.clone(),
            files: self.files.iter().map(|file| (file.hash, last_part(&file.path))).collect(),
            recipe: self.training.clone(),
            conditions: self.conditions.clone(),
            tasks: self.tasks.iter().map(|task| (task.id.clone(), facts(task))).collect(),
            ..ModelFacts::default()
        }
    }

    /// How much of the benchmark the results of a task cover, where its size is known and not all of it is there.
    fn coverage(&self, task: &ImportedTask) -> Option<Coverage> {
        let found = task.metrics.iter().filter_map(ImportedMetric::n).max()?;
        let labels: Vec<&str> = task.labels.values().map(String::as_str).collect();
        let size = harness_tasks::sizes::of(&task.id, found, &labels);
        let (of, unit, missing) = match (task.available, size) {
            (Some(available), _) => (available, "document".to_owned(), vec![]),
            (None, Some(size)) => (size.of, size.unit.to_owned(), size.missing),
            (None, None) => return None,
        };
        (found < of).then_some(Coverage { found, of, unit, missing })
    }

    /// What verdicts of judges show, for the tasks of these ids.
    pub fn judged<'a>(&'a self, shown: &'a BTreeSet<&str>) -> impl Iterator<Item = Caveat> + 'a {
        let tasks = self.tasks.iter().filter(|task| shown.contains(task.id.as_str()));
        tasks.flat_map(|task| {
            task.judged.iter().flat_map(move |judged| {
                judged.findings.iter().map(move |finding| {
                    let (task, judge, finding) = (task.id.clone(), judged.judge.clone(), finding.clone());
                    Caveat::Judge { task, judge, finding }
                })
            })
        })
    }
}

/// Whether this can be the name of imported results: no path, and nothing hidden.
pub(super) fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\\']) && !name.starts_with('.')
}

fn last_part(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
