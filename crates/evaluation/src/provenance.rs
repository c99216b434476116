//! How a model was made: its recipe, the rows it was trained on, and the files it consists of.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use harness_core::DocId;
use harness_metrics::{
    comparison::{Caveat, Overlap},
    overlap::{TrainingText, row_hash},
};
use harness_store::{DataEntry, FileHashes, open_rows};
use harness_tasks::Task as _;
use harness_training::TrainingRecord;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{EvaluationError, models::Ready, suite::Suite};

/// What training left beside a model.
pub struct Training {
    folder: PathBuf,
    record: TrainingRecord,
}

/// The files a model consists of and was made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelFiles {
    /// Weights, configuration and tokenizer of the base.
    pub weights: Vec<DataEntry>,
    /// The adapter.
    pub adapter: Vec<DataEntry>,
    /// Training data.
    pub data: Vec<DataEntry>,
    /// Hash of the recipe, as training recorded it.
    pub recipe: Option<String>,
}

impl Training {
    /// Of the model in this folder, if it was trained here.
    pub fn of(folder: &Path) -> Option<Self> {
        let record = TrainingRecord::read_file(&folder.join(TrainingRecord::FILE)).ok()??;
        Some(Self { folder: folder.to_owned(), record })
    }

    /// Of a loaded model: beside its adapter, else beside its weights.
    pub fn of_model(ready: &Ready) -> Option<Self> {
        Self::of(ready.entry.adapter.as_deref().or(ready.entry.path.as_deref())?)
    }

    /// The recipe with dotted names, and the hashes of data and template.
    pub fn recipe(&self) -> BTreeMap<String, String> {
        recipe_of(&self.record)
    }

    /// The texts of one part of its rows: `train`, `validation`.
    fn rows(&self, part: &str) -> Vec<String> {
        let path = self.folder.join("data").join(format!("{part}.jsonl"));
        let Ok(rows) = open_rows(&path) else { return Vec::new() };
        rows.filter_map(Result::ok)
            .map(|row| {
                let texts: Vec<&str> = row.values().filter_map(Value::as_str).collect();
                texts.join("\n")
            })
            .collect()
    }

    /// Documents of each task that its training rows hold.
    pub fn seen(&self, suite: &Suite) -> BTreeMap<String, BTreeMap<DocId, Overlap>> {
        let rows = self.rows("train");
        if rows.is_empty() {
            return BTreeMap::new();
        }
        let fields = |fields: &serde_json::Map<String, Value>| -> Vec<String> {
            fields.values().filter_map(|value| value.as_str().map(str::to_owned)).collect()
        };
        let documents: Vec<(&str, DocId, Vec<String>)> = suite
            .tasks
            .iter()
            .flat_map(|task| task.documents().iter().map(|doc| (task.id(), doc.id, fields(&doc.fields))))
            .collect();
        let text = TrainingText::new(&rows, documents.iter().flat_map(|(.., fields)| fields));
        let mut seen: BTreeMap<String, BTreeMap<DocId, Overlap>> = BTreeMap::new();
        for (task, doc, fields) in &documents {
            if let Some(overlap) = text.overlap(fields) {
                seen.entry((*task).to_owned()).or_default().insert(*doc, overlap);
            }
        }
        seen
    }
}

/// The recipe in a record of training with dotted names, and the hashes of data and template.
pub fn recipe_of(record: &TrainingRecord) -> BTreeMap<String, String> {
    let mut flat = BTreeMap::new();
    flatten("", &record.recipe, &mut flat);
    // Where the files lie does not matter, what they hold does.
    flat.retain(|name, _| !matches!(name.as_str(), "name" | "base" | "data.source" | "data.dataset" | "data.template"));
    for data in &record.data {
        flat.insert("data".to_owned(), data.hash.short());
    }
    if let Some(hash) = record.template_hash {
        flat.insert("template".to_owned(), hash.short());
    }
    flat
}

/// Validation rows of one model that another was trained on.
pub fn split_leaks(trainings: &[(String, Training)]) -> Vec<Caveat> {
    let hashes = |training: &Training, part: &str| -> BTreeSet<u64> {
        training.rows(part).iter().map(|row| row_hash(row)).collect()
    };
    let train: Vec<BTreeSet<u64>> = trainings.iter().map(|(_, training)| hashes(training, "train")).collect();
    let mut caveats = Vec::new();
    for (i, (validated, training)) in trainings.iter().enumerate() {
        let validation = hashes(training, "validation");
        for (j, (trained, _)) in trainings.iter().enumerate() {
            let own = validation.intersection(&train[i]).count();
            let rows = validation.intersection(&train[j]).count();
            // Rows that stand in both parts of the recipe itself are no matter of the other recipe.
            if i != j && rows > own {
                let (validated, trained, of) = (validated.clone(), trained.clone(), validation.len());
                caveats.push(Caveat::SplitLeak { validated, trained, rows, of });
            }
        }
    }
    caveats
}

/// The files of a model with their hashes.
///
/// # Errors
/// If one cannot be read.
pub fn model_files(ready: &Ready, hashes: &FileHashes) -> Result<ModelFiles, EvaluationError> {
    let training = Training::of_model(ready);
    Ok(ModelFiles {
        weights: ready.entry.path.as_deref().map_or(Ok(Vec::new()), |path| files_of(path, hashes))?,
        adapter: ready.entry.adapter.as_deref().map_or(Ok(Vec::new()), |path| files_of(path, hashes))?,
        data: training.as_ref().map_or(vec![], |training| training.record.data.clone()),
        recipe: training.as_ref().and_then(|training| training.record.recipe_hash).map(|hash| hash.to_string()),
    })
}

/// A file, or the files of a folder that a model is read from.
fn files_of(path: &Path, hashes: &FileHashes) -> Result<Vec<DataEntry>, EvaluationError> {
    let absolute = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if !path.is_dir() {
        return Ok(vec![DataEntry { path: absolute(path), hash: hashes.hash(path)? }]);
    }
    let mut paths: Vec<PathBuf> = std::fs::read_dir(path)
        .map_err(|e| EvaluationError::work(format!("cannot list {}: {e}", path.display())))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            path.is_file()
                && name != TrainingRecord::FILE
                && matches!(extension.as_str(), "safetensors" | "json" | "model" | "jinja" | "txt" | "gguf" | "bin")
        })
        .collect();
    paths.sort();
    paths.iter().map(|path| Ok(DataEntry { path: absolute(path), hash: hashes.hash(path)? })).collect()
}

/// A value with dotted names; null is left out.
pub fn flatten(name: &str, value: &Value, flat: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                flatten(&if name.is_empty() { key.clone() } else { format!("{name}.{key}") }, value, flat);
            }
        }
        Value::Null => {}
        Value::String(text) => {
            flat.insert(name.to_owned(), text.clone());
        }
        other => {
            flat.insert(name.to_owned(), other.to_string());
        }
    }
}
