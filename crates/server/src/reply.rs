//! Answers in OpenAI's form, whole and in pieces.

mod choice;
mod chunks;
mod logprobs;
mod whole;

pub(crate) use choice::Form;
pub(crate) use chunks::Chunks;
pub(crate) use whole::whole;
