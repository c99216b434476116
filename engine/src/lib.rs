//! Running models: weights, tokenizers, chat templates, the decoder, scheduling, generation.

mod adapter;
mod chat;
mod config;
mod error;
mod files;
mod tokenizer;
mod weights;

pub use adapter::{Adapter, AdapterLayer, LoraPair, Projection};
pub use chat::ChatTemplate;
pub use config::{Architecture, DecoderConfig, GenerationDefaults, Rope, RopeScaling};
pub use error::EngineError;
pub use files::ModelFiles;
pub use tokenizer::{SpecialToken, TextTokenizer};
pub use weights::{Buffer, HostData, HostTensor, LayerWeights, Weights};
