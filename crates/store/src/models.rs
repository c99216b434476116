//! What a path to a model is, and where models are.

mod detect;
mod locate;

pub use detect::{AdapterDirectory, HuggingFaceDirectory, ModelSource};
pub use locate::{list_models, locate_model};
