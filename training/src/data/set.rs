//! A prepared data set: tokenised samples and the texts they come from, kept below a key of everything they depend on.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use harness_core::{Digest, atomic_rename};
use harness_store::{FileHashes, hash_file};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Prepared, RowCounts, Sample, Samples, TokenCounts};
use crate::{TrainingError, files::write_json};

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

impl PreparedSet {
    /// The form of prepared sets and the way they are made; sets of another one are made again.
    pub(crate) const VERSION: u32 = 2;

    /// A set of these texts, and of their samples to train on and to validate with.
    pub(crate) fn new(
        texts: Prepared,
        (train, train_tokens): (Vec<Sample>, TokenCounts),
        (validation, validation_tokens): (Vec<Sample>, TokenCounts),
        key: Digest,
    ) -> Self {
        Self {
            train: train.into(),
            validation: validation.into(),
            rows: texts.counts.clone(),
            train_tokens,
            validation_tokens,
            key,
            folder: None,
            reused: false,
            note: None,
            texts: Some(texts),
        }
    }

    /// The set in a folder if its content is whole, else the one that is made, and kept there.
    ///
    /// # Errors
    /// Those of `make`. A set that cannot be kept is no error but a note.
    pub(crate) fn kept(
        folder: Option<&Path>,
        key: Digest,
        hashes: &FileHashes,
        make: impl FnOnce() -> Result<Self, TrainingError>,
    ) -> Result<Self, TrainingError> {
        let mut note = None;
        if let Some(folder) = folder.filter(|folder| folder.exists()) {
            match Self::open(folder, key, hashes) {
                Ok(set) => {
                    // When it was last used; where that cannot be noted the set is as good.
                    let record = fs::File::options().append(true).open(folder.join(RECORD));
                    let _ = record.and_then(|file| file.set_modified(std::time::SystemTime::now()));
                    return Ok(set);
                }
                Err(why) => note = Some(format!("{}: {why}; preparing it again", folder.display())),
            }
        }
        let mut set = make()?;
        set.note = note;
        if let Some(folder) = folder {
            let kept = set.keep(folder).map_err(|error| error.to_string());
            match kept.and_then(|()| Self::open(folder, key, hashes)) {
                Ok(kept) => return Ok(Self { reused: false, note: set.note, ..kept }),
                Err(why) => set.note = Some(format!("the prepared data are not cached: {why}")),
            }
        }
        Ok(set)
    }

    /// The set in a folder; what is wrong with it, in words, if it is not whole.
    fn open(folder: &Path, key: Digest, hashes: &FileHashes) -> Result<Self, String> {
        let text =
            harness_core::read_text(&folder.join(RECORD)).map_err(|e| format!("{RECORD} cannot be read ({e})"))?;
        let record: Record = serde_json::from_str(&text).map_err(|e| format!("{RECORD} is damaged ({e})"))?;
        if record.version != Self::VERSION || record.key != key {
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
            let record = Record { version: Self::VERSION, key, rows, train_tokens, validation_tokens, files };
            write_json(&partial.join(RECORD), &json!(record))?;
            if self.note.is_some() {
                // If it is gone already, so much the better.
                let _ = fs::rename(folder, &damaged);
            }
            match atomic_rename(&partial, folder) {
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
