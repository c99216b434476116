//! How far a download is.

/// How far a download is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Name of the file in its repository.
    pub file: &'a str,
    /// Number of the file, from 0.
    pub index: usize,
    /// Number of files that are downloaded.
    pub files: usize,
    /// Bytes of this file that have arrived.
    pub bytes: u64,
    /// Bytes of this file in all, where the hub says so.
    pub total: Option<u64>,
}
