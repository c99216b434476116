//! What a data file is, by its name.

use std::{
    io::{BufReader, Read},
    path::Path,
};

use super::bounded::{Expanded, Lines};
use crate::{Result, StoreError};

/// How rows are written in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DataFormat {
    /// One JSON object a line (`.jsonl`, `.ndjson`).
    Jsonl,
    /// An array of objects, or an object with one array of objects (`.json`).
    Json,
    /// Comma-separated values with a header line (`.csv`).
    Csv,
    /// Tab-separated values with a header line (`.tsv`).
    Tsv,
    /// Apache Parquet (`.parquet`).
    Parquet,
    /// Plain text: the whole file is one document, in column `text` (`.txt`, `.text`, `.raw`).
    Text,
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// Zstandard (`.zst`).
    Zstd,
}

const EXTENSIONS: [(&str, DataFormat); 9] = [
    ("jsonl", DataFormat::Jsonl),
    ("ndjson", DataFormat::Jsonl),
    ("json", DataFormat::Json),
    ("csv", DataFormat::Csv),
    ("tsv", DataFormat::Tsv),
    ("parquet", DataFormat::Parquet),
    ("txt", DataFormat::Text),
    ("text", DataFormat::Text),
    ("raw", DataFormat::Text),
];

impl DataFormat {
    /// Format and compression by the extension, letter case ignored; `None` for any other file.
    pub fn of(path: &Path) -> Option<(Self, Compression)> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let (name, compression) = match name.strip_suffix(".zst") {
            Some(name) => (name, Compression::Zstd),
            None => (name.as_str(), Compression::None),
        };
        let (stem, extension) = name.rsplit_once('.')?;
        let (_, format) = EXTENSIONS.iter().find(|(known, _)| *known == extension)?;
        let readable = *format != Self::Parquet || compression == Compression::None;
        (readable && !stem.is_empty()).then_some((*format, compression))
    }

    /// The same, as an error that names what is understood.
    pub(crate) fn require(path: &Path) -> Result<(Self, Compression)> {
        Self::of(path).ok_or_else(|| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let unpack = [".gz", ".bz2", ".xz", ".zip", ".parquet.zst"].iter().any(|end| name.ends_with(end));
            StoreError::bad_file(
                path,
                if unpack { "a compression that is not read" } else { "an extension that is not known" },
                "a file in .jsonl, .json, .csv, .tsv or .txt, each also with .zst, or .parquet",
            )
        })
    }

    /// The file's name without its extensions, and without a shard number (`test-00000-of-00003` is `test`).
    pub(crate) fn stem(path: &Path) -> Option<String> {
        let (_, compression) = Self::of(path)?;
        let mut stem = path.file_name()?.to_str()?;
        if compression == Compression::Zstd {
            stem = &stem[..stem.len() - ".zst".len()];
        }
        stem.rsplit_once('.').map(|(stem, _)| stem.to_owned())
    }
}

/// Opens a file in lines for streaming, decompressed and without a byte order mark.
pub(crate) fn open(path: &Path, compression: Compression) -> Result<Box<dyn Read + Send>> {
    Ok(Box::new(Lines::new(open_whole(path, compression)?)))
}

/// The same, whose lines may be of any length.
fn open_whole(path: &Path, compression: Compression) -> Result<Box<dyn Read + Send>> {
    let file = harness_core::open_file(path).map_err(StoreError::io("open", path))?;
    let mut reader: Box<dyn Read + Send> = match compression {
        Compression::None => Box::new(BufReader::with_capacity(1 << 16, file)),
        Compression::Zstd => Box::new(Expanded::new(file).map_err(StoreError::io("decompress", path))?),
    };
    let mut start = Vec::with_capacity(3);
    reader.by_ref().take(3).read_to_end(&mut start).map_err(StoreError::io("read", path))?;
    if start == b"\xEF\xBB\xBF" {
        start.clear();
    }
    Ok(Box::new(std::io::Cursor::new(start).chain(reader)))
}

/// Reads a whole file, decompressed, as UTF-8; the error names the line of the first bad byte.
pub(crate) fn read_text(path: &Path, compression: Compression) -> Result<String> {
    let mut bytes = Vec::new();
    open_whole(path, compression)?.read_to_end(&mut bytes).map_err(StoreError::io("read", path))?;
    String::from_utf8(bytes).map_err(|error| {
        let bad = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let line = 1 + bytes[..bad].iter().filter(|&&byte| byte == b'\n').count();
        StoreError::bad_row(path, format!("line {line}"), not_utf8(bytes, bad), "text in UTF-8")
    })
}

/// Reads a whole file as UTF-8; one whose name ends in `.zst` is decompressed, a byte order mark is dropped.
///
/// # Errors
/// If it cannot be read, or is not UTF-8, naming the line.
pub fn read_text_file(path: &Path) -> Result<String> {
    let zstd = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("zst"));
    read_text(path, if zstd { Compression::Zstd } else { Compression::None })
}

/// How the byte that is not UTF-8 is described.
pub(crate) fn not_utf8(bytes: &[u8], position: usize) -> String {
    match bytes.get(position) {
        Some(byte) => format!("the byte 0x{byte:02X}, which is not UTF-8"),
        None => "a cut character at the end".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_bytes_that_become_many_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl.zst");
        let file = std::fs::File::create(&path).unwrap();
        let mut packed = zstd::Encoder::new(file, 1).unwrap();
        for _ in 0..20 {
            std::io::Write::write_all(&mut packed, &[b'\n'; 1 << 20]).unwrap();
        }
        packed.finish().unwrap();
        let error = read_text_file(&path).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("limits.expansion"), "{error}");
        std::fs::write(&path, b"\x28\xb5\x2f\xfd broken").unwrap();
        let error = read_text_file(&path).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("rows.jsonl.zst"), "{error}");
    }

    #[test]
    fn formats_by_extension() {
        let of = |name: &str| DataFormat::of(Path::new(name));
        assert_eq!(of("a/test.jsonl.zst"), Some((DataFormat::Jsonl, Compression::Zstd)));
        assert_eq!(of("TEST.CSV"), Some((DataFormat::Csv, Compression::None)));
        assert_eq!(of("x-00000-of-00001.parquet"), Some((DataFormat::Parquet, Compression::None)));
        assert_eq!(of("wiki.test.raw.zst"), Some((DataFormat::Text, Compression::Zstd)));
        for other in ["x.parquet.zst", "x.jsonl.gz", ".jsonl", "x", "x.zst"] {
            assert_eq!(of(other), None, "{other}");
        }
        let error = DataFormat::require(Path::new("x.jsonl.gz")).unwrap_err().to_string();
        assert!(error.contains("compression that is not read") && error.contains(".zst"), "{error}");
        assert_eq!(DataFormat::stem(Path::new("d/wiki.test.raw.zst")).as_deref(), Some("wiki.test"));
    }
}
