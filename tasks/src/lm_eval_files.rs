//! The files of lm-evaluation-harness: `results_*.json` and `samples_*.jsonl`.
//!
//! [`read_runs`] reads what any lm-eval from 0.3 on wrote into a folder; [`write_run`] writes what lm-eval 0.4.13 would
//! have written for an evaluation of this program, hashes included, so that its own tools read it.

mod groups;
mod read;
mod results;
mod samples;
mod saved;
mod write;

pub use read::{read_results, read_runs, read_samples};
pub use results::{TaskOutcome, TaskResult, aggregate_group, aggregate_task};
pub use saved::{SavedGroup, SavedMetric, SavedRun, SavedSample, SavedScores, SavedTask};
pub use write::{RunDescription, sanitize_model_name, write_run};
