//! One item of a task.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Digest, Hasher, canonical_json};

/// Hash of task, split and content: equal ids are comparable across runs and models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DocId(pub Digest);

/// One item of a task: a row of its data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Identity of the document; see [`DocId`].
    pub id: DocId,
    /// Position in the evaluated split, from 0.
    pub index: usize,
    /// The columns, in the order of the source.
    pub fields: Map<String, Value>,
}

impl Document {
    /// Makes a document and derives its id. `occurrence` counts earlier rows of the same content in the split, so
    /// that duplicated rows keep distinct ids.
    pub fn new(task: &str, split: &str, index: usize, occurrence: usize, fields: Map<String, Value>) -> Self {
        let mut hasher = Hasher::new("document");
        hasher.part(task).part(split).part(canonical_json(&fields)).part((occurrence as u64).to_le_bytes());
        Self { id: DocId(hasher.finish()), index, fields }
    }
}
