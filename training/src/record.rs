//! `training.json`: everything that a finished run depends on, and how it ended.
//!
//! A record is read as what any version of the program wrote: what is missing, unknown or of another form is no error, and
//! the others of its facts can be had all the same.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use harness_core::Digest;
use harness_store::DataEntry;
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    TrainingError,
    data::{RowCounts, TokenCounts},
    files::write_json,
    recipe::{Checkpointing, Sharding},
    trainer::TrainingSummary,
};

/// What a run records of itself when it is finished; the order of the fields is that of the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainingRecord {
    /// Names what was trained on what: a run of the same name has the same result.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub run: Option<Digest>,
    /// The recipe with its defaults, as the version that trained knew it.
    pub recipe: Value,
    /// Hash of the recipe, without what changes no result.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub recipe_hash: Option<Digest>,
    /// The template, as the version that trained knew it.
    pub template: Value,
    /// Hash of the template.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub template_hash: Option<Digest>,
    /// The data files.
    #[serde(deserialize_with = "entries")]
    pub data: Vec<DataEntry>,
    /// The model that it started from; none from scratch.
    #[serde(deserialize_with = "lenient")]
    pub base: Option<RecordedBase>,
    /// Hash of the tokenizer.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub tokenizer_hash: Option<Digest>,
    /// Whether texts begin with BOS.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub adds_bos: Option<bool>,
    /// The chat template that conversations went through, where some did.
    #[serde(deserialize_with = "lenient")]
    pub chat_template: Option<RecordedChatTemplate>,
    /// What became of the rows of the data.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub rows: Option<RowCounts>,
    /// What became of the tokens of training rows.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub train_tokens: Option<TokenCounts>,
    /// What became of the tokens of validation rows.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub validation_tokens: Option<TokenCounts>,
    /// Number of trained parameters.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub trainable_parameters: Option<usize>,
    /// Number of the model's parameters.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub parameters: Option<usize>,
    /// The type that was computed in, e.g. `float32`.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// The types that the linears of the blocks were stored in, e.g. `bf16`.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub weights_stored_as: Option<String>,
    /// Number of ranks.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub world_size: Option<usize>,
    /// What ranks shared.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub sharding: Option<Sharding>,
    /// How much was kept for the backward pass.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub gradient_checkpointing: Option<Checkpointing>,
    /// The version of the program.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The end of the run.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub summary: Option<TrainingSummary>,
}

/// The model that a run started from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RecordedBase {
    /// Its name, in the experiment or as a path.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its folder or file.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Hash of weights and configuration.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub hash: Option<Digest>,
}

/// The chat template that conversations went through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RecordedChatTemplate {
    /// Hash of its source.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub hash: Option<Digest>,
    /// Whether it is the base's own.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub of_base: Option<bool>,
    /// Its text, which is Jinja.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// The texts of a template's `[turns]`, which are Jinja with `content` but for `assistant_begin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordedTurns<'a> {
    /// Text of a system turn.
    pub system: &'a str,
    /// Text of a user's turn.
    pub user: &'a str,
    /// Text before what the assistant says.
    pub assistant_begin: &'a str,
    /// Text of what the assistant says.
    pub assistant: &'a str,
}

/// Keys of `[training]` that change no result, so that a recipe's hash leaves them out.
const WITHOUT_RESULT: [&str; 3] = ["sharding", "gradient_checkpointing", "paged_optimizer"];

impl TrainingRecord {
    /// The name of the file, which a run writes last: where it is, the run is finished.
    pub const FILE: &'static str = "training.json";

    /// Where the record of an adapter or a model is: beside it, or above a checkpoint.
    pub fn path(folder: &Path) -> PathBuf {
        let is_checkpoint = folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("checkpoint-"));
        let of = folder.parent().filter(|_| is_checkpoint).unwrap_or(folder);
        of.join(Self::FILE)
    }

    /// The record of an adapter or a model by its folder, which may be a checkpoint of a finished run; `None` if there is none.
    ///
    /// # Errors
    /// As [`TrainingRecord::read_file`].
    pub fn read(folder: &Path) -> Result<Option<Self>, TrainingError> {
        Self::read_file(&Self::path(folder))
    }

    /// The record in a file; `None` if there is no such file.
    ///
    /// # Errors
    /// If the file cannot be read ([`TrainingError::Io`]), or is no JSON of a record ([`TrainingError::Data`]).
    pub fn read_file(path: &Path) -> Result<Option<Self>, TrainingError> {
        let text = match harness_core::read_text(path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Err(error) => return Err(TrainingError::io("read", path)(error)),
        };
        let record = serde_json::from_str(&text);
        record.map(Some).map_err(|e| TrainingError::Data { path: path.to_owned(), message: e.to_string() })
    }

    /// Writes the record into the folder of its run.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), TrainingError> {
        write_json(&folder.join(Self::FILE), &self.to_json())
    }

    /// The content of the file.
    pub fn to_json(&self) -> Value {
        json!(self)
    }

    /// Name of the recipe.
    pub fn recipe_name(&self) -> Option<&str> {
        self.recipe["name"].as_str()
    }

    /// The template of the data as the recipe names it.
    pub fn data_template(&self) -> Option<&str> {
        self.recipe["data"]["template"].as_str()
    }

    /// Hash of the recipe as it stands in the record, without what changes no result: where nobody has changed it, it is
    /// [`TrainingRecord::recipe_hash`].
    pub fn recipe_digest(&self) -> Digest {
        let mut recipe = self.recipe.clone();
        if let Some(training) = recipe.get_mut("training").and_then(Value::as_object_mut) {
            // Recipes do not write these where they are as usual.
            WITHOUT_RESULT.iter().for_each(|key| drop(training.shift_remove(*key)));
        }
        Digest::of_json(&recipe)
    }

    /// Whether the training texts were conversations; `None` if the record has no template.
    pub fn has_conversations(&self) -> Option<bool> {
        let turns = !self.template.as_object()?.get("turns").is_none_or(Value::is_null);
        Some(turns || self.chat_template.is_some())
    }

    /// How the template turned conversations into texts, where it spells that out.
    pub fn turns(&self) -> Option<RecordedTurns<'_>> {
        let text = |key: &str| self.template["turns"][key].as_str();
        Some(RecordedTurns {
            system: text("system")?,
            user: text("user")?,
            assistant_begin: text("assistant_begin")?,
            assistant: text("assistant")?,
        })
    }
}

/// A value, if it has the form that this version knows.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).ok())
}

/// The data files of which path and hash are given.
fn entries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<DataEntry>, D::Error> {
    let entry = |entry: &Value| {
        let (path, hash) = (entry["path"].as_str()?, entry["hash"].as_str()?);
        Some(DataEntry { path: path.into(), hash: hash.parse().ok()? })
    };
    let entries = Value::deserialize(deserializer)?;
    Ok(entries.as_array().map_or(vec![], |entries| entries.iter().filter_map(entry).collect()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A record with everything in it, as a run writes it.
    const WHOLE: &str = r#"{
  "run": "RUN",
  "recipe": {
    "name": "r8",
    "data": {
      "template": "chat"
    }
  },
  "recipe_hash": "RECIPE",
  "template": {
    "columns": [],
    "turns": {
      "column": "messages",
      "system": "S {{ content }}",
      "user": "U {{ content }}",
      "assistant_begin": "A ",
      "assistant": "{{ content }}"
    }
  },
  "template_hash": "TEMPLATE",
  "data": [
    {
      "path": "/data/rows.jsonl",
      "hash": "DATA"
    }
  ],
  "base": {
    "name": "tiny",
    "path": "/models/tiny",
    "hash": "BASE"
  },
  "tokenizer_hash": "TOKENIZER",
  "adds_bos": true,
  "chat_template": {
    "hash": "CHAT",
    "of_base": true,
    "source": "{{ messages }}"
  },
  "rows": {
    "source": 9,
    "dropped_empty": 1,
    "beyond_max_samples": 2,
    "train": 3,
    "validation": 2,
    "test": 1,
    "unusable": {
      "column \"a\" is empty": 1
    },
    "remarks": {},
    "rendered": 5
  },
  "train_tokens": {
    "samples": 3,
    "tokens": 30,
    "labels": 12,
    "truncated_samples": 0,
    "truncated_tokens": 0,
    "without_labels": 0
  },
  "validation_tokens": {
    "samples": 2,
    "tokens": 20,
    "labels": 8,
    "truncated_samples": 1,
    "truncated_tokens": 4,
    "without_labels": 0
  },
  "trainable_parameters": 64,
  "parameters": 4096,
  "dtype": "float32",
  "weights_stored_as": "bf16",
  "world_size": 2,
  "sharding": "fsdp",
  "gradient_checkpointing": "lean",
  "version": "0.1.0",
  "summary": {
    "steps": 12,
    "total_steps": 12,
    "tokens": 360,
    "trainable_parameters": 64,
    "loss": null,
    "best": {
      "step": 8,
      "eval_loss": 1.25
    },
    "eval_loss": 1.5,
    "seconds": 2.5,
    "epoch_seconds": 0.5,
    "tokens_per_second": 144.0,
    "samples_per_second": 14.4,
    "memory_bytes": 1024,
    "world_size": 2,
    "spikes": 1,
    "skipped": 0,
    "stopped_early": false,
    "interrupted": false
  }
}
"#;

    /// The text with hashes of these words in the place of the words.
    fn whole() -> String {
        let words = ["RUN", "RECIPE", "TEMPLATE", "DATA", "BASE", "TOKENIZER", "CHAT"];
        words.iter().fold(WHOLE.to_owned(), |text, word| {
            text.replace(&format!("\"{word}\""), &format!("\"{}\"", Digest::of(word)))
        })
    }

    /// The record in a folder that holds this text.
    fn read(text: &str) -> TrainingRecord {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(TrainingRecord::FILE), text).unwrap();
        TrainingRecord::read(folder.path()).unwrap().unwrap()
    }

    #[test]
    fn a_record_is_read_and_written_byte_for_byte() {
        let record = read(&whole());
        let of = |word: &str| Some(Digest::of(word));
        assert_eq!((record.run, record.recipe_hash, record.template_hash), (of("RUN"), of("RECIPE"), of("TEMPLATE")));
        assert_eq!((record.recipe_name(), record.data_template()), (Some("r8"), Some("chat")));
        let sharded = json!({"name": "r8", "training": {"seed": 1, "sharding": "fsdp", "paged_optimizer": true}});
        let sharded = TrainingRecord { recipe: sharded, ..TrainingRecord::default() };
        let plain = json!({"name": "r8", "training": {"seed": 1}});
        assert_eq!(sharded.recipe_digest(), Digest::of_json(&plain), "what changes no result");
        assert_eq!(record.recipe_digest(), Digest::of_json(&json!({"name": "r8", "data": {"template": "chat"}})));
        let turns = record.turns().unwrap();
        assert_eq!((turns.system, turns.user), ("S {{ content }}", "U {{ content }}"));
        assert_eq!((turns.assistant_begin, turns.assistant), ("A ", "{{ content }}"));
        assert_eq!(record.data, [DataEntry { path: "/data/rows.jsonl".into(), hash: Digest::of("DATA") }]);
        let base = record.base.clone().unwrap();
        assert_eq!((base.name.as_deref(), base.hash), (Some("tiny"), of("BASE")));
        assert_eq!(base.path.as_deref(), Some(Path::new("/models/tiny")));
        assert_eq!((record.tokenizer_hash, record.adds_bos), (of("TOKENIZER"), Some(true)));
        let chat = record.chat_template.clone().unwrap();
        assert_eq!((chat.hash, chat.of_base, chat.source.as_deref()), (of("CHAT"), Some(true), Some("{{ messages }}")));
        assert_eq!(record.has_conversations(), Some(true));
        assert_eq!(record.rows.as_ref().map(|rows| (rows.source, rows.rendered)), Some((9, 5)));
        assert_eq!(record.train_tokens.map(|tokens| tokens.labels), Some(12));
        assert_eq!(record.validation_tokens.map(|tokens| tokens.truncated_tokens), Some(4));
        assert_eq!((record.trainable_parameters, record.parameters), (Some(64), Some(4096)));
        assert_eq!((record.dtype.as_deref(), record.weights_stored_as.as_deref()), (Some("float32"), Some("bf16")));
        assert_eq!((record.world_size, record.sharding), (Some(2), Some(Sharding::Fsdp)));
        assert_eq!(record.sharding.map(Sharding::name), Some("fsdp"));
        let policy = Checkpointing::Policy(crate::block::SavePolicy::Lean);
        assert_eq!((record.gradient_checkpointing, record.version.as_deref()), (Some(policy), Some("0.1.0")));
        let summary = record.summary.as_ref().unwrap();
        assert_eq!((summary.steps, summary.best.map(|best| best.step)), (12, Some(8)));
        assert!(summary.loss.is_nan(), "no update");

        let folder = tempfile::tempdir().unwrap();
        record.write(folder.path()).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("training.json")).unwrap(), whole());
    }

    #[test]
    fn what_other_versions_wrote_is_no_error() {
        let record = read(
            r#"{"run": 3, "recipe": {"rank": 8}, "rows": {"all": 1}, "base": null, "new": [], "data": [
            {"path": "a", "hash": "short"}, {"path": "b", "hash": "HASH", "rows": 3}]}"#
                .replace("HASH", &Digest::of("b").to_string())
                .as_str(),
        );
        assert_eq!((record.run, record.rows, record.base, record.summary), (None, None, None, None));
        assert_eq!(record.data, [DataEntry { path: "b".into(), hash: Digest::of("b") }]);
        assert_eq!(record.recipe, json!({"rank": 8}));
        assert_eq!(
            read("{}").to_json(),
            json!({"recipe": null, "template": null, "data": [], "base": null, "chat_template": null})
        );
        assert_eq!((read("{}").has_conversations(), read("{}").turns()), (None, None));
        assert_eq!(read(r#"{"template": {"prompt": ""}}"#).has_conversations(), Some(false));
    }

    #[test]
    fn a_checkpoint_has_the_record_of_its_run() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = folder.path().join("checkpoint-3");
        assert_eq!(TrainingRecord::read(&checkpoint).unwrap(), None);
        let record = TrainingRecord { adds_bos: Some(true), ..TrainingRecord::default() };
        record.write(folder.path()).unwrap();
        assert_eq!(TrainingRecord::read(&checkpoint).unwrap(), Some(record));
        let file = folder.path().join(TrainingRecord::FILE);
        assert_eq!(TrainingRecord::read_file(&file.join("none")).unwrap(), None, "a file is no folder");
        fs::write(&file, "{").unwrap();
        let error = TrainingRecord::read(folder.path()).unwrap_err().to_string();
        assert_eq!(error, format!("{}: EOF while parsing an object at line 1 column 1", file.display()));
    }
}
