//! Running models: weights, tokenizers, chat templates, the decoder, scheduling, generation.

mod adapter;
mod chat;
mod config;
#[cfg(feature = "cuda")]
pub mod cuda;
mod decoder;
mod error;
mod files;
mod generate;
mod gguf;
pub mod kernels;
mod model;
mod nf4;
pub mod packed;
mod placement;
mod projection;
mod schedule;
mod tokenizer;
mod weights;

pub use adapter::{Adapter, AdapterConfig, AdapterLayer, LoraPair, Patterns, TargetModules, TargetRank};
pub use chat::{ChatContext, ChatEnding, ChatSettings, ChatTemplate, DateUse};
pub use config::{Architecture, DecoderConfig, Experts, GenerationDefaults, Rope, RopeScaling};
pub use decoder::{BaseModel, Decoder, inverse_frequencies};
pub use error::EngineError;
pub use files::ModelFiles;
pub use model::{LoadedBase, LocalModel, ModelOptions, Plan, Texts};
pub use nf4::{BlockScales, CODEBOOK, NestedScales, Nf4Tensor, Quantization, QuantizationKind, save_quantised};
pub use placement::{ComputeType, Placement};
pub use projection::Projection;
pub use schedule::Limits;
pub use tokenizer::{
    EncodedPair, PairOptions, RollingWindow, SpecialToken, TextStream, TextTokenizer, encode_pair, encode_prompt,
    rolling_windows,
};
pub use weights::{Buffer, ExpertWeights, FloatType, HostData, HostTensor, LayerWeights, StoredTensors, Weights};
