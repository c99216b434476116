//! Moving bytes between ranks: the one operation that everything else is made of.

use std::sync::Arc;

use crate::TrainingError;

/// Bytes on their way; sharing them costs nothing.
pub type Bytes = Arc<[u8]>;

/// A group of ranks that exchange bytes. All of them call the same operations in the same order.
pub trait Exchange: Send + Sync {
    /// The number of this rank, from 0.
    fn rank(&self) -> usize;
    /// Number of ranks.
    fn world(&self) -> usize;
    /// Gives `parts[r]` to every rank `r` and returns what every rank gave to this one, in order of rank.
    ///
    /// # Errors
    /// [`TrainingError::Peer`] if another rank is gone or has failed.
    fn all_to_all(&self, parts: Vec<Bytes>) -> Result<Vec<Bytes>, TrainingError>;
    /// Allows parts of so many bytes from now on, on all ranks; before, only small ones are taken from another process.
    ///
    /// # Errors
    /// As [`Exchange::all_to_all`].
    fn allow(&self, bytes: u64) -> Result<(), TrainingError> {
        let _ = bytes;
        Ok(())
    }
    /// Tells the other ranks that this one ends with an error; their next or present operation fails with it.
    fn abort(&self, message: &str);
    /// Another rank that is gone or has failed, and what became of it; asked without waiting.
    fn failure(&self) -> Option<(usize, String)> {
        None
    }
}

impl Exchange for Box<dyn Exchange> {
    fn rank(&self) -> usize {
        (**self).rank()
    }

    fn world(&self) -> usize {
        (**self).world()
    }

    fn all_to_all(&self, parts: Vec<Bytes>) -> Result<Vec<Bytes>, TrainingError> {
        (**self).all_to_all(parts)
    }

    fn allow(&self, bytes: u64) -> Result<(), TrainingError> {
        (**self).allow(bytes)
    }

    fn abort(&self, message: &str) {
        (**self).abort(message);
    }

    fn failure(&self) -> Option<(usize, String)> {
        (**self).failure()
    }
}

/// A group of one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Single;

impl Exchange for Single {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn all_to_all(&self, parts: Vec<Bytes>) -> Result<Vec<Bytes>, TrainingError> {
        Ok(parts)
    }

    fn abort(&self, _: &str) {}
}
