//! Generation in batches with a cache of keys and values: prompts are admitted while others are decoded.

mod active;
mod automaton;
mod draft;
mod filling;
mod generator;
mod listener;
mod model;
mod pattern;
mod prompt;
mod sampler;
mod source;
mod step;
#[cfg(test)]
mod tests;
mod thinking;

pub use draft::Draft;
pub(crate) use draft::Drafting;
pub(crate) use generator::{Generator, Pace};
pub(crate) use listener::{Fresh, Listener, readable, token_text};
pub(crate) use model::Model;
pub(crate) use pattern::{Pattern, Vocabulary};
pub(crate) use prompt::{Generated, Given, Prompt};
pub(crate) use source::{List, Source};
pub(crate) use thinking::ThinkEnd;
