//! `harness` answers one question for people who fine-tune language models: is the candidate really better than the
//! base, on what, by how much, and can that answer be trusted?
//!
//! This package is the command line ([`cli`], [`commands`]) and a facade over the crates that do the
//! work, for those who use them as a library.

pub mod cli;
pub mod commands;
mod failure;
mod options;

pub use failure::Failure;
pub use harness_core as core;
pub use harness_engine as engine;
pub use harness_evaluation as evaluation;
pub use harness_http as http;
pub use harness_judges as judges;
pub use harness_metrics as metrics;
pub use harness_reports as reports;
pub use harness_store as store;
pub use harness_tasks as tasks;
pub use harness_training as training;
