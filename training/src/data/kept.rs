//! Prepared sets that are kept on disk: how large they are, and when one was last used.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::set::RECORD;
use crate::TrainingError;

/// A prepared set, or what is left of one that was never finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptSet {
    /// Its folder.
    pub folder: PathBuf,
    /// Bytes of its files.
    pub bytes: u64,
    /// When it was made or last trained on.
    pub used: SystemTime,
}

impl KeptSet {
    /// All sets in a folder of sets, those unused for longest first; none if there is no such folder.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn all(cache: &Path) -> Result<Vec<Self>, TrainingError> {
        let entries = match fs::read_dir(cache) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
            Err(error) => return Err(TrainingError::io("read", cache)(error)),
        };
        let mut sets = vec![];
        for entry in entries {
            let folder = entry.map_err(TrainingError::io("read", cache))?.path();
            if folder.is_dir() {
                sets.push(Self::of(folder)?);
            }
        }
        sets.sort_by(|a, b| a.used.cmp(&b.used).then_with(|| a.folder.cmp(&b.folder)));
        Ok(sets)
    }

    fn of(folder: PathBuf) -> Result<Self, TrainingError> {
        let failed = |error| TrainingError::io("read", &folder)(error);
        // Using a set touches its record; an unfinished one has none.
        let dated = Some(folder.join(RECORD)).filter(|record| record.is_file()).unwrap_or_else(|| folder.clone());
        let used = fs::metadata(dated).and_then(|metadata| metadata.modified()).map_err(failed)?;
        let mut bytes = 0;
        for entry in fs::read_dir(&folder).map_err(failed)? {
            bytes += entry.and_then(|entry| entry.metadata()).map_err(failed)?.len();
        }
        Ok(Self { folder, bytes, used })
    }

    /// Removes it. A run that has it mapped goes on.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(&self) -> Result<(), TrainingError> {
        fs::remove_dir_all(&self.folder).map_err(TrainingError::io("remove", &self.folder))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn sets_are_listed_by_their_last_use_and_can_be_removed() {
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(KeptSet::all(&cache.path().join("none")).unwrap(), []);
        let epoch = SystemTime::UNIX_EPOCH;
        for (name, days, size) in [("new", 20, 5), ("old", 3, 7)] {
            let folder = cache.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("train.bin"), vec![0; size]).unwrap();
            let record = fs::File::create(folder.join(RECORD)).unwrap();
            record.set_modified(epoch + Duration::from_secs(days * 86_400)).unwrap();
        }
        let sets = KeptSet::all(cache.path()).unwrap();
        let told = |set: &KeptSet| (set.bytes, set.used.duration_since(epoch).unwrap().as_secs() / 86_400);
        assert_eq!(sets.iter().map(told).collect::<Vec<_>>(), [(7, 3), (5, 20)]);
        sets[0].remove().unwrap();
        assert_eq!(KeptSet::all(cache.path()).unwrap(), sets[1..]);
    }
}
