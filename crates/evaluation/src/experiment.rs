//! The experiment: `harness.toml`, and what its names mean.

mod endpoint;
mod file;
mod judge;
mod place;
mod prompt;
mod resolve;

pub use file::{CompareSection, Experiment, ModelSection, PreTokenizer, SuiteSection};
pub use judge::JudgeSection;
pub use place::syntax as syntax_error;
pub use prompt::{Day, TokenizerChoice};
pub use resolve::{Candidate, ResolvedModel};
