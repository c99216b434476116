//! Rows of a file one after the other, up to its first error.

use super::Row;
use crate::Result;

/// A file that is read row by row.
pub(super) trait ReadRow: Sized {
    /// The next row; `None` at the end.
    ///
    /// # Errors
    /// If the file cannot be read or the row is wrong.
    fn read(&mut self) -> Result<Option<Row>>;

    /// Where the row that was read last lies, e.g. `line 3`.
    fn place(&self) -> String;

    /// All rows. After an error there are none, because what follows it cannot be trusted.
    fn rows(self) -> UntilError<Self> {
        UntilError { file: self, failed: false }
    }
}

/// The rows of a file up to its end or first error.
pub(super) struct UntilError<R> {
    file: R,
    failed: bool,
}

impl<R: ReadRow> Iterator for UntilError<R> {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let row = self.file.read();
        self.failed = row.is_err();
        row.transpose()
    }
}
