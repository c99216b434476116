//! Making candidates: data preparation, LoRA and full-parameter training, checkpoints.

mod error;

pub use error::TrainingError;
