//! What every run store can do.

use harness_core::{Digest, RequestKey, Response};

use crate::Result;

/// Responses by model and request; append-only. Shared by reference between threads.
pub trait RunStore: Send + Sync {
    /// The response of a model (the digest of its identity) to a request, if it is stored.
    ///
    /// # Errors
    /// If the model's records cannot be read.
    fn get(&self, model: &Digest, key: &RequestKey) -> Result<Option<Response>>;

    /// Positions of the requests that have no response, in ascending order: exactly the work left.
    ///
    /// # Errors
    /// If the model's records cannot be read.
    fn missing(&self, model: &Digest, keys: &[RequestKey]) -> Result<Vec<usize>>;

    /// Stores a response. A response that is already there is not written again.
    ///
    /// # Errors
    /// If it cannot be written (disk full, no permission): nothing stored earlier is lost, and the call may be
    /// repeated. If it holds a number that is not finite.
    fn append(&self, model: &Digest, key: &RequestKey, response: &Response) -> Result<()>;

    /// Makes everything appended so far survive a loss of power.
    ///
    /// # Errors
    /// If the system cannot promise it.
    fn flush(&self) -> Result<()>;

    /// What was read for a model, with what had to be passed over.
    ///
    /// # Errors
    /// If the model's records cannot be read.
    fn report(&self, model: &Digest) -> Result<LoadReport>;
}

/// Counts of what a store holds for one model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Distinct requests with a response.
    pub responses: usize,
    /// Segments read.
    pub segments: usize,
    /// Records that repeat a response.
    pub duplicates: usize,
    /// Records that contradict the response that holds.
    pub conflicts: usize,
    /// Whole lines that are no valid record and were passed over.
    pub damaged: usize,
    /// Segments whose last line is not whole (the writer was killed, or is writing): passed over.
    pub torn: usize,
    /// Where damage or conflicts were seen, as `file, line N`; the first ten.
    pub places: Vec<String>,
}

impl LoadReport {
    /// Whether anything was passed over or contradicts something else.
    pub fn has_losses(&self) -> bool {
        self.conflicts + self.damaged + self.torn > 0
    }
}

impl std::fmt::Display for LoadReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} responses in {} segments", self.responses, self.segments)?;
        for (count, what) in [
            (self.duplicates, "repeated"),
            (self.conflicts, "contradicting (the first holds)"),
            (self.damaged, "damaged (passed over)"),
            (self.torn, "torn at the end (passed over)"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        if !self.places.is_empty() {
            write!(f, "; see {}", self.places.join("; "))?;
        }
        Ok(())
    }
}
