//! The work of the harness as a library: choosing a suite, loading models, asking them, gathering answers, comparing,
//! judging, importing and explaining.
//!
//! A [`Session`] holds what all of it needs: the experiment, folders, the device, someone who watches ([`events::Events`])
//! and a flag to stop. Nothing here prints, reads a command line or ends the process.

mod ask;
pub mod compare;
mod error;
pub mod evaluate;
pub mod events;
pub mod experiment;
pub mod explain;
pub mod flips;
pub mod gather;
pub mod import;
pub mod judging;
pub mod models;
mod noise;
pub mod options;
pub mod plan;
mod probe;
pub mod provenance;
pub mod record;
pub mod run;
mod session;
pub mod stored;
pub mod suite;
pub mod tables;
pub mod training;

pub use compare::{CompareOptions, Compared, compare};
pub use error::EvaluationError;
pub use explain::explain;
pub use import::import;
pub use judging::judge;
pub use options::EvaluationOptions;
pub use run::run;
pub use session::Session;
pub use suite::Suite;
