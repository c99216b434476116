//! The Hugging Face hub: its local cache.

mod cache;

pub use cache::{HubCache, RepoKind};
