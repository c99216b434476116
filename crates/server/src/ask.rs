//! Requests: from a body to what the engine is asked. What would change an answer and is not known is refused.

mod chat;
mod choosing;
mod completion;
mod fields;
mod pattern;
mod schema;
mod tokenize;

pub(crate) use chat::Chat;
pub(crate) use choosing::Choosing;
pub(crate) use completion::{Completion, PromptInput};
pub(crate) use tokenize::{Detokenize, Tokenize};
