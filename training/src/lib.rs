//! Making candidates: data preparation, LoRA and full-parameter training, checkpoints.

pub mod backend;
pub mod block;
pub mod checkpoint;
pub mod data;
mod diagnostics;
mod error;
pub mod export;
mod files;
pub mod lora;
pub mod model;
pub mod optimizer;
pub mod parallel;
pub mod params;
pub mod recipe;
pub mod record;
pub mod run;
pub mod scaler;
pub mod schedule;
mod shown;
mod spikes;
pub mod telemetry;
pub mod trainer;

pub use error::TrainingError;
pub use recipe::Recipe;
pub use record::TrainingRecord;
