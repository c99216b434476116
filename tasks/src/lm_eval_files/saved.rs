//! What lm-eval's files say of a run.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use harness_core::{Document, MetricKey, canonical_json};
use harness_metrics::{Metric, Statistic, logged_classes};
use serde_json::{Map, Value, json};

/// What lm-eval's filters give for an answer without a match.
const NOTHING: &str = "[invalid]";

/// One run: a results file and the samples files beside it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SavedRun {
    /// The results file; `None` where there are only samples.
    pub results: Option<PathBuf>,
    /// The model as lm-eval names it (`pretrained=` of its arguments), else the name of the folder.
    pub model: String,
    /// Whether the file names the model, so that it is not the folder's name.
    pub named: bool,
    /// lm-eval's back end, e.g. `hf`.
    pub source: Option<String>,
    /// Time in the files' names, e.g. `2026-11-22T01-49-42.758627`.
    pub date: Option<String>,
    /// Version of lm-eval, where the file tells it.
    pub version: Option<String>,
    /// `config` of the results file: model arguments, seeds, limits.
    pub config: Map<String, Value>,
    /// What the run was made under beside its model, by name: chat template, system instruction and so on.
    pub conditions: BTreeMap<String, String>,
    /// Tasks in the order of the file, groups apart.
    pub tasks: Vec<SavedTask>,
    /// Groups, those above others first.
    pub groups: Vec<SavedGroup>,
}

impl SavedRun {
    /// The group directly above a task or group, if any.
    pub fn above(&self, name: &str) -> Option<&SavedGroup> {
        self.groups.iter().find(|group| group.members.iter().any(|member| member == name))
    }

    /// The tasks below a group, through the groups within it.
    pub fn leaves(&self, group: &str) -> Vec<&SavedTask> {
        let mut leaves: Vec<&SavedTask> = Vec::new();
        let mut open = vec![group];
        let mut seen = BTreeSet::new();
        while let Some(name) = open.pop() {
            if let Some(group) = self.groups.iter().find(|group| group.name == name && seen.insert(name)) {
                open.extend(group.members.iter().rev().map(String::as_str));
            }
            leaves.extend(self.tasks.iter().find(|task| task.name == name && seen.insert(name)));
        }
        leaves
    }
}

/// A group of a run with the values that the file has of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SavedGroup {
    /// lm-eval's name.
    pub name: String,
    /// Name in tables.
    pub alias: String,
    /// Version of the definition; empty where the file has none.
    pub version: String,
    /// Values by metric and filter; empty for a group or tag that is not aggregated.
    pub results: BTreeMap<MetricKey, SavedMetric>,
    /// By metric, whether larger is better.
    pub higher_is_better: BTreeMap<String, bool>,
    /// Number of documents of all its tasks, where it is known.
    pub n: Option<usize>,
    /// Tasks and groups directly below.
    pub members: Vec<String>,
}

/// A value with its standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SavedMetric {
    /// The value; NaN where the file has none.
    pub value: f64,
    /// The standard error; `None` for `N/A`.
    pub stderr: Option<f64>,
}

/// One task of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SavedTask {
    /// lm-eval's name.
    pub name: String,
    /// Name in tables.
    pub alias: String,
    /// Version of the definition.
    pub version: String,
    /// Examples before each question.
    pub num_fewshot: Option<usize>,
    /// The definition as lm-eval saved it; empty in old files.
    pub config: Map<String, Value>,
    /// Values by metric and filter.
    pub results: BTreeMap<MetricKey, SavedMetric>,
    /// By metric, whether larger is better.
    pub higher_is_better: BTreeMap<String, bool>,
    /// Number of documents the values are over: as the file tells, else as its standard errors of shares imply; `None`
    /// where neither does.
    pub n: Option<usize>,
    /// Number of documents of the split, where the file tells it.
    pub available: Option<usize>,
    /// lm-eval's hash of documents, prompts and targets, where the file has one.
    pub hash: Option<String>,
    /// Documents, one entry a document and filter; empty where samples were not logged.
    pub samples: Vec<SavedSample>,
    /// The samples file.
    pub samples_file: Option<PathBuf>,
}

/// One document behind one filter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SavedSample {
    /// Position in the evaluated split.
    pub doc_id: usize,
    /// The columns of the document.
    pub doc: Map<String, Value>,
    /// The target as text.
    pub target: String,
    /// Arguments of each request: context and continuation, or prompt and generation settings.
    pub arguments: Vec<Vec<Value>>,
    /// Responses of each request, as they were logged.
    pub responses: Vec<Value>,
    /// Responses behind the filter.
    pub filtered: Vec<Value>,
    /// The filter; `none` where there is none.
    pub filter: String,
    /// Values by metric, in the order of the file.
    pub metrics: Vec<(String, Value)>,
    /// SHA-256 of the document, in newer files.
    pub doc_hash: Option<String>,
    /// SHA-256 of the first request's first argument, in newer files.
    pub prompt_hash: Option<String>,
    /// SHA-256 of the target, in newer files.
    pub target_hash: Option<String>,
}

/// The documents' scores of one metric.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedScores {
    /// Metric and filter.
    pub key: MetricKey,
    /// How they become one value.
    pub statistic: Statistic,
    /// Whether larger is better.
    pub higher_is_better: bool,
    /// `doc_id` and additive statistics of each document.
    pub stats: Vec<(usize, Vec<f64>)>,
    /// `doc_id` of the documents from whose answers the filter took nothing.
    pub unparsed: BTreeSet<usize>,
    /// Number of documents that were logged without a value.
    pub missing: usize,
}

impl SavedTask {
    /// The evaluated split: `test_split` of the definition, else `validation_split`.
    pub fn split(&self) -> Option<&str> {
        ["test_split", "validation_split"].iter().find_map(|key| self.config.get(*key)?.as_str())
    }

    /// The documents with the ids they have in this program, by `doc_id`; equal content in the same split of a task of
    /// the same name has the same id.
    pub fn documents(&self) -> BTreeMap<usize, Document> {
        let split = self.split().unwrap_or("test");
        let mut rows: BTreeMap<usize, &Map<String, Value>> = BTreeMap::new();
        self.samples.iter().for_each(|sample| {
            rows.entry(sample.doc_id).or_insert(&sample.doc);
        });
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        rows.into_iter()
            .map(|(id, row)| {
                let count = seen.entry(canonical_json(row)).or_default();
                *count += 1;
                (id, Document::new(&self.name, split, id, *count - 1, row.clone()))
            })
            .collect()
    }

    /// Per-document scores of every metric that documents were logged with.
    pub fn scores(&self) -> Vec<SavedScores> {
        let mut keys: Vec<MetricKey> = Vec::new();
        for sample in &self.samples {
            for (metric, _) in &sample.metrics {
                let key = MetricKey::new(metric.as_str(), sample.filter.as_str());
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
        }
        keys.into_iter().map(|key| self.scores_of(key)).collect()
    }

    fn scores_of(&self, key: MetricKey) -> SavedScores {
        let of_filter = || self.samples.iter().filter(|sample| sample.filter == key.filter);
        let values: Vec<(usize, &Value)> = of_filter()
            .filter_map(|sample| {
                let (_, value) = sample.metrics.iter().find(|(metric, _)| *metric == key.metric)?;
                Some((sample.doc_id, value))
            })
            .collect();
        let nothing = |sample: &&SavedSample| {
            !sample.filtered.is_empty() && sample.filtered.iter().all(|answer| answer.as_str() == Some(NOTHING))
        };
        let unparsed = of_filter().filter(nothing).map(|sample| sample.doc_id).collect();
        let classes = values.iter().filter_map(|(_, value)| logged_classes(value)).map(|(g, p)| g.max(p) + 1).max();
        let statistic = self.statistic(&key.metric, values.first().map(|(_, value)| *value), classes.unwrap_or(2));
        let all = values.len();
        let stats: Vec<(usize, Vec<f64>)> =
            values.into_iter().filter_map(|(id, value)| Some((id, statistic.read(value)?))).collect();
        let missing = all - stats.len();
        let known = self.higher_is_better.get(&key.metric).copied();
        let higher_is_better = known.unwrap_or_else(|| Metric::is_higher_better(&key.metric));
        SavedScores { key, statistic, higher_is_better, stats, unparsed, missing }
    }

    /// The aggregation that the definition names for a metric, else lm-eval's own for the name.
    fn statistic(&self, metric: &str, example: Option<&Value>, classes: usize) -> Statistic {
        let entry = self
            .config
            .get("metric_list")
            .and_then(Value::as_array)
            .and_then(|list| list.iter().find(|entry| entry.get("metric").and_then(Value::as_str) == Some(metric)));
        let named = entry.and_then(|entry| entry.get("aggregation")?.as_str());
        let own = Metric::of(metric).map(|metric| metric.aggregation);
        let pair = example.is_some_and(Value::is_array);
        // Saved by its name or with its source.
        let weighted = named.is_some_and(|name| name.contains("weighted_f1_score"));
        let options = if weighted { json!({"average": "weighted"}) } else { Value::Null };
        named
            .filter(|name| !weighted && !name.contains(char::is_whitespace))
            .or(own)
            .and_then(Metric::aggregated_by)
            .filter(|metric| pair || !metric.logs_pairs)
            .and_then(|metric| metric.configure(*metric.reads.first()?, &options).ok())
            .map_or(Statistic::Mean, |scorer| scorer.statistic(classes))
    }
}
