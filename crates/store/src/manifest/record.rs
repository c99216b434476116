//! The manifest and its file.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use harness_core::{Digest, ModelIdentity, canonical_json, visible_json};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Host;
use crate::{Result, StoreError, atomic_write};

/// Everything a number depends on, equal on any machine and after any interruption; and apart from it, not part of the
/// hash, what describes the run that wrote this.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name of the run or comparison.
    pub name: String,
    /// Version of harness.
    pub harness_version: String,
    /// Seeds by purpose.
    pub seeds: BTreeMap<String, u64>,
    /// The models, in the order compared.
    pub models: Vec<ModelEntry>,
    /// The tasks, in the order run.
    pub tasks: Vec<TaskEntry>,
    /// Anything else that the number depends on, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, Value>,
    /// The run that wrote this; not part of the hash.
    pub run: RunFacts,
}

/// What only describes one run: who called, where, and how long it took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunFacts {
    /// The command line, program name included.
    pub command: Vec<String>,
    /// The machine.
    pub host: Host,
    /// Where the data of each task was read.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, Vec<DataEntry>>,
    /// Other files and folders, by what they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub places: BTreeMap<String, Value>,
    /// Seconds by stage.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub timings: BTreeMap<String, f64>,
}

/// A model of a manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    /// Its name in the comparison.
    pub name: String,
    /// What its answers depend on.
    pub identity: ModelIdentity,
    /// File or folder of the base weights; no part of the manifest.
    #[serde(skip)]
    pub path: Option<PathBuf>,
    /// Folder of the adapter; no part of the manifest.
    #[serde(skip)]
    pub adapter: Option<PathBuf>,
    /// Hash of the recipe the adapter was trained with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<Digest>,
}

/// A task of a manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskEntry {
    /// The task's id, e.g. `mmlu_anatomy`.
    pub id: String,
    /// Version stated by its definition.
    pub version: String,
    /// Hash of its definition, with everything it includes.
    pub definition: Digest,
    /// Hashes of its data files as they lie on disk.
    pub data: Vec<Digest>,
    /// Examples before each question.
    pub num_fewshot: usize,
    /// Most documents taken, if limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Documents evaluated.
    pub docs: usize,
}

/// A data file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataEntry {
    /// Where it was read.
    pub path: PathBuf,
    /// Hash of its bytes as they lie on disk.
    pub hash: Digest,
}

/// The file: the manifest and the hash it had when it was written.
#[derive(Serialize, Deserialize)]
struct ManifestFile {
    hash: Digest,
    manifest: Manifest,
}

impl Manifest {
    /// A manifest of this machine without models and tasks.
    pub fn new(name: impl Into<String>, harness_version: impl Into<String>, command: Vec<String>) -> Self {
        Self {
            name: name.into(),
            harness_version: harness_version.into(),
            seeds: BTreeMap::new(),
            models: Vec::new(),
            tasks: Vec::new(),
            settings: BTreeMap::new(),
            run: RunFacts { command, host: Host::detect(), ..RunFacts::default() },
        }
    }

    /// Hash of the canonical JSON of everything but the run.
    pub fn hash(&self) -> Digest {
        Digest::of_json(&Self { run: RunFacts::default(), ..self.clone() })
    }

    /// Writes the manifest and its hash as canonical JSON, whole or not at all.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let file = ManifestFile { hash: self.hash(), manifest: self.clone() };
        atomic_write(path, visible_json(&canonical_json(&file)).into_owned() + "\n")
    }

    /// Reads a manifest and checks its hash.
    ///
    /// # Errors
    /// If the file cannot be read, is no manifest, or was changed.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = harness_core::read_file(path).map_err(StoreError::io("read", path))?;
        let file: ManifestFile = serde_json::from_slice(&bytes).map_err(|error| {
            StoreError::bad_file(path, format!("no manifest ({error})"), "one written by this version of harness")
        })?;
        let found = file.manifest.hash();
        if found != file.hash {
            return Err(StoreError::HashMismatch { path: path.to_owned(), found, expected: file.hash });
        }
        Ok(file.manifest)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn manifest() -> Manifest {
        let mut manifest = Manifest::new("quick", "0.1.0", vec!["harness".into(), "compare".into()]);
        manifest.seeds.insert("bootstrap".into(), u64::MAX);
        manifest.tasks.push(TaskEntry {
            id: "tiny_arc".into(),
            version: "1".into(),
            definition: Digest::of("definition"),
            data: vec![Digest::of("rows")],
            num_fewshot: 0,
            limit: Some(10),
            docs: 10,
        });
        manifest.models.push(ModelEntry {
            name: "base".into(),
            identity: ModelIdentity {
                weights: Digest::of("weights"),
                adapter: None,
                tokenizer: Digest::of("tokenizer"),
                chat_template: None,
                dtype: "f32".into(),
                extra: BTreeMap::new(),
            },
            path: None,
            adapter: None,
            recipe: None,
        });
        manifest
    }

    #[test]
    fn hash_leaves_out_the_run_only() {
        let first = manifest();
        let mut second = first.clone();
        second.run.timings.insert("tiny_arc".into(), 1.25);
        second.run.command = vec!["elsewhere".into()];
        second.run.host = Host::default();
        second.models[0].path = Some("models/tiny".into());
        assert_eq!(first.hash(), second.hash());
        second.tasks[0].docs = 9;
        assert_ne!(first.hash(), second.hash());
    }

    #[test]
    fn reads_back_and_notices_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest.json");
        let mut written = manifest();
        written.run.timings.insert("all".into(), 0.1 + 0.2);
        written.write(&path).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), written);

        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace(r#""docs":10"#, r#""docs":11"#)).unwrap();
        let error = Manifest::read(&path).unwrap_err();
        assert!(matches!(error, StoreError::HashMismatch { .. }), "{error}");
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        let error = Manifest::read(&path).unwrap_err().to_string();
        assert!(error.contains("manifest.json") && error.contains("no manifest"), "{error}");
    }
}
