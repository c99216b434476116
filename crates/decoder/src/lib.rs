//! What a decoder is: its dimensions by family, its weights in safetensors or GGUF, adapters, and the forward pass.

mod adapter;
mod architecture;
mod bitsandbytes;
mod block;
mod checkpoint;
mod config;
mod decoder;
#[cfg(feature = "cuda")]
mod device;
mod draw;
mod error;
mod families;
mod gguf;
mod merge;
pub mod packed;
mod projection;
mod rope;
mod routing;
mod steps;
mod support;
mod weights;

pub use adapter::{
    Adapter, AdapterConfig, AdapterLayer, ExpertPairs, Initialisation, LoraPair, Patterns, TargetModules, TargetRank,
    TokenIndices, TokenRows, TopAdditions,
};
pub use architecture::Architecture;
pub use block::{
    BlockSpec, Convolution, Experts, Groups, Latent, Norm, NormWeight, Placement, Positions, QkNorm, QueryScale,
    Rotation, Routing, Span,
};
pub use checkpoint::Checkpoint;
pub use config::{DecoderConfig, GenerationDefaults, read_json};
#[cfg(feature = "cuda")]
pub(crate) use decoder::consecutive;
pub use decoder::{BaseModel, Decoder, KvBlock, Piece, Together, inverse_frequencies, rotary_table};
pub use draw::{Draw, Seen};
pub use error::DecoderError;
pub use families::{LinearPlace, StackedExperts, linear_names};
pub use gguf::{GgufFile, GgufType, GgufValue, write_gguf, write_gguf_vocabulary};
pub use merge::merge_adapter;
pub use projection::Projection;
pub use rope::{Rope, RopeScaling};
pub use routing::{route, route_backward, sigmoid};
pub use steps::{BlockNorm, Steps, block as block_steps};
pub use support::{Support, supported};
pub use weights::{
    ConvolutionWeights, ExpertWeights, LatentWeights, LayerWeights, MoreTop, MoreWeights, StoredTensors, Weights,
    activation_of, save_safetensors,
};
