//! The Hugging Face hub: its local cache, and (feature `hub`) downloading into it.

mod cache;
#[cfg(feature = "hub")]
mod client;
mod download;
mod progress;

pub use cache::{HubCache, RepoKind};
#[cfg(feature = "hub")]
pub use client::HubClient;
pub use download::download;
pub use progress::Progress;
