//! What a decoder is: its dimensions by family, its weights in safetensors or GGUF, adapters, and the forward pass.

mod adapter;
mod bitsandbytes;
mod checkpoint;
mod config;
mod decoder;
#[cfg(feature = "cuda")]
mod device;
mod error;
mod gguf;
pub mod packed;
mod projection;
mod weights;

pub use adapter::{Adapter, AdapterConfig, AdapterLayer, LoraPair, Patterns, TargetModules, TargetRank};
pub use checkpoint::Checkpoint;
pub use config::{Architecture, DecoderConfig, Experts, GenerationDefaults, Rope, RopeScaling, read_json};
pub use decoder::{BaseModel, Decoder, KvBlock, Piece, inverse_frequencies};
pub use error::DecoderError;
pub use gguf::GgufFile;
pub use projection::Projection;
pub use weights::{ExpertWeights, LayerWeights, StoredTensors, Weights, save_safetensors};
