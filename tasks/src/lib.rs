//! Documents to requests to scores: declarative tasks.
//!
//! A task is a YAML file in lm-eval's form. [`Registry`] finds the files (built in, and in folders of the user),
//! [`DeclarativeTask`] turns the rows of a data set into [`harness_core::Request`]s and the responses into
//! [`harness_core::SampleScore`]s. Both steps are pure: the same definition, data and options give the same requests
//! byte for byte, and scores are a function of requests and responses alone. No model is known here beyond
//! [`PromptFormatter`], which renders a chat.

mod builtin;
mod config;
mod data;
mod declarative;
mod error;
mod fields;
mod files;
mod filter;
mod generation;
mod group;
mod keys;
mod lm_eval_config;
pub mod lm_eval_files;
mod metric;
mod native;
mod prompt;
mod registry;
mod resolved;
mod sampler;
mod score;
pub mod sizes;
mod task;
mod template;
mod wikitext;
mod yaml;

pub use config::{DatasetConfig, DeriveSplits};
pub use data::{DataSource, FileData, MemoryData};
pub use declarative::DeclarativeTask;
pub use error::{Place, TaskError};
pub use generation::postprocess_generation;
pub use group::{Aggregate, Group, Member};
pub use registry::{CheckReport, PythonNeed, Registry, Selection, TaskInfo, TaskRef, wildcard};
pub use task::{
    Answer, AnswerOutcome, BuildOptions, DocumentRequests, Gold, Limit, MetricSpec, OutputType, Prepared,
    PromptFormatter, PromptPart, PromptPiece, PromptView, Scored, Task,
};
