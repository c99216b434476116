//! Models behind OpenAI-compatible servers: api.openai.com, vLLM, llama.cpp, text-generation-inference, gateways.
//!
//! An [`Endpoint`] is a [`harness_core::LanguageModel`]. It keeps as many requests in flight as the server bears, asks
//! again what failed for a passing reason, counts tokens and cost, and never spends more than a [`Budget`] allows. A key
//! is read from the environment and appears in no message, identity or `Debug` output.

mod answer;
mod budget;
mod chat;
mod choice;
mod date;
mod endpoint;
mod error;
mod events;
mod job;
mod jobs;
mod key;
mod likelihood;
mod limiter;
mod load;
mod options;
mod rolling;
mod streaming;
mod transport;
mod usage;

pub use budget::Budget;
pub use chat::{chat_prompt, is_chat_prompt};
pub use endpoint::{Endpoint, EndpointStats, Served};
pub use error::HttpError;
pub use likelihood::LikelihoodApi;
pub use load::{LoadPlan, LoadResult, StreamTimes};
pub use options::{Api, EndpointOptions, EndpointSpec, OPENAI_URL, billed};
