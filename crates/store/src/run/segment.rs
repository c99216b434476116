//! One segment: a file that one writer appends to and everybody may read.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use harness_core::Hasher;

use crate::{Result, StoreError};

const EXTENSION: &str = ".jsonl";

/// Names of the segments in a folder, sorted; none if the folder does not exist.
pub(super) fn list(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io("list", folder)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(StoreError::io("list", folder))?.file_name();
        if let Some(name) = name.to_str()
            && name.ends_with(EXTENSION)
            && !name.starts_with('.')
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// How far a segment has been read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReadState {
    /// Bytes of whole lines read.
    pub(super) offset: u64,
    /// Whole lines read.
    pub(super) lines: usize,
    /// Whether something without a line end follows.
    pub(super) torn: bool,
}

/// Hands over the whole lines that come after the state, with their numbers from 1, and moves the state.
pub(super) fn read_from(path: &Path, state: &mut ReadState, mut line: impl FnMut(usize, &[u8])) -> Result<()> {
    let mut file = harness_core::open_file(path).map_err(StoreError::io("open", path))?;
    file.seek(SeekFrom::Start(state.offset)).map_err(StoreError::io("read", path))?;
    let mut reader = BufReader::with_capacity(1 << 17, file);
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        let read = reader.read_until(b'\n', &mut buffer).map_err(StoreError::io("read", path))?;
        state.torn = read > 0 && buffer.last() != Some(&b'\n');
        if read == 0 || state.torn {
            return Ok(());
        }
        state.offset += read as u64;
        state.lines += 1;
        line(state.lines, &buffer[..read - 1]);
    }
}

/// The open segment of a writer.
#[derive(Debug)]
pub(super) struct SegmentWriter {
    file: File,
    pub(super) path: PathBuf,
    pub(super) name: String,
    /// Bytes of whole records.
    pub(super) len: u64,
    /// A failed write may have left part of a record behind that could not be taken back.
    pub(super) spoilt: bool,
}

impl SegmentWriter {
    /// Starts a segment whose name comes after all that are there and is not used on any other machine either.
    pub(super) fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(StoreError::io("make the folder", folder))?;
        let last = list(folder)?.iter().filter_map(|name| name.split('-').next()?.parse::<u64>().ok()).max();
        let mut number = last.unwrap_or(0) + 1;
        loop {
            let name = format!("{number:06}-{}-{}{EXTENSION}", std::process::id(), unique());
            let path = folder.join(&name);
            match File::options().append(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Self { file, path, name, len: 0, spoilt: false }),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(StoreError::io("make the segment", &path)(error)),
            }
        }
    }

    /// Appends one record in one write; if that fails, takes back what was written of it.
    pub(super) fn append(&mut self, record: &[u8]) -> Result<()> {
        match self.file.write_all(record) {
            Ok(()) => {
                self.len += record.len() as u64;
                Ok(())
            }
            Err(error) => {
                self.spoilt = self.file.set_len(self.len).is_err();
                Err(StoreError::io("append to", &self.path)(error))
            }
        }
    }

    /// Makes the records survive a loss of power.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(StoreError::io("sync", &self.path))?;
        // Some file systems refuse to sync folders; the file's name is then as durable as they make it.
        if let Some(Ok(folder)) = self.path.parent().map(File::open) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

/// Eight hexadecimal digits that differ between machines, processes and calls, so that folders of segments from
/// several machines can be put together.
fn unique() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let mut hasher = Hasher::new("segment");
    hasher.part(fs::read("/etc/hostname").unwrap_or_default());
    hasher.part(now.to_le_bytes()).part(std::process::id().to_le_bytes());
    hasher.part(COUNTER.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    hasher.finish().to_string()[..8].to_owned()
}
