//! Running models: tokenizers, chat templates, scheduling, generation over a decoder.

mod beside;
mod chat;
mod error;
mod files;
mod generate;
mod model;
mod placement;
mod save_gguf;
mod save_quantised;
mod schedule;
mod tokenizer;

pub use beside::copy_beside;
pub use chat::{ChatContext, ChatEnding, ChatSettings, ChatTemplate, DateUse};
pub use error::EngineError;
pub use files::ModelFiles;
pub use generate::Draft;
pub use model::{
    Ask, Asked, LoadedBase, LocalModel, ModelOptions, Plan, Prepared, PromptText, Queue, TextPiece, TextToken, Texts,
    answer_together, serve,
};
pub use placement::{ComputeType, Placement};
pub use save_gguf::save_gguf;
pub use save_quantised::save_quantised;
pub use schedule::Limits;
pub use tokenizer::{
    EncodedPair, PairOptions, RollingWindow, SpecialToken, TextStream, TextTokenizer, encode_pair, encode_prompt,
    rolling_windows,
};
