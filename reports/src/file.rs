//! One file.

use std::path::Path;

use crate::ReportError;

/// [`harness_core::atomic_write`] with the path in its error.
///
/// # Errors
/// [`ReportError::Write`].
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), ReportError> {
    harness_core::atomic_write(path, bytes).map_err(|source| ReportError::Write { path: path.to_owned(), source })
}
