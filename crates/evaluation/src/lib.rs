//! The work of the harness as a library: choosing a suite, loading models, asking them, gathering answers, comparing,
//! judging, importing and explaining.
//!
//! A [`Session`] holds what all of it needs: the experiment, folders, the device, someone who watches ([`events::Events`])
//! and a flag to stop. Nothing here prints, reads a command line or ends the process.
//!
//! The embedded model against a candidate that is trained on the way:
//!
//! ```
//! use harness_evaluation::{CompareOptions, Session, compare, experiment::Experiment};
//! # let home = tempfile::tempdir()?;
//! let experiment = Experiment::load(Some("../../harness.toml".as_ref()))?;
//! let session = Session::new(experiment, home.path());
//! let mut options = CompareOptions::of(&session);
//! options.evaluation.tasks = vec!["tiny_arc".to_owned()];
//! let compared = compare(&session, ["base", "r8"], &options)?;
//! for row in &compared.stored.report.comparison.rows {
//!     println!("{} {}: {:?}", row.task, row.key, row.contrasts[0].verdict);
//! }
//! # assert!(compared.stored.report.comparison.rows.iter().any(|row| row.task == "tiny_arc"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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

pub use compare::{CompareOptions, Compared, compare, compare_subjects};
pub use error::EvaluationError;
pub use explain::explain;
pub use import::import;
pub use judging::judge;
pub use options::EvaluationOptions;
pub use run::run;
pub use session::Session;
pub use suite::Suite;
