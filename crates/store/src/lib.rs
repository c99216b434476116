//! What is on disk: data sets, models, run records, manifests and golden metrics.
//!
//! - [`dataset`]: rows of local files and where they are found;
//! - [`run`]: the append-only store of responses;
//! - [`manifest`]: what a number depends on, with hashes;
//! - [`models`]: what a path to a model is;
//! - [`golden`]: metrics that must not change unnoticed.
//!
//! Nothing here prints, reads the environment (except through constructors named `from_env`) or uses the network
//! (except [`hub`], when it is built in and called).

pub mod dataset;
mod error;
mod files;
pub mod golden;
pub mod hub;
pub mod manifest;
pub mod models;
pub mod run;

pub use harness_core::nearest;

pub use dataset::{
    DataFiles, DataFormat, DataLocator, DataQuery, Row, RowFilter, open_rows, read_rows, read_text_file,
};
pub use error::{Result, StoreError};
pub use files::{FileHashes, atomic_write, hash_file};
pub use golden::{Golden, Metrics, Regression, RegressionKind};
pub use hub::HubCache;
pub use manifest::{DataEntry, Host, Manifest, ModelEntry, RunFacts, TaskEntry};
pub use models::{AdapterDirectory, HuggingFaceDirectory, ModelSource, list_models, locate_model};
pub use run::{DiskStore, LoadReport, MemoryStore, RunStore};
