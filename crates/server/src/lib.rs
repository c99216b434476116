//! An OpenAI-compatible server over models on this machine.
//!
//! Models over one base share its weights and one engine, on a thread of its own, that admits requests while it decodes
//! others. A request waits at its engine's desk, and hears of its texts as they come. Who disconnects frees the place of
//! what was asked for. Parameters that would change an answer and are not known are refused.

mod ask;
mod desk;
mod error;
mod metrics;
mod options;
mod reply;
mod routes;
mod served;
mod server;

pub use error::ServerError;
pub use options::{ServerKey, ServerOptions};
pub use served::ServedModel;
pub use server::Server;
