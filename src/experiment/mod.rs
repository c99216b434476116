//! The experiment: `harness.toml`, and what its names mean.

mod file;
mod place;
mod resolve;

pub use file::{CompareSection, Experiment, ModelSection, SuiteSection};
pub(crate) use place::syntax as syntax_error;
pub use resolve::{Candidate, ResolvedModel};
