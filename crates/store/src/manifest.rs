//! What a number depends on.

mod host;
mod record;

pub use host::Host;
pub use record::{DataEntry, Manifest, ModelEntry, RunFacts, TaskEntry};
