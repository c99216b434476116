//! Writing files so that they are whole or absent, and hashing them.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use harness_core::Digest;
use serde::{Deserialize, Serialize};

use crate::{Result, StoreError};

/// [`harness_core::atomic_write`] with the path in its error.
///
/// # Errors
/// If the folder cannot be made or written; the former content is then untouched and no temporary file is left.
pub fn atomic_write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    harness_core::atomic_write(path, bytes).map_err(StoreError::io("write", path))
}

/// BLAKE3 of a file's content, streamed.
///
/// # Errors
/// If the file cannot be read.
pub fn hash_file(path: &Path) -> Result<Digest> {
    let mut file = harness_core::open_file(path).map_err(StoreError::io("open", path))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                hasher.update(&buffer[..n]);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(StoreError::io("read", path)(error)),
        }
    }
    let text = hasher.finalize().to_hex();
    text.parse().map_err(|_| StoreError::bad_file(path, "an unreadable hash", "64 hexadecimal digits"))
}

/// Hashes of files that were hashed before, kept by path, size and time of last change in one JSON file, so that
/// weights of many gigabytes are read once.
#[derive(Debug)]
pub struct FileHashes {
    file: PathBuf,
    known: Mutex<BTreeMap<String, KnownHash>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct KnownHash {
    size: u64,
    /// Nanoseconds since 1970.
    modified: u64,
    hash: Digest,
}

/// A file changed more recently than this could change again within the resolution of its time stamp.
const SETTLED: Duration = Duration::from_secs(2);

impl FileHashes {
    /// The cache in `file-hashes.json` of the given folder (the store's). An unreadable cache is an empty one: it can
    /// always be computed again.
    pub fn open(folder: &Path) -> Self {
        let file = folder.join("file-hashes.json");
        let known = harness_core::read_file(&file)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Self { file, known: Mutex::new(known) }
    }

    /// The hash of a file; read only if its size or time of change differs from the last time.
    ///
    /// # Errors
    /// If the file cannot be read. A cache that cannot be written is no error: the hash is right without it.
    pub fn hash(&self, path: &Path) -> Result<Digest> {
        let absolute = fs::canonicalize(path).map_err(StoreError::io("open", path))?;
        let metadata = fs::metadata(&absolute).map_err(StoreError::io("read", path))?;
        let modified = metadata.modified().map_err(StoreError::io("read the time of", path))?;
        let stamp = nanoseconds(modified);
        let key = absolute.to_string_lossy().into_owned();
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(entry) = known.get(&key)
            && entry.size == metadata.len()
            && entry.modified == stamp
        {
            return Ok(entry.hash);
        }
        let hash = hash_file(&absolute)?;
        if SystemTime::now().duration_since(modified).is_ok_and(|age| age >= SETTLED) {
            known.insert(key, KnownHash { size: metadata.len(), modified: stamp, hash });
            if let Ok(bytes) = serde_json::to_vec_pretty(&*known) {
                let _ = atomic_write(&self.file, bytes);
            }
        }
        Ok(hash)
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn replaces_whole_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/file.json");
        atomic_write(&path, "one").unwrap();
        atomic_write(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn failed_write_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("folder");
        fs::create_dir_all(target.join("full")).unwrap();
        let error = atomic_write(&target, "x").unwrap_err().to_string();
        assert!(error.contains("cannot write") && error.contains("folder"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");

        let below_a_file = folder.path().join("plain");
        fs::write(&below_a_file, "x").unwrap();
        let error = atomic_write(&below_a_file.join("y"), "x").unwrap_err().to_string();
        assert!(error.contains("where a folder is needed"), "{error}");
    }

    #[test]
    fn hashes_are_remembered_by_size_and_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        fs::write(&path, "abc").unwrap();
        assert_eq!(hash_file(&path).unwrap(), Digest::of("abc"));
        let settle = |seconds| {
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
        };
        settle(100);
        let cache = FileHashes::open(folder.path());
        assert_eq!(cache.hash(&path).unwrap(), Digest::of("abc"));

        // The remembered value is used: one planted in the cache comes back.
        let planted = fs::read_to_string(folder.path().join("file-hashes.json"))
            .unwrap()
            .replace(&Digest::of("abc").to_string(), &Digest::of("planted").to_string());
        fs::write(folder.path().join("file-hashes.json"), planted).unwrap();
        let cache = FileHashes::open(folder.path());
        assert_eq!(cache.hash(&path).unwrap(), Digest::of("planted"));

        fs::write(&path, "abd").unwrap();
        assert_eq!(cache.hash(&path).unwrap(), Digest::of("abd"), "a fresh time stamp is not trusted");
        settle(50);
        assert_eq!(cache.hash(&path).unwrap(), Digest::of("abd"));

        fs::write(folder.path().join("file-hashes.json"), "{broken").unwrap();
        assert_eq!(FileHashes::open(folder.path()).hash(&path).unwrap(), Digest::of("abd"));
        let missing = cache.hash(&folder.path().join("none")).unwrap_err().to_string();
        assert!(missing.contains("none") && missing.contains("cannot open"), "{missing}");
    }
}
