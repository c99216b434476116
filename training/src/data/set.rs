//! A prepared data set: tokenised samples and the texts they come from, kept below a key of everything they depend on.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use harness_core::{Digest, Hasher};
use harness_engine::{ChatTemplate, TextTokenizer};
use harness_store::{FileHashes, hash_file};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Chat, Prepared, PreparedRow, RowCounts, Samples, TokenCounts, tokenize, tokenize_pairs};
use crate::{TrainingError, export::write_json, recipe::ResolvedRecipe};

/// The form of prepared sets and the way they are made; sets of another one are made again.
const VERSION: u32 = 2;
/// Written last into a set's folder.
pub(super) const RECORD: &str = "set.json";
const TRAIN: &str = "train.bin";
const VALIDATION: &str = "validation.bin";
/// The parts as text.
const TEXTS: [&str; 3] = ["train.jsonl", "validation.jsonl", "test.jsonl"];

/// What a recipe trains on and validates with.
#[derive(Debug)]
pub struct PreparedSet {
    /// Samples to train on; two a row, the preferred one first, where preferences are trained on.
    pub train: Samples,
    /// Samples to validate with.
    pub validation: Samples,
    /// What became of the rows.
    pub rows: RowCounts,
    /// What became of the tokens of training rows.
    pub train_tokens: TokenCounts,
    /// What became of the tokens of validation rows.
    pub validation_tokens: TokenCounts,
    /// Names everything that the set depends on.
    pub key: Digest,
    /// Where the set is kept.
    pub folder: Option<PathBuf>,
    /// Whether it was there already.
    pub reused: bool,
    /// What was wrong with a set that was made again, or could not be kept.
    pub note: Option<String>,
    texts: Option<Prepared>,
}

/// What the folder of a set says of it.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    key: Digest,
    rows: RowCounts,
    train_tokens: TokenCounts,
    validation_tokens: TokenCounts,
    files: BTreeMap<String, Digest>,
}

impl ResolvedRecipe {
    /// The prepared set of the recipe for a tokenizer and the chat template beside it: the one in the cache if its content is
    /// whole, else made, and kept there.
    ///
    /// # Errors
    /// Whatever is wrong with data, templates or tokenizer. A set that cannot be kept is no error but a note.
    pub fn prepared_set(
        &self,
        tokenizer: &TextTokenizer,
        chat_template: Option<&ChatTemplate>,
        hashes: &FileHashes,
    ) -> Result<PreparedSet, TrainingError> {
        let chat = self.chat(tokenizer, chat_template)?;
        let key = self.set_key(tokenizer, chat.as_ref(), hashes)?;
        let folder = self.cache.as_ref().map(|cache| cache.join(key.short()));
        let mut note = None;
        if let Some(folder) = folder.as_ref().filter(|folder| folder.exists()) {
            match PreparedSet::open(folder, key, hashes) {
                Ok(set) => {
                    // When it was last used; where that cannot be noted the set is as good.
                    let record = fs::File::options().append(true).open(folder.join(RECORD));
                    let _ = record.and_then(|file| file.set_modified(std::time::SystemTime::now()));
                    return Ok(set);
                }
                Err(why) => note = Some(format!("{}: {why}; preparing it again", folder.display())),
            }
        }
        let mut set = self.make_set(tokenizer, chat.as_ref(), key)?;
        set.note = note;
        if let Some(folder) = &folder {
            let kept = set.keep(folder).map_err(|error| error.to_string());
            match kept.and_then(|()| PreparedSet::open(folder, key, hashes)) {
                Ok(kept) => return Ok(PreparedSet { reused: false, note: set.note, ..kept }),
                Err(why) => set.note = Some(format!("the prepared data are not cached: {why}")),
            }
        }
        Ok(set)
    }

    /// Of everything that decides what the samples are, and of nothing else.
    fn set_key(
        &self,
        tokenizer: &TextTokenizer,
        chat: Option<&Chat<'_>>,
        hashes: &FileHashes,
    ) -> Result<Digest, TrainingError> {
        let data = &self.recipe.data;
        let mut hasher = Hasher::new("prepared set");
        hasher.part(VERSION.to_le_bytes()).part(self.template.digest().as_bytes());
        hasher.part(tokenizer.digest().as_bytes()).part([u8::from(tokenizer.adds_bos())]);
        let options = json!({
            "drop_empty": data.drop_empty, "strip": data.strip, "shuffle_seed": data.shuffle_seed,
            "split": data.split, "max_samples": data.max_samples, "loss": data.loss, "max_length": data.max_length,
            "pairs": self.recipe.dpo.is_some(), "validation": self.recipe.training.eval_samples,
            "unusable_rows": data.unusable_rows, "chat": chat.map(Chat::digest),
        });
        hasher.part(harness_core::canonical_json(&options));
        for entry in self.data.entries(hashes)? {
            hasher.part(entry.hash.as_bytes());
        }
        Ok(hasher.finish())
    }

    fn make_set(
        &self,
        tokenizer: &TextTokenizer,
        chat: Option<&Chat<'_>>,
        key: Digest,
    ) -> Result<PreparedSet, TrainingError> {
        let (recipe, data) = (&self.recipe, &self.recipe.data);
        let prepared = self.prepare(chat)?;
        let tokens = |rows: &[PreparedRow]| match recipe.dpo {
            None => tokenize(rows, tokenizer, data.loss, data.max_length),
            Some(_) => tokenize_pairs(rows, tokenizer, data.max_length).map_err(|error| recipe.place(error)),
        };
        let (train, train_tokens) = tokens(&prepared.train)?;
        let limit = recipe.training.eval_samples.unwrap_or(usize::MAX).min(prepared.validation.len());
        let (validation, validation_tokens) = tokens(&prepared.validation[..limit])?;
        Ok(PreparedSet {
            train: train.into(),
            validation: validation.into(),
            rows: prepared.counts.clone(),
            train_tokens,
            validation_tokens,
            key,
            folder: None,
            reused: false,
            note: None,
            texts: Some(prepared),
        })
    }
}

impl PreparedSet {
    /// The set in a folder; what is wrong with it, in words, if it is not whole.
    fn open(folder: &Path, key: Digest, hashes: &FileHashes) -> Result<Self, String> {
        let text = fs::read_to_string(folder.join(RECORD)).map_err(|e| format!("{RECORD} cannot be read ({e})"))?;
        let record: Record = serde_json::from_str(&text).map_err(|e| format!("{RECORD} is damaged ({e})"))?;
        if record.version != VERSION || record.key != key {
            return Err(format!("{RECORD} is of another set"));
        }
        for name in [TRAIN, VALIDATION].iter().chain(&TEXTS) {
            let expected = record.files.get(*name).ok_or_else(|| format!("{RECORD} does not name {name}"))?;
            match hashes.hash(&folder.join(name)) {
                Ok(found) if found == *expected => {}
                Ok(_) => return Err(format!("{name} is damaged: its content has changed")),
                Err(error) => return Err(format!("{name} is missing or cannot be read ({error})")),
            }
        }
        let map = |name: &str| Samples::map(&folder.join(name)).map_err(|error| error.to_string());
        let Record { rows, train_tokens, validation_tokens, .. } = record;
        Ok(Self {
            train: map(TRAIN)?,
            validation: map(VALIDATION)?,
            rows,
            train_tokens,
            validation_tokens,
            key,
            folder: Some(folder.to_owned()),
            reused: true,
            note: None,
            texts: None,
        })
    }

    /// Writes the set beside its place and renames it, so that it is there completely or not at all. A damaged one is moved
    /// away first; a whole one, which another process has made meanwhile, stays, because that process may be reading it.
    fn keep(&self, folder: &Path) -> Result<(), TrainingError> {
        let beside = |what: &str| folder.with_extension(format!("{what}-{}", std::process::id()));
        let (partial, damaged) = (beside("partial"), beside("damaged"));
        let write = || -> Result<(), TrainingError> {
            fs::create_dir_all(&partial).map_err(TrainingError::io("create", &partial))?;
            self.train.write(&partial.join(TRAIN))?;
            self.validation.write(&partial.join(VALIDATION))?;
            self.write_texts(&partial)?;
            let mut files = BTreeMap::new();
            for name in [TRAIN, VALIDATION].into_iter().chain(TEXTS) {
                files.insert(name.to_owned(), hash_file(&partial.join(name))?);
            }
            let Self { train_tokens, validation_tokens, key, .. } = *self;
            let rows = self.rows.clone();
            let record = Record { version: VERSION, key, rows, train_tokens, validation_tokens, files };
            write_json(&partial.join(RECORD), &json!(record))?;
            if self.note.is_some() {
                // If it is gone already, so much the better.
                let _ = fs::rename(folder, &damaged);
            }
            match fs::rename(&partial, folder) {
                Err(error) if !folder.join(RECORD).is_file() => Err(TrainingError::io("create", folder)(error)),
                _ => Ok(()),
            }
        };
        let written = write();
        // What is left of either is of no use.
        let _ = (fs::remove_dir_all(&partial), fs::remove_dir_all(&damaged));
        written
    }

    /// Writes the three parts as text into an existing folder: `train.jsonl`, `validation.jsonl` and `test.jsonl`.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn write_texts(&self, folder: &Path) -> Result<(), TrainingError> {
        if let Some(texts) = &self.texts {
            return texts.write(folder);
        }
        for name in TEXTS {
            let from = self.folder.as_deref().unwrap_or(Path::new("")).join(name);
            let to = folder.join(name);
            fs::copy(&from, &to).map_err(TrainingError::io("write", &to))?;
        }
        Ok(())
    }
}
