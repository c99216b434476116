//! Rows of data files.

use std::path::Path;

use harness_store::{DataLocator, DataQuery, StoreError, open_rows};

use crate::folder::{with_folder, write};

/// What a file compressed by Zstandard begins with.
const ZSTD: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

type Row = serde_json::Map<String, serde_json::Value>;

/// JSON Lines, compressed where the bytes begin so, and the other kinds of text by which rows come, where they may be
/// meant.
pub(crate) fn jsonl(bytes: &[u8]) {
    with_folder(|folder| {
        let compressed = bytes.starts_with(&ZSTD);
        let json = compressed || bytes.first().is_some_and(|first| b"{[".contains(first));
        let formats: &[&str] = if json { &["jsonl", "json"] } else { &["jsonl", "csv", "tsv", "txt"] };
        for &format in formats {
            let name = if compressed { format!("rows.{format}.zst") } else { format!("rows.{format}") };
            write(folder, &name, bytes);
            let rows = read(&folder.join(&name));
            if !compressed && format == "jsonl" {
                let packed = zstd::bulk::compress(bytes, 1).expect("compressed");
                write(folder, "packed.jsonl.zst", &packed);
                assert_eq!(read(&folder.join("packed.jsonl.zst")), rows, "compressed, the rows are others");
            }
            if let Some(rows) = rows {
                let lines: Vec<String> = rows.iter().map(|row| serde_json::to_string(row).expect("JSON")).collect();
                write(folder, "again.jsonl", lines.join("\n").as_bytes());
                assert_eq!(read(&folder.join("again.jsonl")), Some(rows), "written again, the rows are others");
            }
        }
    });
}

/// The rows of a file, of which the last can be found again; `None` if it is wrong.
fn read(path: &Path) -> Option<Vec<Row>> {
    let rows = match open_rows(path).and_then(Iterator::collect::<Result<Vec<Row>, StoreError>>) {
        Ok(rows) => rows,
        Err(error) => {
            let (text, path) = (error.to_string(), path.display().to_string());
            assert!(text.contains(&path) && error.is_usage(), "the error does not blame its file: {text}");
            return None;
        }
    };
    let query = DataQuery::new(path.display().to_string(), "test");
    let files = DataLocator::default().locate(&query).expect("the file is there");
    if let Some(last) = rows.len().checked_sub(1) {
        files.place_of(last).expect("the last row has a place");
        files.place_of(rows.len()).expect_err("no row lies behind the last");
    }
    Some(rows)
}
