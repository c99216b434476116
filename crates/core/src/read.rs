//! How every crate reads a file that a user names.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use crate::{bytes_in_words, limit_name, limits};

/// Opens a file for reading. A device or a pipe may have no end or block for ever, so neither is opened.
///
/// # Errors
/// If it is no regular file, or cannot be opened.
pub fn open_file(path: &Path) -> io::Result<File> {
    let found = fs::metadata(path)?;
    if found.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder, expected a file"));
    }
    if !found.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file (a device, a pipe or a socket)"));
    }
    File::open(path)
}

/// Reads a whole file of at most [`Limits::file_bytes`](crate::Limits::file_bytes).
///
/// # Errors
/// If it is no regular file, is larger, or cannot be read.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    let most = limits().file_bytes;
    open_file(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let most = bytes_in_words(most);
        let message = format!("larger than {most}, the most that is read whole {}", limit_name("file_bytes"));
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

/// Reads a whole file as text.
///
/// # Errors
/// As [`read_file`]; if it is not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    let invalid = |_| io::Error::new(io::ErrorKind::InvalidData, "stream did not contain valid UTF-8");
    String::from_utf8(read_file(path)?).map_err(invalid)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn devices_and_pipes_are_no_files() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [Path::new("/dev/zero"), &pipe] {
            let error = read_text(path).unwrap_err();
            assert!(error.to_string().contains("not a regular file"), "{}: {error}", path.display());
        }
        assert!(read_text(folder.path()).unwrap_err().to_string().contains("a folder"));
        let file = folder.path().join("file");
        fs::write(&file, "text").unwrap();
        assert_eq!(read_text(&file).unwrap(), "text");
        fs::write(&file, [0xff]).unwrap();
        assert_eq!(read_text(&file).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
