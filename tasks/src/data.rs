//! Where the rows of a task come from.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use harness_core::{Seed, split_80_10_10};
use harness_store::{DataFiles, DataLocator, DataQuery, Row, RowFilter, read_rows};
use serde_json::Value;

use crate::{
    builtin,
    config::{DatasetConfig, DeriveSplits},
};
use harness_python::trim as strip;

/// Gives the rows of a split.
pub trait DataSource: Send + Sync {
    /// All rows of a split, in order; the message says what is missing and how to get it.
    ///
    /// # Errors
    /// If the split cannot be found or read.
    fn rows(&self, dataset: &DatasetConfig, split: &str) -> Result<Vec<Row>, String>;

    /// The files behind a split, for manifests; empty where the rows come from elsewhere.
    fn files(&self, dataset: &DatasetConfig, split: &str) -> Vec<PathBuf> {
        let _ = (dataset, split);
        Vec::new()
    }
}

/// Rows in memory, by split.
#[derive(Clone, Debug, Default)]
pub struct MemoryData {
    splits: BTreeMap<String, Vec<Row>>,
}

impl MemoryData {
    /// Adds a split.
    pub fn with(mut self, split: impl Into<String>, rows: Vec<Row>) -> Self {
        self.splits.insert(split.into(), rows);
        self
    }
}

impl DataSource for MemoryData {
    fn rows(&self, _: &DatasetConfig, split: &str) -> Result<Vec<Row>, String> {
        let names = || self.splits.keys().cloned().collect::<Vec<_>>().join(", ");
        self.splits.get(split).cloned().ok_or_else(|| format!("there is no split {split:?}; there are: {}", names()))
    }
}

/// Rows of files: those beside the definition, those of a data folder, those of the hub cache.
///
/// A file that holds the rows of all configurations is read once and kept, so that the 57 subjects of MMLU do not read
/// it 57 times.
#[derive(Debug, Default)]
pub struct FileData {
    locator: DataLocator,
    divided: Mutex<BTreeMap<SharedFiles, Arc<Divided>>>,
}

/// Files that several configurations share, and the column that tells them apart.
type SharedFiles = (Vec<PathBuf>, String);

/// Rows by the value of a column.
type Divided = BTreeMap<String, Vec<Row>>;

impl FileData {
    /// Data sets found by a locator.
    pub fn new(locator: DataLocator) -> Self {
        Self { locator, divided: Mutex::default() }
    }

    /// The rows of located files, of which several configurations may share one.
    fn read(&self, files: &DataFiles) -> Result<Vec<Row>, String> {
        let text = |error: harness_store::StoreError| error.to_string();
        let (Some(filter), None) = (&files.filter, &files.config) else { return files.rows().map_err(text) };
        let key = (files.files.clone(), filter.column.clone());
        let mut divided = self.divided.lock().unwrap_or_else(PoisonError::into_inner);
        if !divided.contains_key(&key) {
            let mut parts = Divided::new();
            for row in read_rows(&files.files, None).map_err(text)? {
                if let Some(value) = row.get(&filter.column) {
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    parts.entry(value).or_default().push(row);
                }
            }
            divided.insert(key.clone(), Arc::new(parts));
        }
        match divided.get(&key).and_then(|parts| parts.get(&filter.equals)) {
            Some(rows) => Ok(rows.clone()),
            None => files.rows().map_err(text),
        }
    }

    fn query(dataset: &DatasetConfig, split: &str) -> DataQuery {
        let names = dataset.path.iter().chain(&dataset.aliases).cloned().collect();
        let filter = match (&dataset.name_column, &dataset.name) {
            (Some(column), Some(name)) => Some(RowFilter::new(column, name)),
            _ => None,
        };
        let revision = dataset.kwargs.get("revision").and_then(Value::as_str).map(str::to_owned);
        DataQuery { names, config: dataset.name.clone(), split: split.to_owned(), revision, filter }
    }

    fn locate(&self, dataset: &DatasetConfig, split: &str) -> Result<DataFiles, String> {
        self.locator.locate(&Self::query(dataset, split)).map_err(|error| error.to_string())
    }

    fn derived(&self, dataset: &DatasetConfig, derive: &DeriveSplits, split: &str) -> Result<Vec<Row>, String> {
        let rows = self.locate(dataset, &derive.from)?.rows().map_err(|error| error.to_string())?;
        derive_split(rows, derive, split)
    }
}

/// Divides the rows of one split: columns are stripped, rows without the required columns dropped, the rest divided by
/// [`harness_core::split_80_10_10`].
fn derive_split(mut rows: Vec<Row>, derive: &DeriveSplits, split: &str) -> Result<Vec<Row>, String> {
    for row in &mut rows {
        for column in &derive.strip {
            if let Some(Value::String(text)) = row.get_mut(column) {
                *text = strip(text).to_owned();
            }
        }
    }
    let filled =
        |row: &Row, column: &String| row.get(column).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    rows.retain(|row| derive.required.iter().all(|column| filled(row, column)));
    let parts = split_80_10_10(rows.len(), Seed(derive.seed));
    let chosen = match split {
        "train" => parts.train,
        "validation" => parts.validation,
        "test" => parts.test,
        other => return Err(format!("there is no split {other:?}; derived splits are train, validation, test")),
    };
    Ok(chosen.into_iter().map(|row| std::mem::take(&mut rows[row])).collect())
}

/// Files named by `dataset_kwargs.data_files` for a split, resolved against the definition's folder.
fn data_files(dataset: &DatasetConfig, split: &str) -> Option<Result<Vec<PathBuf>, String>> {
    let files = dataset.kwargs.get("data_files")?;
    let of_split = match files {
        Value::Object(map) => match map.get(split) {
            Some(files) => files,
            None => {
                let names: Vec<&str> = map.keys().map(String::as_str).collect();
                return Some(Err(format!("data_files has no split {split:?}; it has: {}", names.join(", "))));
            }
        },
        other if split == "train" => other,
        _ => return Some(Err(format!("data_files names no split {split:?}"))),
    };
    let names = match of_split {
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        Value::String(name) => vec![name.as_str()],
        _ => return Some(Err("data_files must name files".to_owned())),
    };
    let folder = Path::new(&dataset.file).parent().unwrap_or(Path::new("")).to_owned();
    Some(Ok(names.into_iter().map(|name| folder.join(name)).collect()))
}

impl DataSource for FileData {
    fn rows(&self, dataset: &DatasetConfig, split: &str) -> Result<Vec<Row>, String> {
        let mut rows = match data_files(dataset, split) {
            Some(files) => {
                let files = files?;
                match builtin::rows(&files) {
                    Some(rows) => rows?,
                    None => read_rows(&files, None).map_err(|error| error.to_string())?,
                }
            }
            None if dataset.path.is_none() && dataset.aliases.is_empty() => {
                return Err("the definition names no data (dataset_path, or dataset_kwargs.data_files)".to_owned());
            }
            None => match (self.locate(dataset, split), &dataset.derive) {
                (Ok(files), _) => self.read(&files)?,
                (Err(first), Some(derive)) => self.derived(dataset, derive, split).map_err(|second| {
                    format!(
                        "{first}\nand the split cannot be derived from the whole data set: {second}\nmake it with \
                         `harness data prepare`, or put the data set into a folder given by --data-dir"
                    )
                })?,
                (Err(message), None) => return Err(message),
            },
        };
        if !dataset.columns.is_empty() {
            rows.iter_mut().for_each(|row| row.retain(|column, _| dataset.columns.contains(column)));
        }
        match &dataset.pages {
            Some((column, into)) => crate::wikitext::join_pages(rows, column, into),
            None => Ok(rows),
        }
    }

    fn files(&self, dataset: &DatasetConfig, split: &str) -> Vec<PathBuf> {
        match data_files(dataset, split) {
            Some(files) => {
                files.unwrap_or_default().into_iter().filter(|path| !path.starts_with(builtin::PREFIX)).collect()
            }
            None => {
                let found = self.locate(dataset, split);
                let found = found.or_else(|message| match &dataset.derive {
                    Some(derive) => self.locate(dataset, &derive.from),
                    None => Err(message),
                });
                found.map(|found| found.files).unwrap_or_default()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn derived_splits_cover_the_filled_rows() {
        let rows: Vec<Row> = (0..40)
            .map(|i| {
                json!({"q": format!(" {i} "), "r": if i % 4 == 0 { "  " } else { "x" }}).as_object().unwrap().clone()
            })
            .collect();
        let derive = DeriveSplits {
            from: "train".into(),
            seed: 42,
            strip: vec!["q".into(), "r".into()],
            required: vec!["r".into()],
        };
        let parts: Vec<Vec<Row>> =
            ["train", "validation", "test"].iter().map(|s| derive_split(rows.clone(), &derive, s).unwrap()).collect();
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [24, 3, 3]);
        assert!(parts.iter().flatten().all(|row| row["r"] == "x" && !row["q"].as_str().unwrap().contains(' ')));
        assert!(derive_split(rows, &derive, "dev").unwrap_err().contains("derived splits are"));
    }
}
