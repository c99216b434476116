//! How every crate writes a file: so that it is whole or absent.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// Writes a file so that whoever looks, after whatever interruption, finds either the former or the new content: a
/// temporary file in the same folder, `fsync`, rename, `fsync` of the folder. Missing folders are made.
///
/// # Errors
/// If the folder cannot be made or written; the former content is then untouched and no temporary file is left.
pub fn atomic_write(path: &Path, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    atomic_write_with(path, |error| error, |file| file.write_all(bytes.as_ref()))
}

/// As [`atomic_write`], with what `content` writes a piece at a time; `failed` turns a failure to write into the
/// caller's error.
///
/// # Errors
/// What `content` returns, or a failure to write, after which the former content is untouched.
pub fn atomic_write_with<E>(
    path: &Path,
    failed: impl Fn(io::Error) -> E,
    content: impl FnOnce(&mut BufWriter<File>) -> Result<(), E>,
) -> Result<(), E> {
    let temporary = temporary(path).map_err(&failed)?;
    let write = || {
        // What a killed process of the same number has left is written over.
        let mut file = BufWriter::new(File::create(&temporary).map_err(&failed)?);
        content(&mut file)?;
        file.flush().map_err(&failed)
    };
    if let Err(error) = write() {
        // Whether this succeeds does not matter: the first error is the one to report.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    atomic_replace(&temporary, path).map_err(failed)
}

/// A name for a temporary file in the folder of `path`, which is made if it is missing.
///
/// # Errors
/// If the path has no file name, or the folder cannot be made.
pub fn temporary(path: &Path) -> io::Result<PathBuf> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name =
        path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path has no file name"))?;
    fs::create_dir_all(folder(path))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}-{}.tmp", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
    Ok(path.with_file_name(temporary))
}

/// Puts a finished temporary file in the place of another, with the promise of [`atomic_write`].
///
/// # Errors
/// If it cannot be synced or renamed; the temporary file is then removed.
pub fn atomic_replace(temporary: &Path, path: &Path) -> io::Result<()> {
    let replaced = File::open(temporary).and_then(|file| file.sync_all()).and_then(|()| fs::rename(temporary, path));
    if let Err(error) = replaced {
        let _ = fs::remove_file(temporary);
        return Err(error);
    }
    sync_folder(path);
    Ok(())
}

/// Gives a finished folder its name, so that whoever looks finds all of it or none. The name must be free; the files in
/// the folder are as durable as they were written.
///
/// # Errors
/// If it cannot be renamed.
pub fn atomic_rename(finished: &Path, path: &Path) -> io::Result<()> {
    fs::rename(finished, path)?;
    sync_folder(path);
    Ok(())
}

/// Some file systems refuse to sync folders; a rename is then as durable as they make it.
fn sync_folder(path: &Path) {
    if let Ok(folder) = File::open(folder(path)) {
        let _ = folder.sync_all();
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_failure_in_the_middle_leaves_the_former_content_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        atomic_write(&path, "former").unwrap();
        let result = atomic_write_with(
            &path,
            |error| error.to_string(),
            |file| {
                file.write_all(&[0; 100_000]).unwrap();
                Err("no more data".to_owned())
            },
        );
        assert_eq!(result, Err("no more data".to_owned()));
        assert_eq!(fs::read_to_string(&path).unwrap(), "former");
        assert_eq!(names(folder.path()), ["weights"]);
    }

    #[test]
    fn a_finished_folder_takes_its_name_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (partial, path) = (folder.path().join("partial"), folder.path().join("checkpoint"));
        atomic_write(&partial.join("state"), "1").unwrap();
        atomic_rename(&partial, &path).unwrap();
        assert_eq!((names(folder.path()), names(&path)), (vec!["checkpoint".to_owned()], vec!["state".to_owned()]));
        assert!(atomic_rename(&partial, &path).is_err(), "there is no such folder any more");
    }
}
