//! Making candidates: data preparation, LoRA and full-parameter training, checkpoints.

pub mod backend;
pub mod block;
pub mod data;
mod error;
pub mod lora;
pub mod model;
pub mod optimizer;
pub mod params;
pub mod recipe;
pub mod schedule;

pub use error::TrainingError;
pub use recipe::Recipe;
