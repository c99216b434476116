//! Types every other crate speaks: documents, requests, responses, scores, models and seeds.
//!
//! No I/O and no tensors: this crate is the seam between the engine that answers requests, the tasks that
//! ask and score them, the store that keeps them and the statistics that compare them.

mod canonical;
mod chat_kwargs;
mod digest;
mod document;
mod model;
mod nearest;
mod python_json;
mod python_random;
mod request;
mod response;
mod rolling;
mod score;
mod seed;
mod split;
mod thinking;

pub use canonical::canonical_json;
pub use chat_kwargs::ChatKwargs;
pub use digest::{Digest, Hasher, ParseDigestError};
pub use document::{DocId, Document};
pub use model::{
    Capabilities, ChatMessage, ChatOptions, ChatRole, Control, LanguageModel, ModelError, ModelIdentity, ModelStats,
    PairTokens,
};
pub use nearest::{nearest, nearest_few};
pub use python_json::{PythonJson, python_float};
pub use python_random::PythonRandom;
pub use request::{Request, RequestKey, Sampling};
pub use response::{Finish, Output, Response, TopLogprob, Usage};
pub use rolling::{RollingWindow, rolling_windows};
pub use score::{MetricKey, SampleScore};
pub use seed::{Seed, StreamRng};
pub use split::{Split, split_80_10_10};
pub use thinking::{THINK_END, Thinking, opens_thinking, split_thinking};
