//! Folders in which inputs become files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

/// What stands before the name of a file, where an input is several.
const MARK: &[u8] = b"# file: ";

thread_local! {
    static FOLDER: TempDir = TempDir::new_in(scratch()).expect("a folder for inputs");
}

/// Where files are written that nobody keeps: in memory, where the system has such a folder.
pub fn scratch() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

/// Runs something in an empty folder, the same for all inputs of a thread: messages and paths do not differ from run to
/// run.
pub(crate) fn with_folder<R>(run: impl FnOnce(&Path) -> R) -> R {
    FOLDER.with(|folder| {
        for entry in fs::read_dir(folder.path()).expect("the folder of inputs").flatten() {
            let path = entry.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        run(folder.path())
    })
}

/// Writes a file with the folders above it.
pub(crate) fn write(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap_or(folder)).expect("a folder for an input");
    // A name that is a file here and a folder there is left out.
    if !path.is_dir() {
        fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// The files that an input stands for: each begins with a line `# file: NAME`; one without such a line has the name that
/// is given.
pub(crate) fn files<'a>(bytes: &'a [u8], unnamed: &'a str) -> Vec<(&'a str, &'a [u8])> {
    let mut files = vec![];
    let (mut name, mut rest) = (unnamed, bytes);
    let mut begin = rest;
    while !rest.is_empty() {
        let end = rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |end| end + 1);
        let (line, after) = rest.split_at(end);
        if let Some(next) = line.strip_prefix(MARK).and_then(plain) {
            files.push((name, &begin[..begin.len() - rest.len()]));
            (name, begin) = (next, after);
        }
        rest = after;
    }
    files.push((name, begin));
    files.retain(|(_, bytes)| !bytes.is_empty());
    files
}

/// A name that stays within the folder.
fn plain(line: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(line).ok()?.trim();
    let good = |part: &str| {
        let chars = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        chars && !part.is_empty() && !part.starts_with('.')
    };
    (name.len() <= 64 && name.split('/').count() <= 3 && name.split('/').all(good)).then_some(name)
}
