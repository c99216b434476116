//! Rows of data files, and where data sets are found.

mod bounded;
mod csv;
mod format;
mod json;
mod jsonl;
mod layout;
mod load;
mod locate;
mod parquet;
mod read_row;
mod text;

pub use format::{Compression, DataFormat, read_text_file};
pub use layout::DataSource;
pub use load::{RowFilter, open_rows, read_rows};
pub use locate::{DataFiles, DataLocator, DataQuery};

/// One row of a data set: its columns by name, in the order of the source.
pub type Row = serde_json::Map<String, serde_json::Value>;

/// Rows as they are read; the first error ends the file.
pub type Rows = Box<dyn Iterator<Item = crate::Result<Row>> + Send>;

/// What a JSON value is, for messages.
fn kind(value: &serde_json::Value) -> &'static str {
    use serde_json::Value::*;
    match value {
        Null => "null",
        Bool(_) => "true or false",
        Number(_) => "a number",
        String(_) => "a string",
        Array(_) => "an array",
        Object(_) => "an object",
    }
}
