//! Plain text: one document a file.

use std::path::Path;

use super::{
    Row,
    format::{Compression, read_text},
};
use crate::Result;

/// The file as one row with column `text`.
pub(super) fn read(path: &Path, compression: Compression) -> Result<Row> {
    Ok(Row::from_iter([("text".to_owned(), read_text(path, compression)?.into())]))
}
