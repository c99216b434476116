//! The run store: every answered request, kept.
//!
//! On disk, below the store's folder:
//!
//! ```text
//! responses/<digest of the model>/<number>-<process id>.jsonl
//! ```
//!
//! Each writer appends to a segment of its own, so any number of processes may write at once, on network file systems
//! too; reading is the union of all segments. A record is one line of JSON that starts with a checksum of the rest:
//!
//! ```text
//! {"sum":"<16 hex digits of BLAKE3>","v":1,"model":"…","key":"…","response":{…}}
//! ```
//!
//! **Durability.** Every record is handed to the operating system in one write before `append` returns: a process that
//! is killed loses at most the record it was writing. [`RunStore::flush`] makes all records survive a loss of power
//! (`fsync`). A torn last line and damaged lines are passed over and counted, they never hide another record.
//!
//! **Conflicts.** The same response twice is one response. If two different responses stand under one key, the first
//! in the order of segment names (then of lines) holds, and the conflict is counted.

mod disk;
mod memory;
mod record;
mod segment;
mod store;

pub use disk::DiskStore;
pub use memory::MemoryStore;
pub use store::{LoadReport, RunStore};
